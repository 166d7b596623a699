"""Predicting a list of pictures: batches, tiles for large ones, one result of the wanted kind per picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from frozenseg.errors import UserInputError
from frozenseg.inference.files import result_names
from frozenseg.inference.instance_tiles import merge_instances
from frozenseg.inference.options import InferenceOptions
from frozenseg.inference.prediction import Prediction
from frozenseg.inference.segmenter import Segmenter, read_image
from frozenseg.inference.tiles import merge_panoptic, merge_semantic, plan_tiles
from frozenseg.types import ImageSample, Instances, SegmentationOutput, Vocabulary

Task = Literal["panoptic", "semantic", "instance"]
Result = SegmentationOutput | Instances | Tensor
"""Of the tasks panoptic, instance and semantic ([h,w] int64 labels, -1 for none of these)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """How a list of pictures is predicted.

    Fields: task; min_score: what scores less becomes void; batch_size; tile_above: pictures with a longer side in
    pixels are tiled; tile_size, tile_overlap: in pixels; options: of inference, the segmenter's own when None.
    """

    task: Task = "panoptic"
    min_score: float = 0.0
    batch_size: int = 1
    tile_above: int = 4096
    tile_size: int = 2048
    tile_overlap: int = 512
    options: InferenceOptions | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NamedResult:
    """One picture with its result; `name` is unique within the run."""

    name: str
    path: Path
    image: Tensor
    result: Result


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadablePicture:
    """A file that is no picture, and in which way."""

    path: Path
    reason: str


def predict_files(
    segmenter: Segmenter, paths: Sequence[Path], vocabulary: Vocabulary, settings: RunSettings
) -> Iterator[NamedResult | UnreadablePicture]:
    """Results in the order of the paths, batch by batch, a batch's unreadable files first: they cost the others
    nothing."""
    names = result_names(paths)
    for start in range(0, len(paths), settings.batch_size):
        chunk, samples = [], []
        for i in range(start, min(start + settings.batch_size, len(paths))):
            try:
                samples.append(read_image(paths[i]))
            except UserInputError as error:
                yield UnreadablePicture(path=paths[i], reason=str(error))
            else:
                chunk.append((names[i], paths[i]))
        for (name, path), sample, result in zip(
            chunk, samples, predict_samples(segmenter, samples, vocabulary, settings), strict=True
        ):
            yield NamedResult(name=name, path=path, image=sample.image, result=result)


def predict_samples(
    segmenter: Segmenter, samples: Sequence[ImageSample], vocabulary: Vocabulary, settings: RunSettings
) -> list[Result]:
    """One result per image: small ones together, large ones in tiles."""
    large = [max(sample.original_size) > settings.tile_above for sample in samples]
    small = [sample for sample, is_large in zip(samples, large, strict=True) if not is_large]
    predictions = segmenter.predict_batch(small, vocabulary, settings.options) if small else []
    simple = iter([read_result(prediction, settings) for prediction in predictions])
    return [
        _tiled(segmenter, sample, vocabulary, settings) if is_large else next(simple)
        for sample, is_large in zip(samples, large, strict=True)
    ]


def read_result(prediction: Prediction, settings: RunSettings) -> Result:
    """The kind of result that the settings ask for."""
    match settings.task:
        case "panoptic":
            return prediction.panoptic(settings.min_score)
        case "semantic":
            return prediction.semantic(settings.min_score)
        case "instance":
            return prediction.instances(settings.min_score)


def _tiled(segmenter: Segmenter, sample: ImageSample, vocabulary: Vocabulary, settings: RunSettings) -> Result:
    size = sample.original_size
    tiles = plan_tiles(size, settings.tile_size, settings.tile_overlap)
    panoptic: list[SegmentationOutput] = []
    labels: list[Tensor] = []
    instances: list[Instances] = []
    for tile in tiles:
        part = read_result(segmenter(tile.crop(sample.image), vocabulary, settings.options), settings)
        match part:
            case SegmentationOutput():
                panoptic.append(part)
            case Instances():
                instances.append(part)
            case Tensor():
                labels.append(part)
    if panoptic:
        return merge_panoptic(size, tiles, panoptic)
    if instances:
        return merge_instances(size, tiles, instances, (settings.options or segmenter.options).top_k)
    return merge_semantic(size, tiles, labels)
