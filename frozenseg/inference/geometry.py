"""From the decoder's stride-4 masks to the user's image: padded size, crop, output size.

The published chain resizes every mask twice at full resolution. `MaskResizer` computes any rectangle of that result
from the small logits instead, with the same taps and the same order of operations, so that a result can be built tile
by tile and never holds queries x pixels.

Shape legend: N masks, h w low-resolution logits, H W output pixels. A size is always (height, width).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from frozenseg.errors import UserInputError
from frozenseg.types import Size


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageGeometry:
    """Sizes in pixels. padded_size: what the mask logits cover, padding included; valid_size: its top left part that is
    image; output_size: what results are reported at (the user's own image).

    Raises:
        UserInputError: a side below 1, or an image larger than its padded canvas.
    """

    padded_size: Size
    valid_size: Size
    output_size: Size

    def __post_init__(self) -> None:
        sides = (*self.padded_size, *self.valid_size, *self.output_size)
        fits = all(valid <= padded for valid, padded in zip(self.valid_size, self.padded_size, strict=True))
        if min(sides) < 1 or not fits:
            raise UserInputError(
                "an image geometry needs sides of at least 1 and valid_size within padded_size; found padded "
                f"{self.padded_size}, valid {self.valid_size}, output {self.output_size}"
            )

    @classmethod
    def whole(cls, size: Size) -> ImageGeometry:
        """Masks that cover exactly the output, with no padding."""
        return cls(padded_size=size, valid_size=size, output_size=size)

    def pixels_per_cell(self, low_size: Size) -> tuple[float, float]:
        """Output pixels that one cell of a low-resolution map spans, down and across."""
        down, across = (
            self.padded_size[axis] / low_size[axis] * self.output_size[axis] / self.valid_size[axis] for axis in (0, 1)
        )
        return down, across


@dataclass(frozen=True, slots=True)
class Window:
    """Output pixels top <= y < bottom, left <= x < right."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def size(self) -> Size:
        return self.bottom - self.top, self.right - self.left

    @property
    def num_pixels(self) -> int:
        return self.size[0] * self.size[1]


def tile_windows(size: Size, tile: Size) -> Iterator[Window]:
    """Windows that cover `size` once, each at most `tile` large, row by row."""
    for top in range(0, size[0], tile[0]):
        for left in range(0, size[1], tile[1]):
            yield Window(top, min(top + tile[0], size[0]), left, min(left + tile[1], size[1]))


def resize_masks(mask_logits: Tensor, geometry: ImageGeometry) -> Tensor:
    """[N,h,w] logits -> [N,H,W] logits at the output size: padded size, crop, output size, all bilinear.

    The whole result is materialised; results that can be built in tiles use `MaskResizer`. Source: MODEL.md, Inference.
    """
    if mask_logits.shape[0] == 0:
        return mask_logits.new_zeros((0, *geometry.output_size))
    padded = _interpolate(mask_logits, geometry.padded_size)
    return _interpolate(padded[:, : geometry.valid_size[0], : geometry.valid_size[1]], geometry.output_size)


def _interpolate(maps: Tensor, size: Size) -> Tensor:
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]


class _Taps:
    """The two source positions and weights of every output position along one axis of a bilinear resize.

    Positions are computed in float32 as torch's kernel does, because the weights of a large map depend on its rounding.
    """

    def __init__(self, source: int, target: int, device: torch.device) -> None:
        position = torch.arange(target, dtype=torch.float32, device=device) + 0.5
        position = (position * (torch.tensor(source / target, dtype=torch.float32, device=device)) - 0.5).clamp(min=0)
        self.is_identity = source == target
        self.first = position.floor().long().clamp(max=source - 1)
        self.second = self.first if self.is_identity else (self.first + 1).clamp(max=source - 1)
        self.second_weight = (position - self.first).clamp(0.0, 1.0)
        self.first_weight = 1.0 - self.second_weight
        self._bounds = (self.first.tolist(), self.second.tolist())
        scale, rest = divmod(target, source)
        # Only a power of two makes exact positions, so that the outputs between two sources are known beforehand.
        self._scale = scale if rest == 0 and scale > 1 and scale & (scale - 1) == 0 else 0

    def span(self, start: int, stop: int) -> tuple[int, int]:
        """Half-open range of source positions that the output positions start..stop-1 read."""
        return self._bounds[0][start], self._bounds[1][stop - 1] + 1

    def resize(self, maps: Tensor, start: int, stop: int, offset: int) -> Tensor:
        """Output positions start..stop-1 of the first axis of maps [s,...], whose position 0 is source `offset`.

        May be a view of something larger, or of `maps`.
        """
        if self.is_identity:
            return maps[start - offset : stop - offset]
        if self._scale:
            return self._resize_runs(maps, start, stop, offset)
        weight_shape = (stop - start,) + (1,) * (maps.ndim - 1)
        return _blend(
            maps.index_select(0, self.first[start:stop] - offset),
            maps.index_select(0, self.second[start:stop] - offset),
            self.first_weight[start:stop].view(weight_shape),
            self.second_weight[start:stop].view(weight_shape),
        )

    def _resize_runs(self, maps: Tensor, start: int, stop: int, offset: int) -> Tensor:
        """For a whole scale: the outputs that lie between two sources read just these, so nothing needs gathering."""
        half = self._scale // 2
        begin, end = (start - half) // self._scale, -((half - stop) // self._scale)
        if begin < offset or end >= offset + len(maps):  # Before the first source and after the last it repeats.
            sources = torch.arange(begin - offset, end - offset + 1, device=maps.device).clamp(0, len(maps) - 1)
            maps, offset = maps.index_select(0, sources), begin
        pairs = maps[begin - offset : end - offset + 1, None]
        outputs = torch.arange(begin * self._scale + half, end * self._scale + half, device=maps.device)
        outputs = outputs.clamp(0, len(self.first) - 1)
        weight_shape = (end - begin, self._scale) + (1,) * (maps.ndim - 1)
        blended = _blend(
            pairs[:-1],
            pairs[1:],
            self.first_weight[outputs].view(weight_shape),
            self.second_weight[outputs].view(weight_shape),
        ).flatten(0, 1)
        skipped = start - (begin * self._scale + half)
        return blended[skipped : skipped + stop - start]


def _blend(first: Tensor, second: Tensor, first_weight: Tensor, second_weight: Tensor) -> Tensor:
    # The kernel fuses the first product into the addition of the second; addcmul rounds in the same way.
    return (second * second_weight.to(second.dtype)).addcmul_(first, first_weight.to(first.dtype))


class MaskResizer:
    """Computes rectangles of `resize_masks` from low-resolution logits.

    Values are those of `resize_masks` (on CPU to the last bit, above its small-map shortcut at height + width <= 128).
    """

    def __init__(self, low_size: Size, geometry: ImageGeometry, device: torch.device) -> None:
        self.geometry = geometry
        self._to_padded = tuple(
            _Taps(source, target, device) for source, target in zip(low_size, geometry.padded_size, strict=True)
        )
        self._to_output = tuple(
            _Taps(source, target, device)
            for source, target in zip(geometry.valid_size, geometry.output_size, strict=True)
        )

    def low_window(self, window: Window) -> Window:
        """The low-resolution positions that the output pixels of `window` depend on."""
        rows = self._spans(0, window.top, window.bottom)[1]
        columns = self._spans(1, window.left, window.right)[1]
        return Window(rows[0], rows[1], columns[0], columns[1])

    def output_window(self, low: Window) -> Window:
        """The output pixels that read any of these low-resolution positions; may be empty where padding is read."""
        edges: list[int] = []
        for axis, (start, stop) in enumerate(((low.top, low.bottom), (low.left, low.right))):
            firsts, lasts = self._low_reach[axis]
            edges += [bisect_left(lasts, start), bisect_left(firsts, stop)]
        return Window(edges[0], max(edges[1], edges[0]), edges[2], max(edges[3], edges[2]))

    @cached_property
    def _low_reach(self) -> tuple[tuple[list[int], list[int]], ...]:
        """Per axis, the first and the last low-resolution position that each output position reads; ascending."""
        reach = []
        for axis, size in enumerate(self.geometry.output_size):
            spans = [self._spans(axis, i, i + 1)[1] for i in range(size)]
            reach.append(([start for start, _ in spans], [stop - 1 for _, stop in spans]))
        return tuple(reach)

    def window(self, mask_logits: Tensor, window: Window, selection: Tensor | None = None) -> Tensor:
        """[N,h,w] -> [n, bottom - top, right - left] logits of the output pixels in `window`.

        `selection` [n] int64 picks masks after the cut to the window, so that unused ones cost nothing.
        """
        if mask_logits.shape[0] == 0:
            return mask_logits.new_zeros((0, *window.size))
        padded_rows, low_rows = self._spans(0, window.top, window.bottom)
        padded_columns, low_columns = self._spans(1, window.left, window.right)
        maps = mask_logits[:, low_rows[0] : low_rows[1], low_columns[0] : low_columns[1]]
        if selection is not None:
            maps = maps.index_select(0, selection)
        # Each axis is resized as the first one, with the other innermost: every step runs over contiguous pieces.
        maps = maps.permute(2, 0, 1).contiguous()
        maps = self._to_padded[1].resize(maps, *padded_columns, low_columns[0]).transpose(0, 2).contiguous()
        maps = self._to_padded[0].resize(maps, *padded_rows, low_rows[0])
        if not self._to_output[1].is_identity:
            maps = maps.transpose(0, 2).contiguous()
            maps = self._to_output[1].resize(maps, window.left, window.right, padded_columns[0])
            maps = maps.transpose(0, 2).contiguous()
        maps = self._to_output[0].resize(maps, window.top, window.bottom, padded_rows[0])
        return maps.transpose(0, 1)

    def rows(self, mask_logits: Tensor, top: int, bottom: int) -> Tensor:
        """[N,h,w] -> [N, bottom - top, W] logits of whole output rows."""
        return self.window(mask_logits, Window(top, bottom, 0, self.geometry.output_size[1]))

    def _spans(self, axis: int, start: int, stop: int) -> tuple[tuple[int, int], tuple[int, int]]:
        padded = self._to_output[axis].span(start, stop)
        return padded, self._to_padded[axis].span(*padded)
