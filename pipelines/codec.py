"""Feature maps <-> arrays that travel: as they are, in bfloat16, or in 8 bits with a scale per block of a channel.

numpy has no bfloat16, so it travels as int16 holding the same bits. The dtype of the array says which code it is.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from frozenseg.errors import UserInputError

Codec = Literal["float32", "bfloat16", "uint8"]
BLOCK = 4096
"""Pixels of a channel that share a scale: 8 bytes of scale and offset per 4096 bytes of codes."""
_LEVELS = 255
_CHUNK = 2**18
"""Values worked on at once: what is in between stays in the processor's cache, instead of in memory made anew."""


def encode(values: Tensor, codec: Codec) -> dict[str, npt.NDArray[Any]]:
    """[B,C,h,w] float -> arrays with the batch axis first: {"": codes} and, for uint8, {"scale", "offset"}.

    uint8 maps the range of each block of `BLOCK` consecutive pixels of a channel to 0..255, rounded to nearest: the
    error is at most half of range / 255. The work is done where the values are: fewer bytes leave a GPU.
    """
    values = values.detach()
    if codec == "float32":
        return {"": values.float().cpu().numpy()}
    if codec == "bfloat16":
        return {"": values.to(torch.bfloat16).view(torch.int16).cpu().numpy()}
    if codec != "uint8":
        raise UserInputError(f"feature codec: expected float32, bfloat16 or uint8, found {codec!r}")
    batch, channels, height, width = values.shape
    flat = values.reshape(batch, channels, height * width)
    codes = torch.empty(flat.shape, dtype=torch.uint8, device=values.device)
    num_blocks = -(-flat.shape[2] // BLOCK)
    scale = torch.empty((batch, channels, num_blocks), device=values.device)
    offset = torch.empty_like(scale)
    for of_values, of_blocks in _spans(height * width):
        for image in range(batch):
            _quantize(
                _blocks(flat[image, :, of_values]),
                _blocks(codes[image, :, of_values]),
                scale[image, :, of_blocks, None],
                offset[image, :, of_blocks, None],
            )
    return {"": codes.reshape(values.shape).cpu().numpy(), "scale": scale.cpu().numpy(), "offset": offset.cpu().numpy()}


def decode_into(out: Tensor, arrays: dict[str, npt.NDArray[Any]]) -> None:
    """Writes what `encode` made of one or more images into `out` [B,C,h,w] contiguous, float32 or bfloat16.

    The arrays may be read-only, as views of Ray's memory are. Nothing of the size of the features is allocated.
    """
    codes = arrays[""]
    if codes.shape != tuple(out.shape):
        raise UserInputError(f"features: expected an array of shape {tuple(out.shape)}, found {codes.shape}")
    if codes.dtype == np.float32:
        _copy_into(out, codes, torch.float32)
    elif codes.dtype == np.int16:
        _copy_into(out, codes, torch.bfloat16)
    elif codes.dtype == np.uint8:
        batch, channels, height, width = codes.shape
        flat_out, flat = out.view(batch, channels, height * width), codes.reshape(batch, channels, height * width)
        # A few kilobytes, which torch may then read: it has no read-only tensors and warns of arrays that are.
        scale, offset = (torch.from_numpy(arrays[name].copy()) for name in ("scale", "offset"))
        for of_values, of_blocks in _spans(height * width):
            for image in range(batch):
                _dequantize(
                    _blocks(flat_out[image, :, of_values]),
                    flat[image, :, of_values],
                    scale[image, :, of_blocks, None],
                    offset[image, :, of_blocks, None],
                )
    else:
        raise UserInputError(f"features: expected float32, int16 (bfloat16) or uint8 codes, found {codes.dtype}")


def bytes_per_value(codec: Codec) -> float:
    """Bytes that one feature value takes, scales and offsets included (for maps of at least one whole block)."""
    return {"float32": 4.0, "bfloat16": 2.0, "uint8": 1.0 + 8.0 / BLOCK}[codec]


def _spans(num_values: int) -> list[tuple[slice, slice]]:
    """A channel's whole blocks and, where it ends inside one, the rest: (which values, which blocks) of each."""
    num_whole = num_values // BLOCK
    spans = [
        (slice(0, num_whole * BLOCK), slice(0, num_whole)),
        (slice(num_whole * BLOCK, None), slice(num_whole, None)),
    ]
    return [span for span, length in zip(spans, (num_whole, num_values % BLOCK), strict=True) if length]


def _blocks(values: Tensor) -> Tensor:
    """[C,n] -> a view [C,blocks,n/blocks] of what `_spans` gave."""
    return values.view(len(values), -1, min(values.shape[1], BLOCK))


def _quantize(values: Tensor, codes: Tensor, scale: Tensor, offset: Tensor) -> None:
    """values [C,blocks,n] -> codes alike, scale and offset [C,blocks,1], all of them written in place."""
    step = max(1, _CHUNK // max(1, values[0].numel()))
    for start in range(0, len(values), step):
        part = slice(start, start + step)
        # A copy, whatever the dtype, that the steps below may overwrite.
        work = values[part].to(torch.float32, copy=True)
        low = work.amin(dim=-1, keepdim=True)
        scale[part] = (work.amax(dim=-1, keepdim=True) - low) / _LEVELS
        offset[part] = low
        codes[part] = work.sub_(low).div_(scale[part].clamp(min=torch.finfo(torch.float32).tiny)).round_()


def _dequantize(out: Tensor, codes: npt.NDArray[Any], scale: Tensor, offset: Tensor) -> None:
    """codes [C,blocks * n] -> out [C,blocks,n]. Multiplied, then added, for the same bits on every processor:
    some would fuse them."""
    step = max(1, _CHUNK // max(1, out[0].numel()))
    work = torch.empty((min(step, len(out)), *out.shape[1:]))
    for start in range(0, len(out), step):
        part = slice(start, start + step)
        values = work[: len(out[part])]
        np.copyto(values.flatten(1).numpy(), codes[part])
        out[part] = values.mul_(scale[part]).add_(offset[part])


def _copy_into(out: Tensor, codes: npt.NDArray[Any], held: torch.dtype) -> None:
    """codes: values of the dtype `held`, float32 or the bits of bfloat16, in numpy's nearest type."""
    if out.dtype == held:
        # One copy, as bits: numpy reads what is read-only, and has no bfloat16.
        np.copyto(out.view(torch.int16 if held == torch.bfloat16 else held).numpy(), codes)
        return
    target, source = out.view(-1), codes.reshape(-1)
    for start in range(0, len(source), _CHUNK):
        part = slice(start, start + _CHUNK)
        target[part] = torch.from_numpy(source[part].copy()).view(held)
