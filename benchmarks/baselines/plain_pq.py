"""Panoptic quality of COCO files, written straight down from the published algorithm: the baseline of benchmarks/pq.py.

Per image: read both PNGs, number every pixel R + 256 G + 65536 B, find predicted areas and pairwise overlaps with
`np.unique`, then walk over the pairs in Python. Equal to the reference answers (tests/evaluation/test_plain_pq.py).
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PAIR = 256**3


def read_ids(path: Path) -> np.ndarray:
    """[h,w] int64 segment ids."""
    pixels = np.array(Image.open(path).convert("RGB"), dtype=np.int64)
    return pixels[:, :, 0] + 256 * pixels[:, :, 1] + 256 * 256 * pixels[:, :, 2]


def count_image(
    truth: np.ndarray, predicted: np.ndarray, true_segments: list[Any], predicted_segments: list[Any], counts: Any
) -> None:
    """Adds one image to counts[category] = [IoU sum, matches, false positives, false negatives]."""
    true_by_id = {segment["id"]: segment for segment in true_segments}
    predicted_by_id = {segment["id"]: segment for segment in predicted_segments}
    true_areas = dict(zip(*(a.tolist() for a in np.unique(truth, return_counts=True)), strict=True))
    predicted_areas = dict(zip(*(a.tolist() for a in np.unique(predicted, return_counts=True)), strict=True))
    pairs, pixels = np.unique(truth * PAIR + predicted, return_counts=True)
    overlap = {(pair // PAIR, pair % PAIR): n for pair, n in zip(pairs.tolist(), pixels.tolist(), strict=True)}

    matched_true, matched_predicted = set(), set()
    for (true_id, predicted_id), inside in overlap.items():
        if true_id not in true_by_id or predicted_id not in predicted_by_id:
            continue
        segment = true_by_id[true_id]
        category = segment["category_id"]
        if segment.get("iscrowd") or category != predicted_by_id[predicted_id]["category_id"]:
            continue
        on_void = overlap.get((0, predicted_id), 0)
        iou = inside / (true_areas[true_id] + predicted_areas[predicted_id] - inside - on_void)
        if iou > 0.5:
            counts[category][0] += iou
            counts[category][1] += 1
            matched_true.add(true_id)
            matched_predicted.add(predicted_id)

    crowds = {}
    for true_id, segment in true_by_id.items():
        if segment.get("iscrowd"):
            crowds[segment["category_id"]] = true_id
        elif true_id not in matched_true:
            counts[segment["category_id"]][3] += 1
    for predicted_id, segment in predicted_by_id.items():
        if predicted_id in matched_predicted:
            continue
        harmless = overlap.get((0, predicted_id), 0)
        if segment["category_id"] in crowds:
            harmless += overlap.get((crowds[segment["category_id"]], predicted_id), 0)
        if harmless / predicted_areas[predicted_id] <= 0.5:
            counts[segment["category_id"]][2] += 1


def score(truth_json: Path, truth_dir: Path, predictions_json: Path, predictions_dir: Path) -> dict[str, float]:
    """{"pq", "sq", "rq", "n"} over all categories that occur."""
    truth = json.loads(truth_json.read_text())
    predictions = {entry["image_id"]: entry for entry in json.loads(predictions_json.read_text())["annotations"]}
    counts: dict[int, list[float]] = defaultdict(lambda: [0.0, 0, 0, 0])
    for entry in truth["annotations"]:
        predicted = predictions[entry["image_id"]]
        count_image(
            read_ids(truth_dir / entry["file_name"]),
            read_ids(predictions_dir / predicted["file_name"]),
            entry["segments_info"],
            predicted["segments_info"],
            counts,
        )
    pq = sq = rq = 0.0
    number = 0
    for category in truth["categories"]:
        iou, tp, fp, fn = counts[category["id"]]
        if tp + fp + fn == 0:
            continue
        number += 1
        pq += iou / (tp + 0.5 * fp + 0.5 * fn)
        sq += iou / tp if tp else 0.0
        rq += tp / (tp + 0.5 * fp + 0.5 * fn)
    return {"pq": pq / number, "sq": sq / number, "rq": rq / number, "n": number}
