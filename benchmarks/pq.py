"""PQ over a split: `frozenseg score panoptic`'s code against a plain implementation, on one core, runs interleaved.

    OMP_NUM_THREADS=1 python benchmarks/pq.py [--truth JSON --truth-dir DIR --predictions JSON --predictions-dir DIR]

Without arguments it makes a split of COCO-like scenes (640 x 480, about 20 segments of ragged shape). Prints the best
time of each and the ratio, for whole files and for the counting alone (maps already decoded).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.baselines import plain_pq
from frozenseg.data import CocoPanoptic, encode_id_map
from frozenseg.evaluation.panoptic_files import PanopticPredictions, score_panoptic_files
from frozenseg.evaluation.panoptic_quality import image_counts
from frozenseg.types import PanopticAnnotation, Segment, SegmentationOutput, TruthSegment


def make_split(root: Path, num_images: int, seed: int = 0) -> None:
    """Truth: Voronoi cells of a warped plane, with void between. Predictions: the same, shifted and partly renamed."""
    rng = np.random.default_rng(seed)
    categories = [{"id": i, "name": f"c{i}", "isthing": int(i < 80)} for i in range(1, 134)]
    truth: dict[str, list[object]] = {"images": [], "annotations": [], "categories": list(categories)}
    predictions: dict[str, list[object]] = {"annotations": []}
    (root / "truth").mkdir()
    (root / "predictions").mkdir()
    height, width = 480, 640
    y, x = np.mgrid[:height, :width]
    for number in range(num_images):
        num_segments = int(rng.integers(8, 36))
        phase = rng.uniform(0, 6, 4)
        warped_y = y + 9 * np.sin(x / 17 + phase[0]) + 4 * np.sin(x / 5 + phase[1])
        warped_x = x + 9 * np.sin(y / 15 + phase[2]) + 4 * np.sin(y / 4 + phase[3])
        centres = rng.uniform(0, 1, (num_segments, 2)) * (height, width)
        distance = [(warped_y - cy) ** 2 + (warped_x - cx) ** 2 for cy, cx in centres]
        cell = np.argmin(distance, axis=0)
        ids = rng.choice(256**3 - 1, num_segments, replace=False) + 1
        true_map = np.where(rng.random(num_segments)[cell] < 0.05, 0, ids[cell])
        predicted_map = np.roll(ids[cell], (4, 6), (0, 1))
        of_segment = rng.integers(1, 134, num_segments)
        guessed = np.where(rng.random(num_segments) < 0.2, rng.integers(1, 134, num_segments), of_segment)
        name = f"{number:06d}.png"
        for folder, id_map, category, content in (
            ("truth", true_map, of_segment, truth),
            ("predictions", predicted_map, guessed, predictions),
        ):
            (root / folder / name).write_bytes(encode_id_map(id_map))
            infos = [
                {"id": int(i), "category_id": int(c), "iscrowd": int(c < 4 and folder == "truth")}
                for i, c in zip(ids, category, strict=True)
                if (id_map == i).any()
            ]
            content["annotations"].append({"image_id": number, "file_name": name, "segments_info": infos})
        truth["images"].append({"id": number, "file_name": name, "height": height, "width": width})
    (root / "truth.json").write_text(json.dumps(truth))
    (root / "predictions.json").write_text(json.dumps(predictions))


def best_of(repeats: int, runs: list[tuple[Callable[[], object], ...]]) -> list[float]:
    """Sum over `runs` of the best processor time of each alternative, in seconds.

    The alternatives of a run are timed in turn, so that a busy machine slows all of them.
    """
    totals = [0.0] * len(runs[0])
    for alternatives in runs:
        times: list[list[float]] = [[] for _ in alternatives]
        for _ in range(repeats):
            for run, taken in zip(alternatives, times, strict=True):
                start = time.process_time()
                run()
                taken.append(time.process_time() - start)
        totals = [total + min(taken) for total, taken in zip(totals, times, strict=True)]
    return totals


def counting_runs(paths: tuple[Path, Path, Path, Path]) -> list[tuple[Callable[[], object], ...]]:
    """Both implementations for each image, on maps that are decoded already."""
    truth_json, truth_dir, predictions_json, predictions_dir = paths
    truth = json.loads(truth_json.read_text())["annotations"]
    predicted = {e["image_id"]: e for e in json.loads(predictions_json.read_text())["annotations"]}
    plain_inputs, inputs = [], []
    for entry in truth:
        other = predicted[entry["image_id"]]
        true_map = plain_pq.read_ids(truth_dir / entry["file_name"])
        predicted_map = plain_pq.read_ids(predictions_dir / other["file_name"])
        plain_inputs.append((true_map, predicted_map, entry["segments_info"], other["segments_info"]))
        inputs.append(
            (
                SegmentationOutput(
                    segment_ids=torch.from_numpy(predicted_map.astype(np.int32)),
                    segments=tuple(
                        Segment(id=s["id"], category_id=s["category_id"], is_thing=True, score=1.0, area=0)
                        for s in other["segments_info"]
                    ),
                ),
                PanopticAnnotation(
                    segment_ids=torch.from_numpy(true_map.astype(np.int32)),
                    segments=tuple(
                        TruthSegment(
                            id=s["id"],
                            category_id=s["category_id"],
                            is_thing=True,
                            is_crowd=bool(s.get("iscrowd")),
                        )
                        for s in entry["segments_info"]
                    ),
                ),
            )
        )
    num_categories = 1 + max(s["category_id"] for e in [*truth, *predicted.values()] for s in e["segments_info"])

    def pair(plain_input: Any, our_input: Any) -> tuple[Callable[[], object], ...]:
        return (
            lambda: plain_pq.count_image(*plain_input, defaultdict(lambda: [0.0, 0, 0, 0])),
            lambda: image_counts(*our_input, num_categories, ""),
        )

    return [pair(*both) for both in zip(plain_inputs, inputs, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--truth", type=Path)
    parser.add_argument("--truth-dir", type=Path)
    parser.add_argument("--predictions", type=Path)
    parser.add_argument("--predictions-dir", type=Path)
    parser.add_argument("--num-images", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if options.truth:
            paths = (options.truth, options.truth_dir, options.predictions, options.predictions_dir)
        else:
            make_split(root, options.num_images)
            paths = (root / "truth.json", root / "truth", root / "predictions.json", root / "predictions")
        truth_json, truth_dir, predictions_json, predictions_dir = paths

        def ours() -> float:
            truth = CocoPanoptic(truth_json, truth_dir, truth_dir)
            return (
                score_panoptic_files(truth, PanopticPredictions(predictions_json, predictions_dir, truth))
                .compute()
                .all.pq
            )

        plain_pq_value, our_pq_value = plain_pq.score(*paths)["pq"], ours()
        print(
            f"PQ plain {plain_pq_value!r}, ours {our_pq_value!r}, difference {abs(plain_pq_value - our_pq_value):.1e}"
        )
        for what, runs in (
            ("files to PQ", [(lambda: plain_pq.score(*paths), ours)]),
            ("counting alone", counting_runs(paths)),
        ):
            plain_time, our_time = best_of(options.repeats, runs)
            print(f"{what}: plain {plain_time:.3f} s, ours {our_time:.3f} s, ratio {plain_time / our_time:.2f}")


if __name__ == "__main__":
    main()
