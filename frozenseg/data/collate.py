"""Images of different sizes -> one padded batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from frozenseg.errors import UserInputError
from frozenseg.types import Batch, ImageSample, PanopticTarget, Size


def collate(samples: Sequence[ImageSample], targets: Sequence[PanopticTarget] = (), *, stride: int = 32) -> Batch:
    """Pads at the right and bottom with 0 to the largest height and width, each rounded up to a multiple of `stride`.

    Args:
        samples: at least one; images [3,h,w] uint8.
        targets: none, or one per sample with masks at the size of its image.

    Raises:
        UserInputError: no sample, or targets that don't fit the samples.
    """
    if not samples:
        raise UserInputError("a batch needs at least one image, found none")
    if targets and len(targets) != len(samples):
        raise UserInputError(f"a batch needs one target per image, found {len(targets)} for {len(samples)} images")
    sizes = [(int(s.image.shape[1]), int(s.image.shape[2])) for s in samples]
    height, width = (-(-max(size[axis] for size in sizes) // stride) * stride for axis in (0, 1))
    images = torch.zeros((len(samples), 3, height, width), dtype=torch.uint8)
    for canvas, sample, (h, w) in zip(images, samples, sizes, strict=True):
        canvas[:, :h, :w] = sample.image
    padded = tuple(
        _pad_target(target, size, (height, width), sample.image_id)
        for target, size, sample in zip(targets, sizes, samples, strict=False)
    )
    return Batch(
        image_ids=tuple(sample.image_id for sample in samples),
        images=images,
        valid_sizes=torch.tensor(sizes, dtype=torch.int64),
        targets=padded,
    )


def _pad_target(target: PanopticTarget, size: Size, padded_size: Size, image_id: str) -> PanopticTarget:
    if tuple(target.masks.shape[1:]) != size:
        raise UserInputError(
            f"image {image_id!r}: expected masks of its size {size}, found {tuple(target.masks.shape[1:])}"
        )
    if size == padded_size:
        return target
    masks = torch.zeros((target.masks.shape[0], *padded_size), dtype=torch.bool)
    masks[:, : size[0], : size[1]] = target.masks
    return PanopticTarget(masks=masks, category_ids=target.category_ids, is_thing=target.is_thing)
