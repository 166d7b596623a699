"""The metrics of one evaluation: those that the truth of the data set allows, with a state that JSON can hold."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Any, Literal

from torch import Tensor

from frozenseg.data.dataset import InstanceData, InstanceTruth, Task
from frozenseg.evaluation import (
    AveragePrecision,
    DetectedInstance,
    ImageInstances,
    Interval,
    PanopticQuality,
    ProposalRecall,
    Rle,
    SemanticIoU,
    TrueInstance,
    semantic_labels,
)
from frozenseg.evaluation.instance_files import PrecisionMetric, precision_metric
from frozenseg.inference.prediction import Prediction
from frozenseg.types import Instances, PanopticAnnotation, SegmentationOutput, Vocabulary

Group = Literal["all", "seen", "unseen"]
GROUPS: tuple[Group, ...] = ("all", "seen", "unseen")
CURVE_THRESHOLDS = tuple(number / 40 for number in range(20, 40))
"""IoU 0.5 to 0.975."""


class Results:
    """What a prediction says of its image, each kind computed once, with its tensors on the CPU."""

    def __init__(self, prediction: Prediction) -> None:
        self._prediction = prediction

    @cached_property
    def panoptic(self) -> SegmentationOutput:
        output = self._prediction.panoptic()
        return dataclasses.replace(output, segment_ids=output.segment_ids.cpu())

    @cached_property
    def semantic(self) -> Tensor:
        """[h,w] contiguous category of each pixel."""
        return self._prediction.semantic().cpu()

    @cached_property
    def instances(self) -> Instances:
        found = self._prediction.instances()
        return Instances(masks=found.masks.cpu(), category_ids=found.category_ids.cpu(), scores=found.scores.cpu())

    @cached_property
    def proposals(self) -> Tensor:
        """[Q,h,w] bool."""
        return self._prediction.proposals().cpu()


class Metrics:
    """PQ, mIoU, AP and proposal recall of panoptic truth; mIoU and recall of semantic truth; AP, by the protocol of the
    data set, of instances.

    Args:
        data: the data set, where its truth are instances.
    """

    def __init__(self, vocabulary: Vocabulary, seen: Any, task: Task, data: InstanceData | None = None) -> None:
        self.panoptic = PanopticQuality(vocabulary, seen) if task is Task.PANOPTIC else None
        self.semantic = None if task is Task.INSTANCES else SemanticIoU(vocabulary, seen)
        self.proposals = None if task is Task.INSTANCES else ProposalRecall(vocabulary, seen)
        self.instances: PrecisionMetric | None = None
        if task is Task.PANOPTIC:
            self.instances = AveragePrecision(vocabulary, seen)
        elif data is not None:
            self.instances = precision_metric(data, seen, vocabulary=vocabulary)

    def update(
        self, results: Results, truth: PanopticAnnotation, image_id: str, objects: InstanceTruth | None = None
    ) -> None:
        """Counts one image; `objects` are its truth where that are instances."""
        if self.panoptic:
            self.panoptic.update(results.panoptic, truth, image_id)
        if self.semantic and self.proposals:
            labels = semantic_labels(truth)
            self.semantic.update(results.semantic, labels, image_id)
            self.proposals.update(results.proposals, labels, image_id)
        if self.instances and objects is not None:
            self.instances.update_instances(results.instances, objects)
        elif self.instances:
            self.instances.update(results.instances, truth, image_id)

    def state(self) -> dict[str, Any]:
        counted: dict[str, Any] = {name: metric.state() for name, metric in self._counting()}
        if self.instances:
            counted["instances"] = [dataclasses.asdict(image) for image in self.instances.state()]
        return counted

    def load_state(self, state: dict[str, Any]) -> None:
        for name, metric in self._counting():
            metric.load_state(state[name])
        if self.instances:
            self.instances.load_state([_image_from_json(image) for image in state["instances"]])

    def _counting(self) -> list[tuple[str, PanopticQuality | SemanticIoU | ProposalRecall]]:
        pairs = (("panoptic", self.panoptic), ("semantic", self.semantic), ("proposals", self.proposals))
        return [(name, metric) for name, metric in pairs if metric is not None]

    def intervals(self, seed: int) -> dict[str, dict[Group, Interval]]:
        """95 % bootstrap intervals over images: metric -> group -> interval; of AP by COCO's protocol only, the others
        state the value alone."""
        found: dict[str, dict[Group, Interval]] = {}
        if self.panoptic:
            found["PQ"] = {group: self.panoptic.interval(group, seed=seed) for group in GROUPS}
        if self.semantic:
            found["mIoU"] = {group: self.semantic.interval(group, seed=seed) for group in GROUPS}
        if isinstance(self.instances, AveragePrecision):
            # Every draw ranks all detections anew: minutes per group on thousands of images.
            num_draws = 200 if len(self.instances.images) <= 1000 else 50
            found["AP"] = {g: self.instances.interval(g, seed=seed, num_resamples=num_draws) for g in GROUPS}
        elif self.instances:
            scores = self.instances.compute()
            values = {"all": scores.ap, "seen": scores.ap_seen, "unseen": scores.ap_unseen}
            found["AP"] = {group: _value_only(values[group]) for group in GROUPS}
        if self.proposals:
            found["proposal recall @ 0.5"] = {group: self.proposals.interval(group, seed=seed) for group in GROUPS}
        return found

    def scores(self) -> dict[str, Any]:
        """Everything the metrics say, as plain data."""
        pairs = (*self._counting(), *([("instances", self.instances)] if self.instances else []))
        return {name: dataclasses.asdict(metric.compute()) for name, metric in pairs}

    def recall_curves(self) -> dict[str, dict[str, list[float]]]:
        """Recall of mask proposals over a fine grid of IoU, for seen and unseen categories."""
        if not self.proposals:
            return {}
        found = self.proposals.compute(CURVE_THRESHOLDS)
        groups = (("all", found.all), ("seen", found.seen), ("unseen", found.unseen))
        return {
            name: {"thresholds": list(recall.thresholds), "recall": list(recall.recall)}
            for name, recall in groups
            if recall is not None
        }

    def num_images(self) -> int:
        metric = self.semantic or self.instances
        return metric.compute().num_images if metric else 0


def _value_only(value: float | None) -> Interval:
    return Interval(value=float("nan") if value is None else value, low=float("nan"), high=float("nan"))


def _image_from_json(record: dict[str, Any]) -> ImageInstances:
    def rle(mask: dict[str, Any] | None) -> Rle | None:
        return None if mask is None else Rle(**{**mask, "size": tuple(mask["size"])})

    def restored(entry: dict[str, Any]) -> dict[str, Any]:
        return {**entry, "mask": rle(entry["mask"]), "box": tuple(entry["box"])}

    truth = record["truth"]
    return ImageInstances(
        truth=InstanceTruth(
            image_id=truth["image_id"],
            size=tuple(truth["size"]),
            objects=tuple(TrueInstance(**restored(entry)) for entry in truth["objects"]),
            void=rle(truth["void"]),
            absent=tuple(truth["absent"]),
            incomplete=tuple(truth["incomplete"]),
        ),
        detections=tuple(DetectedInstance(**restored(entry)) for entry in record["detections"]),
    )
