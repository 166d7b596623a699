"""Where a query of the decoder looks: its masked cross-attention, recomputed from what each layer reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from frozenseg.decoder import MaskDecoder
from frozenseg.decoder.layers import AttentionBlock
from frozenseg.decoder.transformer import DecoderLayer
from frozenseg.types import Size


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AttentionMap:
    """layer: counted from 0; weights [h,w] float32, mean over heads, summing to 1 over the padded image."""

    layer: int
    weights: Tensor


@contextmanager
def recorded(decoder: MaskDecoder) -> Iterator[list[Tensor]]:
    """While inside, every forward pass adds the cross-attention weights [B,Q,S] of each layer, in order."""
    found: list[Tensor] = []

    def note(block: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        found.append(attention_weights(block, *arguments, **keywords))

    blocks = [m for m in decoder.transformer.layers.modules() if isinstance(m, DecoderLayer)]
    handles = [block.cross_attention.register_forward_pre_hook(note, with_kwargs=True) for block in blocks]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def attention_weights(
    block: AttentionBlock,
    x: Tensor,
    memory: Tensor,
    *,
    position: Tensor | None = None,
    memory_position: Tensor | None = None,
    allowed: Tensor | None = None,
) -> Tensor:
    """[B,N,S] weights with which tokens `x` read `memory`, mean over heads. Arguments as of the block's forward."""
    query_weight, key_weight, _ = block.in_projection.weight.chunk(3)
    query_bias, key_bias, _ = block.in_projection.bias.chunk(3)
    query = F.linear(x if position is None else x + position, query_weight, query_bias)
    key = F.linear(memory if memory_position is None else memory + memory_position, key_weight, key_bias)
    heads, width = block.num_heads, query.shape[-1] // block.num_heads
    query = query.reshape(*query.shape[:-1], heads, width).transpose(1, 2)
    key = key.reshape(*key.shape[:-1], heads, width).transpose(1, 2)
    scores: Tensor = query @ key.transpose(-1, -2) / width**0.5
    if allowed is not None:
        scores = scores.masked_fill(~allowed.unsqueeze(1), float("-inf"))
    return scores.softmax(-1).mean(1)


def as_maps(weights: list[Tensor], query: int, padded_size: Size) -> list[AttentionMap]:
    """The maps of one query of the first image, at the strides that the layers read: 32, 16, 8 in turn."""
    maps = []
    for layer, of_layer in enumerate(weights):
        stride = (32, 16, 8)[layer % 3]
        size = (padded_size[0] // stride, padded_size[1] // stride)
        maps.append(AttentionMap(layer=layer, weights=of_layer[0, query].float().cpu().reshape(size)))
    return maps
