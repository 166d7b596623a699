"""A decoder small enough to train in a test, and scenes whose features tell what is where."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from frozenseg.decoder import DecoderConfig, MaskDecoder
from frozenseg.training import StepReport
from frozenseg.types import EncoderFeatures, FeatureKey, PanopticTarget, TextEmbeddings, TrainingBatch

NUM_CATEGORIES, SIZE = 4, 64
CONFIG = DecoderConfig(
    clip_channels=(16, 16, 16, 16), embedding_dim=16, sam_channels=16, hidden_dim=64, mask_dim=64, num_queries=12,
    num_heads=4, num_layers=3, feedforward_dim=64, pixel_decoder_layers=1, pixel_decoder_feedforward_dim=64,
    query_injector_layers=(2,), feature_injector_layers=(0,),
)  # fmt: skip


def make_decoder(seed: int = 0) -> MaskDecoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MaskDecoder(CONFIG)


def make_text() -> TextEmbeddings:
    rows = F.normalize(torch.randn(NUM_CATEGORIES, 16, generator=torch.Generator().manual_seed(7)), dim=1)
    return TextEmbeddings(rows=rows, row_category=torch.arange(NUM_CATEGORIES))


def make_batch(image_ids: tuple[str, ...], epoch: int = 0, is_padding: tuple[bool, ...] = ()) -> TrainingBatch:
    """Scene i (the number at the end of its id): four vertical stripes of categories, shifted by i. The features are
    the text row of the category at each place, with noise."""
    text = make_text().rows
    labels = torch.stack([_labels(int(image_id.rsplit("-", 1)[-1])) for image_id in image_ids])
    generator = torch.Generator().manual_seed(sum(int(i.rsplit("-", 1)[-1]) for i in image_ids))
    full = text[labels].permute(0, 3, 1, 2)

    def level(size: int) -> Tensor:
        small = F.interpolate(full, size=(size, size), mode="nearest")
        return small + 0.1 * torch.randn(small.shape, generator=generator)

    features = EncoderFeatures(
        clip_pyramid=(level(16), level(8), level(4), level(2)),
        clip_dense=level(2),
        sam=level(8),
        source=FeatureKey(clip="test", sam="test", weights_hash=""),
    )
    padding = is_padding or (False,) * len(image_ids)
    used = tuple(image_id for image_id, skip in zip(image_ids, padding, strict=True) if not skip)
    return TrainingBatch(
        image_ids=image_ids,
        features=features,
        targets=tuple(_target(label) for label in labels),
        is_padding=is_padding,
        consumed={epoch: used},
    )


def make_batches(
    num_scenes: int = 4, batch_size: int = 2, first: int = 0, rank: int = 0, world_size: int = 1
) -> Iterator[TrainingBatch]:
    """Scenes in order, epoch after epoch; `first` scenes of the whole run are left out."""
    position = first
    while True:
        epoch, start = divmod(position, num_scenes)
        own = range(start + rank * batch_size, start + (rank + 1) * batch_size)
        yield make_batch(tuple(f"scene-{number % num_scenes}" for number in own), epoch)
        position += batch_size * world_size


def _labels(shift: int) -> Tensor:
    columns = (torch.arange(SIZE) + 8 * shift) // (SIZE // 4) % NUM_CATEGORIES
    return columns.expand(SIZE, SIZE)


def _target(labels: Tensor) -> PanopticTarget:
    masks = torch.stack([labels == category for category in range(NUM_CATEGORIES)])
    return PanopticTarget(
        masks=masks, category_ids=torch.arange(NUM_CATEGORIES), is_thing=torch.ones(NUM_CATEGORIES, dtype=torch.bool)
    )


class Recorder:
    """A hook that keeps the reports."""

    def __init__(self) -> None:
        self.reports: list[StepReport] = []
        self.is_closed = False

    def on_step(self, report: StepReport) -> None:
        self.reports.append(report)

    def close(self) -> None:
        self.is_closed = True

    @property
    def losses(self) -> list[float]:
        return [report.total for report in self.reports]
