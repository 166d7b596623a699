"""A training curve as an inline SVG: the raw points faint, their running mean strong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LossPoint:
    """Total weighted loss of one optimizer step."""

    step: int
    total: float


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Mean of each value and up to `window` - 1 before it."""
    means = []
    for position in range(len(values)):
        part = values[max(0, position - window + 1) : position + 1]
        means.append(sum(part) / len(part))
    return means


def _ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers that cover [low, high]."""
    if high <= low:
        return [low]
    raw = (high - low) / count
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude >= raw)
    first = math.ceil(low / step) * step
    return [first + step * i for i in range(int((high - first) / step + 1e-9) + 1)]


def loss_curve_svg(points: Sequence[LossPoint], width: int = 760, height: int = 300) -> str:
    """SVG text; non-finite points are left out, and no point at all gives a sentence instead of a picture."""
    finite = [p for p in points if math.isfinite(p.total)]
    if not finite:
        return "<p>No training step was recorded.</p>"
    left, right, top, bottom = 52, 12, 12, 34
    last_step = max(p.step for p in finite)
    highest = max(p.total for p in finite)

    def x(step: float) -> float:
        return left + (width - left - right) * step / max(last_step, 1)

    def y(value: float) -> float:
        return height - bottom - (height - top - bottom) * value / max(highest, 1e-12)

    def path(values: Sequence[float]) -> str:
        return " ".join(
            f"{'M' if i == 0 else 'L'}{x(p.step):.1f},{y(v):.1f}"
            for i, (p, v) in enumerate(zip(finite, values, strict=True))
        )

    totals = [p.total for p in finite]
    window = max(1, len(finite) // 30)
    marks = [
        f'<line class="axis" x1="{left}" x2="{width - right}" y1="{y(t):.1f}" y2="{y(t):.1f}"/>'
        f'<text x="{left - 8}" y="{y(t) + 4:.1f}" text-anchor="end">{t:g}</text>'
        for t in _ticks(0.0, highest)
    ]
    marks += [
        f'<text x="{x(t):.1f}" y="{height - 12}" text-anchor="middle">{t:g}</text>'
        for t in _ticks(0.0, last_step)
        if x(t) < width - right - 60  # the axis' name stands at its end
    ]
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="training loss over {last_step} steps, '
        f'from {totals[0]:.1f} to {running_mean(totals, window)[-1]:.1f}">'
        f'{"".join(marks)}<path class="faint" d="{path(totals)}"/>'
        f'<path class="curve" d="{path(running_mean(totals, window))}"/>'
        f'<text x="{width - right}" y="{height - 12}" text-anchor="end">step</text></svg>'
    )
