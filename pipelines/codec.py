"""Feature maps <-> arrays that travel: as they are, in bfloat16, or in 8 bits with a scale per block of a channel.

numpy has no bfloat16, so it travels as int16 holding the same bits. The dtype of the array says which code it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from frozenseg.errors import UserInputError

Codec = Literal["float32", "bfloat16", "uint8"]
BLOCK = 4096
"""Pixels of a channel that share a scale: 8 bytes of scale and offset per 4096 bytes of codes."""
_LEVELS = 255
_CHUNK = 2**18
"""Values encoded at once: what is in between stays in the processor's cache, instead of in memory made anew."""


def allocate(shape: Sequence[int], codec: Codec) -> dict[str, npt.NDArray[Any]]:
    """Arrays for the codes of maps of this shape [B,C,h,w], as `encode` returns them, with nothing in them yet."""
    whole = tuple(shape)
    if codec == "float32":
        return {"": np.empty(whole, dtype=np.float32)}
    if codec == "bfloat16":
        return {"": np.empty(whole, dtype=np.int16)}
    if codec != "uint8":
        raise UserInputError(f"feature codec: expected float32, bfloat16 or uint8, found {codec!r}")
    batch, channels, height, width = whole
    blocks = (batch, channels, -(-height * width // BLOCK))
    scale, offset = np.empty(blocks, dtype=np.float32), np.empty(blocks, dtype=np.float32)
    return {"": np.empty(whole, dtype=np.uint8), "scale": scale, "offset": offset}


def encode(values: Tensor, codec: Codec) -> dict[str, npt.NDArray[Any]]:
    """[B,C,h,w] float -> arrays with the batch axis first: {"": codes} and, for uint8, {"scale", "offset"}."""
    arrays = allocate(values.shape, codec)
    encode_into(arrays, values)
    return arrays


def encode_into(arrays: Mapping[str, npt.NDArray[Any]], values: Tensor) -> None:
    """Writes the codes of `values` [B,C,h,w] into arrays of that many images, such as rows of what `allocate` gave.

    uint8 maps the range of each block of `BLOCK` consecutive pixels of a channel to 0..255, rounded to nearest: the
    error is at most half of range / 255. The work is done where the values are: fewer bytes leave a GPU.
    """
    values, codes = values.detach(), arrays[""]
    if codes.dtype == np.float32:
        torch.from_numpy(codes).copy_(values)
    elif codes.dtype == np.int16:
        # Rounded where the values are, but on a CPU on the way, without a copy in between.
        rounded = values if values.device.type == "cpu" else values.to(torch.bfloat16)
        torch.from_numpy(codes).view(torch.bfloat16).copy_(rounded)
    else:
        made = _quantized(values)
        for name, part in made.items():
            torch.from_numpy(arrays[name]).copy_(part)


def decode_into(out: Tensor, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
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
        _dequantize(out, arrays)
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


def _tensor(array: npt.NDArray[Any]) -> Tensor:
    """A view. Through DLPack, because `torch.from_numpy` warns of arrays that are read-only, which is all they are."""
    return from_dlpack(array)


def _quantized(values: Tensor) -> dict[str, Tensor]:
    """The arrays of `encode`, where the values are."""
    batch, channels, height, width = values.shape
    flat = values.reshape(batch, channels, height * width)
    codes = torch.empty(flat.shape, dtype=torch.uint8, device=values.device)
    scale = torch.empty((batch, channels, -(-height * width // BLOCK)), device=values.device)
    offset = torch.empty_like(scale)
    for of_values, of_blocks in _spans(height * width):
        for image in range(batch):
            _quantize(
                _blocks(flat[image, :, of_values]),
                _blocks(codes[image, :, of_values]),
                scale[image, :, of_blocks, None],
                offset[image, :, of_blocks, None],
            )
    return {"": codes.view(values.shape), "scale": scale, "offset": offset}


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


def _dequantize(out: Tensor, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    # Here, because the compiler's import takes half a second that the other codecs need not wait for.
    from pipelines.dequantize import dequantize

    rows = out.shape[0] * out.shape[1]
    # numpy has no bfloat16, so the loop writes its bits.
    whole = out.view(torch.uint16).numpy() if out.dtype == torch.bfloat16 else out.numpy()
    codes, scale, offset = (arrays[name].reshape(rows, -1) for name in ("", "scale", "offset"))
    dequantize(whole.reshape(rows, -1), codes, scale, offset, BLOCK)


def _copy_into(out: Tensor, codes: npt.NDArray[Any], held: torch.dtype) -> None:
    """codes: values of the dtype `held`, float32 or the bits of bfloat16, in numpy's nearest type."""
    if out.dtype == held:
        # One copy, as bits: numpy has no bfloat16.
        np.copyto(out.view(torch.int16 if held == torch.bfloat16 else held).numpy(), codes)
    else:
        out.copy_(_tensor(codes).view(held))
