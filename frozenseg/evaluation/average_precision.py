"""COCO average precision of instances, computed by pycocotools' COCOeval from results that arrive image by image."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from frozenseg.data.rle import Box, Rle, area_of
from frozenseg.errors import UserInputError
from frozenseg.evaluation.bootstrap import Interval, percentile_interval
from frozenseg.evaluation.counts import Float, mean_of_known
from frozenseg.evaluation.instances import DetectedInstance, InstanceMetric, mask_of
from frozenseg.types import Vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionScores:
    """COCO's twelve numbers, in [0,1], and AP per category; nan where the truth holds no object of the kind.

    ap is the mean over IoU 0.50 to 0.95; sizes are under 32², to 96² and above; ar is the recall with so many
    detections an image. `ap_seen` and `ap_unseen` are None unless the metric was told which categories training saw.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ar1: float
    ar10: float
    ar100: float
    ar_small: float
    ar_medium: float
    ar_large: float
    ap_seen: float | None
    ap_unseen: float | None
    ap_per_category: tuple[tuple[str, float], ...]
    num_images: int


class AveragePrecision(InstanceMetric):
    """Incremental, mergeable COCO AP.

    Args:
        vocabulary: names the contiguous ids.
        seen: [K] bool, categories of the training vocabulary.
        kind: overlap of masks ("segm") or of boxes ("bbox").
    """

    def __init__(self, vocabulary: Vocabulary, seen: Any = None, *, kind: Literal["segm", "bbox"] = "segm") -> None:
        super().__init__(vocabulary, seen)
        self.kind = kind

    def compute(self) -> PrecisionScores:
        """The scores of all images so far."""
        evaluation = self._evaluated()
        if evaluation is None:
            numbers, per_category = [float("nan")] * 12, np.full(len(self.vocabulary), np.nan)
        else:
            with contextlib.redirect_stdout(io.StringIO()):
                evaluation.accumulate()
                evaluation.summarize()
            # COCOeval says -1 for "no such object".
            numbers = [float(number) if number > -1 else float("nan") for number in evaluation.stats]
            per_category = _category_precision(evaluation)
        seen = None if self.seen is None else float(mean_of_known(per_category[self.seen]))
        unseen = None if self.seen is None else float(mean_of_known(per_category[~self.seen]))
        names = [category.name for category in self.vocabulary.categories]
        ap, ap50, ap75, ap_small, ap_medium, ap_large, ar1, ar10, ar100, ar_small, ar_medium, ar_large = numbers
        return PrecisionScores(
            ap=ap,
            ap50=ap50,
            ap75=ap75,
            ap_small=ap_small,
            ap_medium=ap_medium,
            ap_large=ap_large,
            ar1=ar1,
            ar10=ar10,
            ar100=ar100,
            ar_small=ar_small,
            ar_medium=ar_medium,
            ar_large=ar_large,
            ap_seen=seen,
            ap_unseen=unseen,
            ap_per_category=tuple(zip(names, per_category.tolist(), strict=True)),
            num_images=len(self.images),
        )

    def interval(
        self, group: Literal["all", "seen", "unseen"] = "all", *, seed: int = 0, num_resamples: int = 200
    ) -> Interval:
        """95 % bootstrap interval of the AP over images; matching is done once, only the ranking is redone."""
        if group == "all":
            members = np.ones(len(self.vocabulary), dtype=bool)
        elif self.seen is None:
            raise UserInputError(f"AP of {group} categories: expected a mask of seen ones, found none")
        else:
            members = self.seen if group == "seen" else ~self.seen
        evaluation = self._evaluated()
        if evaluation is None:
            return Interval(value=float("nan"), low=float("nan"), high=float("nan"))
        matches, num_images = evaluation.evalImgs, len(self.images)
        num_areas = len(evaluation.params.areaRng)
        # Only this number is wanted: objects of all sizes, 100 detections.
        evaluation.params.areaRng, evaluation.params.maxDets = evaluation.params.areaRng[:1], [100]
        draws = np.random.default_rng(seed).integers(num_images, size=(num_resamples, num_images))
        values = []
        with contextlib.redirect_stdout(io.StringIO()):
            for draw in [np.arange(num_images), *draws]:
                # COCOeval lays its per-image results out as [category, area range, image].
                starts = np.arange(len(self.vocabulary) * num_areas)[:, None] * num_images
                evaluation.evalImgs = [matches[index] for index in (starts + draw[None, :]).reshape(-1)]
                evaluation.accumulate()
                values.append(float(mean_of_known(_category_precision(evaluation)[members])))
        return percentile_interval(values[0], np.array(values[1:]), 0.95)

    def _evaluated(self) -> COCOeval | None:
        """COCOeval after matching, images in order of their ids; None without images."""
        images = self.ordered()
        if not images:
            return None
        frame: dict[str, Any] = {
            "images": [
                {"id": n, "height": image.truth.size[0], "width": image.truth.size[1]} for n, image in enumerate(images)
            ],
            "categories": [{"id": n, "name": c.name} for n, c in enumerate(self.vocabulary.categories)],
        }
        truth = [
            _annotation(n, one.category_id, one.mask, one.box)
            | {"area": one.area, "iscrowd": int(one.is_crowd), "ignore": int(one.is_crowd)}
            for n, image in enumerate(images)
            for one in image.truth.objects
        ]
        detections = [
            _annotation(n, one.category_id, one.mask, one.box)
            | {"area": self._area(one), "iscrowd": 0, "score": one.score}
            for n, image in enumerate(images)
            for one in image.detections
        ]
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = COCOeval(_index(frame, truth), _index(frame, detections), self.kind)
            evaluation.evaluate()
        return evaluation

    def _area(self, detection: DetectedInstance) -> float:
        if self.kind == "bbox":
            return detection.box[2] * detection.box[3]
        return area_of(mask_of(detection.mask))


def _annotation(image_number: int, category_id: int, mask: Rle | None, box: Box) -> dict[str, Any]:
    encoded = {} if mask is None else {"segmentation": mask.as_coco()}
    return {"image_id": image_number, "category_id": category_id, "bbox": list(box), **encoded}


def _index(frame: dict[str, Any], annotations: list[dict[str, Any]]) -> COCO:
    # Ids start at 1: COCOeval takes a match with annotation 0 for none.
    numbered = [annotation | {"id": number} for number, annotation in enumerate(annotations, start=1)]
    coco = COCO()
    coco.dataset = {**frame, "annotations": numbered}
    coco.createIndex()
    return coco


def _category_precision(evaluation: COCOeval) -> Float:
    """[K] AP per category over all sizes with 100 detections; nan for categories without truth."""
    precision = np.asarray(evaluation.eval["precision"], dtype=np.float64)[:, :, :, 0, -1]
    precision[precision < 0] = np.nan
    return mean_of_known(precision.transpose(2, 0, 1).reshape(precision.shape[2], -1))
