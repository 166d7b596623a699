"""What travels between the parts of the application, in Ray's object store, and how an image is made ready for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import ray.util
import torch
from torch.utils.dlpack import from_dlpack

from frozenseg.data import collate, resize_for_test
from frozenseg.inference.geometry import ImageGeometry
from frozenseg.inference.options import InferenceOptions
from frozenseg.types import Batch, EncoderFeatures, ImageSample, SamMasks
from serve.schema import SegmentOut

CHECK_SIDE = 64
"""Side in pixels of the picture that health checks run on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedImage:
    """One image at network size, with the way back to the client's own size."""

    batch: Batch
    geometry: ImageGeometry

    @property
    def num_pixels(self) -> int:
        return self.geometry.padded_size[0] * self.geometry.padded_size[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedImage:
    """Features of one image and the seconds its batch took."""

    features: EncoderFeatures
    geometry: ImageGeometry
    seconds: float


class OtherModelError(Exception):
    """Features came from other encoders than the part's own model has: the model is just being changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedImage:
    """SAM's masks of one image and the seconds they took."""

    masks: SamMasks
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentedImage:
    """The decoder's answer: its model's name, segments, which categories are seen, seconds by stage, and the model's
    notice if any."""

    model: str
    segments: tuple[SegmentOut, ...]
    seen: tuple[bool, ...]
    seconds: dict[str, float]
    notice: str


def share_tensors() -> None:
    """Lets this process hand its tensors to others through Ray's memory without a copy in between; each part calls it.

    A tensor arrives as a view of memory that other parts may be reading, so none may be changed in place. Pickled by
    torch itself, it is copied several times on the way: benchmarks/shared_tensors.py.
    """
    ray.util.register_serializer(torch.Tensor, serializer=_bytes_of, deserializer=_tensor_of)


def _bytes_of(tensor: torch.Tensor) -> tuple[npt.NDArray[np.uint8], torch.dtype, tuple[int, ...]]:
    values = tensor.detach().cpu().contiguous()
    return values.view(-1).view(torch.uint8).numpy(), tensor.dtype, tuple(tensor.shape)


def _tensor_of(packed: tuple[Any, torch.dtype, tuple[int, ...]]) -> torch.Tensor:
    """Through DLPack, because `torch.from_numpy` warns of arrays that are read-only, which is all they are."""
    array, dtype, shape = packed
    tensor: torch.Tensor = from_dlpack(array)
    return tensor.view(dtype).view(shape)


def prepare_image(sample: ImageSample, options: InferenceOptions) -> PreparedImage:
    """Resizes and pads as for evaluation."""
    resized = resize_for_test(sample, options.shortest_side, options.longest_side)
    batch = collate([resized])
    geometry = ImageGeometry(
        padded_size=(int(batch.images.shape[2]), int(batch.images.shape[3])),
        valid_size=(int(resized.image.shape[1]), int(resized.image.shape[2])),
        output_size=sample.original_size,
    )
    return PreparedImage(batch=batch, geometry=geometry)


def check_image() -> PreparedImage:
    """A gradient, so that normalisation and every layer have something to do."""
    ramp = torch.linspace(0, 255, CHECK_SIDE * CHECK_SIDE).to(torch.uint8).view(1, CHECK_SIDE, CHECK_SIDE)
    size = (CHECK_SIDE, CHECK_SIDE)
    sample = ImageSample(image_id="health", image=ramp.expand(3, -1, -1).contiguous(), original_size=size)
    return PreparedImage(batch=collate([sample]), geometry=ImageGeometry.whole(size))
