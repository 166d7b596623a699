"""The demo's report: one self-contained HTML page (no external asset) from plain data."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.demo.loss_curve import LossPoint, loss_curve_svg


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRecord:
    """One stage of the run: the command a user would type, its wall seconds, and what went through it."""

    name: str
    command: str
    seconds: float
    items: int
    unit: str
    resumed: bool = False

    @property
    def rate(self) -> str:
        """Throughput as text, e.g. `12.5 scenes/s`; a dash where nothing was counted or all was there already."""
        if self.items <= 0 or self.seconds <= 0 or self.resumed:
            return "–"
        return f"{self.items / self.seconds:.1f} {self.unit}/s"


@dataclass(frozen=True, slots=True, kw_only=True)
class LegendEntry:
    """A category in a picture: its name, colour, and whether training annotations ever held it."""

    name: str
    color: tuple[int, int, int]
    seen: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One held-out scene four times, each an encoded PNG: image, truth, panoptic result, semantic result."""

    image_id: str
    image: bytes
    truth: bytes
    panoptic: bytes
    semantic: bytes
    legend: tuple[LegendEntry, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A score in percent with its 95 % bootstrap interval over images."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.1f} <small>[{self.low:.1f}, {self.high:.1f}]</small>"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRow:
    """One metric on one split, for the trained decoder and for the same decoder before training."""

    metric: str
    split: str
    trained: Interval
    untrained: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedPicture:
    """One image's answer from the running server: overlay PNG, milliseconds, and the names found."""

    image_id: str
    overlay: bytes
    milliseconds: float
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportData:
    """All that the page shows."""

    title: str
    warnings: tuple[str, ...]
    stages: tuple[StageRecord, ...]
    scores: tuple[ScoreRow, ...]
    pictures: tuple[Picture, ...]
    served: tuple[ServedPicture, ...]
    losses: tuple[LossPoint, ...]
    num_evaluated: int
    next_steps: tuple[str, ...]


_STYLE = Path(__file__).with_name("report.css").read_text(encoding="utf-8")


def _image(data: bytes, caption: str) -> str:
    source = base64.b64encode(data).decode()
    text = html.escape(caption)
    return f'<figure><img src="data:image/png;base64,{source}" alt="{text}"><figcaption>{text}</figcaption></figure>'


def _stages(stages: Sequence[StageRecord]) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(s.name)}<br><code>{html.escape(s.command)}</code></td>"
        f'<td class="number">{s.seconds:.1f} s{" (was there)" if s.resumed else ""}</td>'
        f'<td class="number">{html.escape(s.rate)}</td></tr>'
        for s in stages
    )
    total = sum(s.seconds for s in stages)
    return (
        '<div class="scroll"><table><tr><th>stage</th><th class="number">time</th>'
        '<th class="number">throughput</th></tr>'
        f'{rows}<tr><th>all</th><th class="number">{total:.1f} s</th><th></th></tr></table></div>'
    )


def _scores(scores: Sequence[ScoreRow], num_evaluated: int) -> str:
    rows = "".join(
        f'<tr><td>{html.escape(r.metric)}</td><td class="{"unseen" if r.split == "unseen" else ""}">'
        f'{html.escape(r.split)}</td><td class="number">{r.trained}</td><td class="number">{r.untrained}</td></tr>'
        for r in scores
    )
    return (
        f"<p>On {num_evaluated} held-out scenes, in percent, with 95 % bootstrap intervals over images. "
        "<em>Unseen</em> categories have no annotation in training: they are found by their name alone. These are the "
        "miniature world's numbers, not the paper's.</p>"
        '<div class="scroll"><table><tr><th>metric</th><th>categories</th><th class="number">trained decoder</th>'
        f'<th class="number">untrained decoder</th></tr>{rows}</table></div>'
    )


def _picture(picture: Picture) -> str:
    legend = "".join(
        f'<span class="{"" if e.seen else "unseen"}"><span class="chip" style="background: rgb{e.color}"></span>'
        f"{html.escape(e.name)}{'' if e.seen else ' (unseen)'}</span>"
        for e in picture.legend
    )
    four = "".join(
        (
            _image(picture.image, "image"),
            _image(picture.truth, "truth"),
            _image(picture.panoptic, "panoptic result"),
            _image(picture.semantic, "semantic result"),
        )
    )
    return (
        f'<section class="scene" aria-label="scene {html.escape(picture.image_id)}"><div class="four">{four}</div>'
        f'<div class="legend">{legend}</div></section>'
    )


def _served(served: Sequence[ServedPicture]) -> str:
    figures = "".join(
        _image(s.overlay, f"{s.image_id}: {', '.join(s.names) or 'nothing found'} ({s.milliseconds:.0f} ms)")
        for s in served
    )
    return f'<div class="four">{figures}</div>'


def render_report(data: ReportData) -> str:
    """The whole page as HTML text."""
    warnings = "".join(f'<div class="warning">{html.escape(w)}</div>' for w in data.warnings)
    steps = "".join(f"<li><code>{html.escape(step)}</code></li>" for step in data.next_steps)
    pictures = "".join(_picture(p) for p in data.pictures)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(data.title)}</title><style>{_STYLE}</style></head><body>
<h1>{html.escape(data.title)}</h1>
<p class="soft">A frozen miniature CLIP and SAM, a decoder trained in this run, and Ray around them: the whole path of
frozenseg at the size of a laptop.</p>{warnings}
<h2>What it learned</h2>{_scores(data.scores, data.num_evaluated)}
<h2>Held-out scenes</h2>
<p>Categories in <span class="unseen">orange</span> were never annotated in training.</p>{pictures}
<h2>Answers of the HTTP server</h2>{_served(data.served)}
<h2>Training loss</h2>{loss_curve_svg(data.losses)}
<h2>Stages</h2>{_stages(data.stages)}
<h2>What to do next</h2><ul>{steps}</ul>
</body></html>
"""
