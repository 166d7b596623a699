"""SAM with MobileSAM's small image encoder: TinyViT, at 1/15 of ViT-B's parameters.

Module names follow the published `mobile_sam.pt`, so that the file loads; the code is ours.
Source: TinyViT (arXiv 2207.10666) as MobileSAM (arXiv 2306.14289) uses it: 5M size, last stage kept at stride 16.

Shape legend: B images, C channels, h w map, n windows, t tokens of a window, M heads.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

from frozenseg.encoders.sam import SamImageEncoder

DIMS = (64, 128, 160, 320)
DEPTHS = (2, 2, 6, 2)
HEADS = (2, 4, 5, 10)
WINDOWS = (7, 7, 14, 7)
EXPANSION = 4
STRIDE = 16
_CLASSIFIER_PREFIXES = ("norm_head.", "head.")


class TinyVitSam(SamImageEncoder):
    """MobileSAM (ViT-T)."""


def conv_norm(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution without bias (`c`), then batch norm (`bn`)."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(OrderedDict(c=conv, bn=nn.BatchNorm2d(outputs)))


class PatchEmbedding(nn.Module):
    """Two strided convolutions: [B,3,H,W] to [B,dim,H/4,W/4]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.seq = nn.Sequential(conv_norm(3, dim // 2, 3, 2), nn.GELU(), conv_norm(dim // 2, dim, 3, 2))

    def forward(self, images: Tensor) -> Tensor:
        x: Tensor = self.seq(images)
        return x


class InvertedBottleneck(nn.Module):
    """Widen, depthwise 3x3, narrow, add; the last activation comes after the addition."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        wide = dim * EXPANSION
        self.conv1 = conv_norm(dim, wide)
        self.conv2 = conv_norm(wide, wide, 3, groups=wide)
        self.conv3 = conv_norm(wide, dim)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x + self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x))))))


class Downsample(nn.Module):
    """Changes channels, and halves the map where `stride` is 2."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv_norm(inputs, outputs)
        self.conv2 = conv_norm(outputs, outputs, 3, stride, groups=outputs)
        self.conv3 = conv_norm(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))
        return result


def window_offsets(window: int) -> Tensor:
    """[t,t] int64: which bias belongs to a pair of cells, |row difference| * window + |column difference|."""
    axis = torch.arange(window)
    distance = (axis[:, None] - axis[None, :]).abs()
    return (distance[:, None, :, None] * window + distance[None, :, None, :]).reshape(window**2, window**2)


class WindowAttention(nn.Module):
    """Self-attention inside a window, with a learned bias for every absolute offset. [n,t,C] to [n,t,C]."""

    offsets: Tensor

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.attention_biases = nn.Parameter(torch.zeros(heads, window**2))
        self.register_buffer("offsets", window_offsets(window), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        windows, length, dim = tokens.shape
        # Each head's query, key and value lie side by side: [n,t,M,3,C/M].
        qkv = self.qkv(self.norm(tokens)).view(windows, length, self.heads, 3, dim // self.heads)
        query, key, value = qkv.permute(3, 0, 2, 1, 4)
        bias = self.attention_biases[:, self.offsets].to(query.dtype)[None]
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        projected: Tensor = self.proj(attended.transpose(1, 2).reshape(windows, length, dim))
        return projected


class FeedForward(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, dim * EXPANSION)
        self.fc2 = nn.Linear(dim * EXPANSION, dim)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.fc2(F.gelu(self.fc1(self.norm(x))))
        return result


class AttentionBlock(nn.Module):
    """Window attention, a depthwise convolution across windows, feed-forward. [B,C,h,w] to the same."""

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.attn = WindowAttention(dim, heads, window)
        self.local_conv = conv_norm(dim, dim, 3, groups=dim)
        self.mlp = FeedForward(dim)

    def _attend(self, cells: Tensor) -> Tensor:
        """cells [B,h,w,C]. Zeros fill the last windows and take part in attention, as in the published model."""
        batch, height, width, dim = cells.shape
        side = self.window
        if (height, width) == (side, side):
            alone: Tensor = self.attn(cells.flatten(1, 2))
            return alone.view_as(cells)
        padded = F.pad(cells, (0, 0, 0, -width % side, 0, -height % side))
        rows, columns = padded.shape[1] // side, padded.shape[2] // side
        windows = padded.view(batch, rows, side, columns, side, dim).transpose(2, 3).reshape(-1, side * side, dim)
        attended = self.attn(windows).view(batch, rows, columns, side, side, dim).transpose(2, 3)
        whole: Tensor = attended.reshape(batch, rows * side, columns * side, dim)[:, :height, :width]
        return whole

    def forward(self, x: Tensor) -> Tensor:
        cells = x.permute(0, 2, 3, 1)
        x = self.local_conv((cells + self._attend(cells)).permute(0, 3, 1, 2))
        cells = x.permute(0, 2, 3, 1)
        refined: Tensor = cells + self.mlp(cells)
        return refined.permute(0, 3, 1, 2)


class Stage(nn.Module):
    """Blocks of one width, then the change to the next stage's width (none after the last)."""

    def __init__(self, blocks: list[nn.Module], downsample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)
        self.downsample = downsample if downsample is not None else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.downsample(self.blocks(x))
        return result


class TinyVit(nn.Module):
    """The image encoder: [B,3,S,S] to [B,out_channels,S/16,S/16].

    Args:
        img_size: S in pixels, a multiple of 16.
        out_channels: of the neck.
    """

    def __init__(self, img_size: int = 1024, out_channels: int = 256) -> None:
        super().__init__()
        self.img_size = img_size
        self.patch_embed = PatchEmbedding(DIMS[0])
        # Strides 4, 8, 16 and 16 again: the last change of width keeps the map, so that SAM's decoder fits.
        changes = (Downsample(DIMS[0], DIMS[1], 2), Downsample(DIMS[1], DIMS[2], 2), Downsample(DIMS[2], DIMS[3], 1))
        self.layers = nn.Sequential(Stage([InvertedBottleneck(DIMS[0]) for _ in range(DEPTHS[0])], changes[0]))
        for i in (1, 2, 3):
            blocks: list[nn.Module] = [AttentionBlock(DIMS[i], HEADS[i], WINDOWS[i]) for _ in range(DEPTHS[i])]
            self.layers.append(Stage(blocks, changes[i] if i < 3 else None))
        self.neck = nn.Sequential(
            nn.Conv2d(DIMS[3], out_channels, 1, bias=False),
            LayerNorm2d(out_channels),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            LayerNorm2d(out_channels),
        )
        self.register_load_state_dict_pre_hook(_drop_classifier)  # type: ignore[no-untyped-call]

    def forward(self, images: Tensor) -> Tensor:
        x: Tensor = self.neck(self.layers(self.patch_embed(images)))
        return x


def _drop_classifier(
    module: nn.Module, state: dict[str, Any], prefix: str, *_: Mapping[str, Any] | bool | list[str]
) -> None:
    """`mobile_sam.pt` still holds TinyViT's image classifier, which segmentation never runs."""
    del module
    for key in [k for k in state if k.startswith(tuple(prefix + name for name in _CLASSIFIER_PREFIXES))]:
        del state[key]
