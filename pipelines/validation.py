"""The evaluation that a run makes beside its checkpoints: a small split, scores and pictures."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from frozenseg.data import decode_annotation, decode_image
from frozenseg.data.dataset import Task
from frozenseg.errors import UserInputError
from frozenseg.inference.overlay import draw_panoptic
from frozenseg.inference.segmenter import Segmenter
from frozenseg.model import ModelSpec, build_model
from frozenseg.model.build import RandomWeightsWarning
from frozenseg.training import Writer
from pipelines.evaluation_metrics import Metrics, Results
from pipelines.train_config import TrainConfig
from shards import ShardReader


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Validation:
    """Fields: scores: by the names of `train_overrides.Score`, those that are none (no such category) left out;
    pictures: image id -> [h,w,3] uint8 RGB with the segments drawn in."""

    scores: dict[str, float]
    pictures: dict[str, NDArray[np.uint8]] = field(default_factory=dict)


class Validator:
    """The model of a run, built when first asked, with the decoder that it is given each time."""

    def __init__(self, config: TrainConfig, spec: ModelSpec, device: torch.device) -> None:
        self._config, self._spec, self._device = config, spec, device

    @functools.cached_property
    def _segmenter(self) -> Segmenter:
        with warnings.catch_warnings(action="ignore", category=RandomWeightsWarning):  # the driver has said it
            model = build_model(
                self._spec, folder=self._config.encoders_folder(), weights=self._config.weights, device=self._device
            )
        return Segmenter(model.eval())

    def __call__(self, parameters: Mapping[str, Tensor]) -> Validation:
        """Evaluates a decoder's state. Leaves torch's random state as it was: a run is the same with and without.

        Raises:
            UserInputError: a split that cannot be read, or without any category of the score to select by.
        """
        section = self._config.validation
        assert section.shards is not None
        reader = ShardReader(section.shards)
        vocabulary = reader.manifest.vocabulary
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            self._segmenter.model.decoder.load_state_dict(dict(parameters))
            metrics = Metrics(vocabulary, self._segmenter.model.seen(vocabulary), Task.PANOPTIC)
            pictures: dict[str, NDArray[np.uint8]] = {}
            for index in range(min(len(reader), section.limit)):
                sample = reader[index]
                image = decode_image(sample.image_bytes, sample.image_id, file_name=sample.file_name)
                results = Results(self._segmenter.predict_batch([image], vocabulary)[0])
                metrics.update(results, decode_annotation(sample), sample.image_id)
                if index < section.pictures:
                    drawn = draw_panoptic(image.image, results.panoptic, vocabulary, self._segmenter.notice)
                    pictures[sample.image_id] = np.asarray(drawn)
        scores = named_scores(metrics)
        if section.select is not None and section.select not in scores:
            raise UserInputError(
                f"validation.select = {section.select!r}: the first {section.limit} images of {section.shards} have no "
                f"such category; measured: {', '.join(scores) or 'nothing'}"
            )
        return Validation(scores=scores, pictures=pictures)


def named_scores(metrics: Metrics) -> dict[str, float]:
    """PQ, mIoU and AP over all, seen and unseen categories of panoptic truth; what has no category is left out."""
    assert metrics.panoptic is not None
    assert metrics.semantic is not None
    assert metrics.instances is not None
    panoptic, semantic, instances = metrics.panoptic.compute(), metrics.semantic.compute(), metrics.instances.compute()
    seen, unseen = (None if part is None else part.pq for part in (panoptic.seen, panoptic.unseen))
    found = {
        "PQ": panoptic.all.pq, "PQ-seen": seen, "PQ-unseen": unseen,
        "mIoU": semantic.miou, "mIoU-seen": semantic.miou_seen, "mIoU-unseen": semantic.miou_unseen,
        "AP": instances.ap, "AP-seen": instances.ap_seen, "AP-unseen": instances.ap_unseen,
    }  # fmt: skip
    return {name: value for name, value in found.items() if value is not None and not math.isnan(value)}


def tell(validation: Validation, step: int, writers: Sequence[Writer]) -> str:
    """Gives scores and pictures to the writers; returns the line for the log."""
    for writer in writers:
        for name, value in validation.scores.items():
            writer.add_scalar(f"validation/{name}", value, step)
        for image_id, picture in validation.pictures.items():
            writer.add_image(f"validation/{image_id}", picture, step, dataformats="HWC")
    listing = ", ".join(f"{name} {100 * value:.1f}" for name, value in validation.scores.items())
    return f"train: step {step}, validation: {listing or 'no score'}"
