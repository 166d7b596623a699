"""Average precision by the LVIS protocol, computed by hotcoco: federated truth, 300 detections an image, and rare,
common and frequent categories apart.

Source: Gupta et al., "LVIS", section 3: a detection counts only where its category was annotated in the image or
verified to be absent; where a category isn't annotated exhaustively, unmatched detections are ignored.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hotcoco import COCO, LVISeval, LVISResults

from frozenseg.data.dataset import Frequency
from frozenseg.errors import UserInputError
from frozenseg.evaluation.counts import Float, mean_of_known
from frozenseg.evaluation.instances import InstanceMetric, mask_of
from frozenseg.types import Vocabulary

MAX_DETECTIONS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class LvisScores:
    """LVIS's numbers, in [0,1]; nan where the truth holds no object of the kind. ap is the mean over IoU 0.50 to 0.95;
    ap_rare, ap_common and ap_frequent are over the categories of that frequency; ar300 is the recall."""

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ap_rare: float
    ap_common: float
    ap_frequent: float
    ar300: float
    ap_seen: float | None
    ap_unseen: float | None
    ap_per_category: tuple[tuple[str, float], ...]
    num_images: int


class LvisPrecision(InstanceMetric):
    """Incremental, mergeable AP of masks by the LVIS protocol.

    Args:
        vocabulary: names the contiguous ids.
        frequencies: of each category of the vocabulary.
        seen: [K] bool, categories of the training vocabulary.

    Raises:
        UserInputError: not one frequency per category.
    """

    def __init__(self, vocabulary: Vocabulary, frequencies: Sequence[Frequency], seen: Any = None) -> None:
        super().__init__(vocabulary, seen)
        if len(frequencies) != len(vocabulary):
            raise UserInputError(
                f"LVIS average precision: expected the frequency of each of {len(vocabulary)} categories, "
                f"found {len(frequencies)}"
            )
        self.frequencies = tuple(frequencies)

    def compute(self) -> LvisScores:
        """The scores of all images so far."""
        per_category, numbers = self._evaluated()
        seen = None if self.seen is None else float(mean_of_known(per_category[self.seen]))
        unseen = None if self.seen is None else float(mean_of_known(per_category[~self.seen]))
        names = [category.name for category in self.vocabulary.categories]
        return LvisScores(
            ap=numbers["AP"],
            ap50=numbers["AP50"],
            ap75=numbers["AP75"],
            ap_small=numbers["APs"],
            ap_medium=numbers["APm"],
            ap_large=numbers["APl"],
            ap_rare=numbers["APr"],
            ap_common=numbers["APc"],
            ap_frequent=numbers["APf"],
            ar300=numbers[f"AR@{MAX_DETECTIONS}"],
            ap_seen=seen,
            ap_unseen=unseen,
            ap_per_category=tuple(zip(names, per_category.tolist(), strict=True)),
            num_images=len(self.images),
        )

    def _evaluated(self) -> tuple[Float, dict[str, float]]:
        """AP per category [K], and the protocol's numbers; nan for what has no truth."""
        images = self.ordered()
        truth: dict[str, Any] = {
            "images": [
                {
                    "id": number,
                    "height": image.truth.size[0],
                    "width": image.truth.size[1],
                    "neg_category_ids": [category + 1 for category in image.truth.absent],
                    "not_exhaustive_category_ids": [category + 1 for category in image.truth.incomplete],
                }
                for number, image in enumerate(images, start=1)
            ],
            "categories": [
                {"id": number, "name": category.name, "frequency": frequency.value}
                for number, (category, frequency) in enumerate(
                    zip(self.vocabulary.categories, self.frequencies, strict=True), start=1
                )
            ],
            "annotations": [],
        }
        detections: list[dict[str, Any]] = []
        for number, image in enumerate(images, start=1):
            for one in image.truth.objects:
                rle = mask_of(one.mask).as_coco()
                truth["annotations"].append(
                    {
                        "id": len(truth["annotations"]) + 1,
                        "image_id": number,
                        "category_id": one.category_id + 1,
                        "segmentation": {**rle, "counts": rle["counts"].decode()},
                        "area": one.area,
                        "bbox": list(one.box),
                        "iscrowd": 0,
                    }
                )
            for found in image.detections:
                rle = mask_of(found.mask).as_coco()
                detections.append(
                    {
                        "image_id": number,
                        "category_id": found.category_id + 1,
                        "segmentation": {**rle, "counts": rle["counts"].decode()},
                        "score": found.score,
                    }
                )
        num_categories = len(self.vocabulary)
        if not truth["annotations"] or not detections:
            present = {one.category_id for image in images for one in image.truth.objects}
            per_category = np.array([0.0 if k in present else np.nan for k in range(num_categories)])
            return per_category, self._without_detections(per_category)
        gt = COCO(truth)
        evaluation = LVISeval(gt, LVISResults(gt, detections, max_dets=MAX_DETECTIONS), "segm")
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its own table
            evaluation.run()
        numbers = {name: _known(value) for name, value in evaluation.get_results().items()}
        precision = np.asarray((evaluation.eval or {})["precision"], dtype=np.float64)[:, :, :, 0, -1]
        precision[precision < 0] = np.nan
        return mean_of_known(precision.transpose(2, 0, 1).reshape(num_categories, -1)), numbers

    def _without_detections(self, per_category: Float) -> dict[str, float]:
        """0 for what the truth holds, nan for the rest; sizes are told apart by nobody here."""
        frequency = np.array([f.value for f in self.frequencies])
        of = {f"AP{f.value}": float(mean_of_known(per_category[frequency == f.value])) for f in Frequency}
        names = ("AP", "AP50", "AP75", "APs", "APm", "APl", f"AR@{MAX_DETECTIONS}")
        return {**of, **dict.fromkeys(names, float(mean_of_known(per_category)))}


def _known(value: float) -> float:
    """-1 stands for "no such object"."""
    return float(value) if value > -1 else float("nan")
