"""The card of an evaluation: what was run on what, and the scores, for people (Markdown) and machines (JSON)."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from frozenseg import __version__
from pipelines.evaluation_metrics import GROUPS


def code_version() -> str:
    """The commit of the checkout that runs, with "+changes" where its files differ; the version where it is none."""
    checkout = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(checkout), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return __version__


def without_nan(value: Any) -> Any:
    """NaN, which JSON has not, as null."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and value != value else value


def card(report: dict[str, Any]) -> str:
    """The run as a page of Markdown."""
    lines = [f"# Evaluation of {Path(report['model']).name}", ""]
    if report["notice"]:
        lines += [f"**{report['notice']}**", ""]
    lines += [
        f"{report['num_images']} images, {report['num_seen_categories']} categories seen in training, "
        f"{report['num_unseen_categories']} unseen. In brackets: 95 % bootstrap intervals over images.",
        "",
        "| | all | seen | unseen |",
        "|---|---|---|---|",
    ]
    for metric, groups in report["intervals"].items():
        lines.append(f"| {metric} | " + " | ".join(_interval_text(groups[group]) for group in GROUPS) + " |")
    lines += ["", *_further(report["scores"])]
    lines += ["", *_categories(report["scores"]), "", "| run | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in report["run"].items()]
    if report["skipped"]:
        lines += ["", f"{len(report['skipped'])} samples could not be read:", ""]
        lines += [f"- {skipped['reason']}" for skipped in report["skipped"][:20]]
    return "\n".join(lines) + "\n"


def _further(scores: dict[str, Any]) -> list[str]:
    """The other numbers of each metric, one line a metric."""
    lines = []
    if "panoptic" in scores:
        groups = [(name, scores["panoptic"][name]) for name in ("all", "things", "stuff")]
        lines += [
            f"- {name}: PQ {_percent(q['pq'])}, SQ {_percent(q['sq'])}, RQ {_percent(q['rq'])}" for name, q in groups
        ]
    if "semantic" in scores:
        names = ("fwiou", "pixel_accuracy", "mean_accuracy")
        lines.append("- semantic: " + ", ".join(f"{name} {_percent(scores['semantic'][name])}" for name in names))
    if "instances" in scores:
        numbers = [(k, v) for k, v in scores["instances"].items() if isinstance(v, float)]
        lines.append("- instances: " + ", ".join(f"{name} {_percent(value)}" for name, value in numbers))
    if "proposals" in scores:
        for group in GROUPS:
            recall = scores["proposals"][group]
            if recall is not None and recall["num_regions"]:
                shares = [count / recall["num_regions"] for count in recall["recalled"]]
                pairs = zip(recall["thresholds"], shares, strict=True)
                lines.append(f"- proposal recall, {group}: " + ", ".join(f"{_percent(s)} at {t}" for t, s in pairs))
    return lines


def _categories(scores: dict[str, Any]) -> list[str]:
    """A table of every category and every metric that there is."""
    columns: list[tuple[str, dict[str, float]]] = []
    if "panoptic" in scores:
        columns.append(("PQ", {entry["name"]: entry["pq"] for entry in scores["panoptic"]["per_category"]}))
    if "semantic" in scores:
        columns.append(("IoU", {entry["name"]: entry["iou"] for entry in scores["semantic"]["per_category"]}))
    if "instances" in scores:
        columns.append(("AP", dict(scores["instances"]["ap_per_category"])))
    lines = ["| category | " + " | ".join(name for name, _ in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name in columns[0][1] if columns else ():
        lines.append(f"| {name} | " + " | ".join(_percent(values[name]) for _, values in columns) + " |")
    return lines


def _percent(value: float) -> str:
    return "–" if value != value else f"{100 * value:.1f}"


def _interval_text(interval: dict[str, float]) -> str:
    text = _percent(interval["value"])
    if text == "–" or interval["low"] != interval["low"]:
        return text
    return f"{text} [{_percent(interval['low'])}, {_percent(interval['high'])}]"
