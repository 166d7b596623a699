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


def encode(values: Tensor, codec: Codec) -> dict[str, npt.NDArray[Any]]:
    """[B,C,h,w] float -> arrays with the batch axis first: {"": codes} and, for uint8, {"scale", "offset"}.

    uint8 maps the range of each block of `BLOCK` consecutive pixels of a channel to 0..255, rounded to nearest: the
    error is at most half of range / 255.
    """
    values = values.detach().cpu()
    if codec == "float32":
        return {"": values.float().numpy()}
    if codec == "bfloat16":
        return {"": values.to(torch.bfloat16).view(torch.int16).numpy()}
    if codec != "uint8":
        raise UserInputError(f"feature codec: expected float32, bfloat16 or uint8, found {codec!r}")
    batch, channels, height, width = values.shape
    blocks = _to_blocks(values.float().reshape(batch, channels, height * width))
    offset = blocks.amin(dim=-1, keepdim=True)
    scale = (blocks.amax(dim=-1, keepdim=True) - offset) / _LEVELS
    codes = ((blocks - offset) / scale.clamp(min=torch.finfo(torch.float32).tiny)).round_().to(torch.uint8)
    codes = codes.reshape(batch, channels, -1)[..., : height * width].reshape(values.shape)
    return {"": codes.contiguous().numpy(), "scale": scale[..., 0].numpy(), "offset": offset[..., 0].numpy()}


def decode_into(out: Tensor, arrays: dict[str, npt.NDArray[Any]]) -> None:
    """Writes what `encode` made of one or more images into `out` [B,C,h,w], float32 or bfloat16.

    One copy from memory that may be read-only; nothing else of the size of the features is allocated for float32.
    """
    codes = arrays[""]
    if codes.shape != tuple(out.shape):
        raise UserInputError(f"features: expected an array of shape {tuple(out.shape)}, found {codes.shape}")
    if codes.dtype == np.float32:
        out.copy_(_tensor(codes)) if out.dtype != torch.float32 else np.copyto(out.numpy(), codes)
    elif codes.dtype == np.int16:
        out.copy_(_tensor(codes).view(torch.bfloat16))
    elif codes.dtype == np.uint8:
        batch, channels, height, width = codes.shape
        blocks = _to_blocks(_tensor(codes).reshape(batch, channels, height * width).to(torch.float32))
        blocks = torch.addcmul(_tensor(arrays["offset"])[..., None], blocks, _tensor(arrays["scale"])[..., None])
        out.copy_(blocks.reshape(batch, channels, -1)[..., : height * width].reshape(out.shape))
    else:
        raise UserInputError(f"features: expected float32, int16 (bfloat16) or uint8 codes, found {codes.dtype}")


def bytes_per_value(codec: Codec) -> float:
    """Bytes that one feature value takes, scales and offsets included (for maps of at least one whole block)."""
    return {"float32": 4.0, "bfloat16": 2.0, "uint8": 1.0 + 8.0 / BLOCK}[codec]


def _tensor(array: npt.NDArray[Any]) -> Tensor:
    """Ray hands out read-only views; torch has no such thing and warns, so what is not writable is copied."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _to_blocks(values: Tensor) -> Tensor:
    """[B,C,n] -> [B,C,ceil(n/BLOCK),min(n,BLOCK)]; the last block is filled up with its last value."""
    length = values.shape[-1]
    block = min(length, BLOCK) or 1
    missing = -length % block
    if missing:
        values = torch.cat([values, values[..., -1:].expand(*values.shape[:-1], missing)], dim=-1)
    return values.reshape(*values.shape[:-1], -1, block)
