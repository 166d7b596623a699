"""Large-scale jitter, the only augmentation of the paper beside the flip: zoom far out or in, then one fixed crop.

Source: Ghiasi et al., "Simple Copy-Paste", large-scale jitter; the paper's recipe is zoom 0.1–2.0, crop 1024, flip.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from frozenseg.data.panoptic_png import positions, runs
from frozenseg.errors import UserInputError
from frozenseg.types import ImageSample, PanopticAnnotation, PanopticTarget, Size


@dataclass(frozen=True, slots=True, kw_only=True)
class JitterConfig:
    """crop_size: side of the square crop in pixels; zoom 1 is the largest size at which the image fits the crop;
    padding_value: gray level around an image smaller than the crop."""

    crop_size: int = 1024
    min_zoom: float = 0.1
    max_zoom: float = 2.0
    flip_probability: float = 0.5
    padding_value: int = 128

    def __post_init__(self) -> None:
        if self.crop_size < 1:
            raise UserInputError(f"crop_size: expected at least 1 pixel, found {self.crop_size}")
        if not 0 < self.min_zoom <= self.max_zoom:
            raise UserInputError(f"zoom: expected 0 < min_zoom <= max_zoom, found {self.min_zoom} and {self.max_zoom}")
        if not 0 <= self.flip_probability <= 1:
            raise UserInputError(f"flip_probability: expected 0 to 1, found {self.flip_probability}")
        if not 0 <= self.padding_value <= 255:
            raise UserInputError(f"padding_value: expected 0 to 255, found {self.padding_value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class JitterPlan:
    """What is done to one image: flip, then the source window `top, left, height, width` resized to `size` and laid
    into the upper left corner of the crop."""

    flip: bool
    top: int
    left: int
    height: int
    width: int
    size: Size


class Jitter:
    """Flip, zoom, crop and padding of an image and its truth together.

    The window that the crop will keep is cut out of the source before resizing, so a zoom of 2 costs what a zoom of 1
    does; its corner therefore falls on a whole source pixel.
    """

    def __init__(self, config: JitterConfig | None = None) -> None:
        self.config = config or JitterConfig()

    def plan(self, image_id: str, size: Size, seed: int, epoch: int) -> JitterPlan:
        """The same for the same (seed, epoch, image id) on every machine and in every process."""
        digest = hashlib.blake2b(f"{seed}\0{epoch}\0{image_id}".encode(), digest_size=16).digest()
        flip, zoom, offset = np.random.default_rng(int.from_bytes(digest, "little")).random(3)
        crop = self.config.crop_size
        target = crop * (self.config.min_zoom + (self.config.max_zoom - self.config.min_zoom) * zoom)
        scale = min(target / size[0], target / size[1])
        top, height, new_height = _window(size[0], scale, crop, offset)
        left, width, new_width = _window(size[1], scale, crop, offset)
        return JitterPlan(
            flip=bool(flip < self.config.flip_probability),
            top=top,
            left=left,
            height=height,
            width=width,
            size=(new_height, new_width),
        )

    def __call__(
        self, sample: ImageSample, annotation: PanopticAnnotation, seed: int, epoch: int
    ) -> tuple[Tensor, PanopticTarget]:
        """The crop [3,S,S] uint8 RGB (a channels-last view) and its target, masks [N,S,S].

        Padding is `padding_value` and void; crowds and segments without a pixel left carry no mask.

        Raises:
            UserInputError: the annotation has not the size of the image.
        """
        size = (int(sample.image.shape[1]), int(sample.image.shape[2]))
        if tuple(annotation.segment_ids.shape) != size:
            raise UserInputError(
                f"image {sample.image_id!r}: expected an annotation of its size {size}, "
                f"found {tuple(annotation.segment_ids.shape)}"
            )
        plan = self.plan(sample.image_id, size, seed, epoch)
        return self._image(sample.image, plan), self._target(annotation, plan)

    def _image(self, image: Tensor, plan: JitterPlan) -> Tensor:
        from torchvision.transforms import v2  # late: its import costs seconds, which readers do without

        # Colours lie together in what decoding gives. While that stays so, resizing and copying are several times as
        # fast; torch sees it only in a window without gaps between its rows.
        rows = image.permute(1, 2, 0)[plan.top : plan.top + plan.height, plan.left : plan.left + plan.width]
        window = v2.functional.resize(rows.contiguous().permute(2, 0, 1), list(plan.size), antialias=True)
        if plan.flip:
            window = v2.functional.horizontal_flip(window)
        crop, (height, width) = self.config.crop_size, plan.size
        # numpy copies whole rows here, torch byte after byte.
        canvas = np.empty((crop, crop, 3), dtype=np.uint8)
        canvas[:height, :width] = window.permute(1, 2, 0).numpy()
        canvas[:height, width:] = self.config.padding_value
        canvas[height:] = self.config.padding_value
        return torch.from_numpy(canvas).permute(2, 0, 1)

    def _target(self, annotation: PanopticAnnotation, plan: JitterPlan) -> PanopticTarget:
        """All masks travel as one map of small numbers, which is resized once and taken apart at the end."""
        segments = [segment for segment in annotation.segments if not segment.is_crowd]
        window = np.s_[plan.top : plan.top + plan.height, plan.left : plan.left + plan.width]
        labels = _compact(annotation.segment_ids.numpy()[window], [segment.id for segment in segments])
        rows, columns = _nearest(plan.height, plan.size[0]), _nearest(plan.width, plan.size[1])
        # Columns first: where the zoom is large, whole rows are then copied, not pixels.
        zoomed = labels.take(columns[::-1] if plan.flip else columns, axis=1).take(rows, axis=0)
        # Zooming in drops no pixel, so the smaller map tells as well which segments are left.
        zooms_in = plan.size[0] >= plan.height and plan.size[1] >= plan.width
        present = _present(labels if zooms_in else zoomed, len(segments))
        kept = [segments[index] for index in present]
        masks = np.empty((len(kept), self.config.crop_size, self.config.crop_size), dtype=bool)
        # numpy compares bytes an order of magnitude faster than torch on one core.
        values = (present + 1).astype(zoomed.dtype)[:, None, None]
        height, width = plan.size
        np.equal(zoomed, values, out=masks[:, :height, :width])
        masks[:, :height, width:] = False
        masks[:, height:] = False
        return PanopticTarget(
            masks=torch.from_numpy(masks),
            category_ids=torch.tensor([segment.category_id for segment in kept], dtype=torch.int64),
            is_thing=torch.tensor([segment.is_thing for segment in kept], dtype=torch.bool),
        )


def _nearest(length: int, target: int) -> NDArray[np.int64]:
    """[target]: the source positions that torch's nearest-exact resize reads, which agree with the image's. (Its kernel
    for plain "nearest", torchvision's choice for masks, rounds positions down.)"""
    positions = torch.arange(length, dtype=torch.float32)[None, None]
    return F.interpolate(positions, size=target, mode="nearest-exact")[0, 0].numpy().astype(np.int64)


def _window(length: int, scale: float, crop: int, offset: float) -> tuple[int, int, int]:
    """Start and length of the source window along one axis, and its length after the zoom (at most `crop`)."""
    zoomed = max(1, round(length * scale))
    if zoomed <= crop:
        return 0, length, zoomed
    window = min(length, max(1, round(crop * length / zoomed)))
    return round((length - window) * offset), window, crop


def _compact(segment_ids: NDArray[np.int32], ids: list[int]) -> NDArray[np.uint8] | NDArray[np.int32]:
    """[h,w] map with 1 + position in `ids`, 0 elsewhere; bytes when they suffice."""
    segment_ids = np.ascontiguousarray(segment_ids)
    starts, lengths = runs(segment_ids)
    values = segment_ids.reshape(-1)[starts]
    known = np.array([0, *ids], dtype=np.int32)
    found = positions(values, known)
    numbers = np.where(known[found] == values, found, 0).astype(np.uint8 if len(ids) < 256 else np.int32)
    return np.repeat(numbers, lengths).reshape(segment_ids.shape)


def _present(labels: NDArray[np.uint8] | NDArray[np.int32], num_segments: int) -> NDArray[np.intp]:
    """Positions of the segments that a map made by `_compact` holds, in their order."""
    if labels.dtype == np.uint8:
        # The C library finds a byte ten times faster than numpy counts all of them.
        content = labels.tobytes()
        return np.array([index for index in range(num_segments) if index + 1 in content], dtype=np.intp)
    present: NDArray[np.intp] = np.bincount(labels.reshape(-1), minlength=num_segments + 1)[1:].nonzero()[0]
    return present
