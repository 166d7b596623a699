"""From encoder maps to the maps that the transformer decoder reads.

Shape legend: B images, C hidden width, s stride, H W padded pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from frozenseg.decoder.config import DecoderConfig
from frozenseg.decoder.deformable_encoder import DeformableEncoder
from frozenseg.decoder.layers import ConvNorm, map_size
from frozenseg.ops import resize_bilinear

NUM_LEVELS = 3
"""Strides 32, 16 and 8: the maps that are refined and attended to."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PixelFeatures:
    """levels: maps [B,C,H/s,W/s] at s = 32, 16, 8; mask_features [B,mask_dim,H/4,W/4]."""

    levels: tuple[Tensor, Tensor, Tensor]
    mask_features: Tensor


class PixelDecoder(nn.Module):
    """Multi-scale deformable encoder over strides 32, 16, 8, and one FPN step to stride 4."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        stride4, stride8, stride16, stride32 = config.clip_channels
        self.input_projections = nn.ModuleList(
            ConvNorm(channels, dim, 1, bias=True, relu=False) for channels in (stride32, stride16, stride8)
        )
        self.encoder = DeformableEncoder(
            dim,
            num_layers=config.pixel_decoder_layers,
            num_heads=config.num_heads,
            num_levels=NUM_LEVELS,
            num_points=config.num_points,
            feedforward_dim=config.pixel_decoder_feedforward_dim,
        )
        self.lateral = ConvNorm(stride4, dim, 1, bias=False, relu=False)
        self.output = ConvNorm(dim, dim, 3, bias=False, relu=True)
        self.mask_projection = nn.Conv2d(dim, config.mask_dim, 1)
        nn.init.kaiming_uniform_(self.mask_projection.weight, a=1)
        assert self.mask_projection.bias is not None
        nn.init.zeros_(self.mask_projection.bias)

    def forward(self, pyramid: tuple[Tensor, Tensor, Tensor, Tensor]) -> PixelFeatures:
        """pyramid: CLIP maps at strides 4, 8, 16, 32."""
        projected = [
            projection(level) for projection, level in zip(self.input_projections, reversed(pyramid[1:]), strict=True)
        ]
        stride32, stride16, stride8 = self.encoder(projected)
        lateral = self.lateral(pyramid[0])
        merged = self.output(lateral + resize_bilinear(stride8, map_size(lateral)))
        return PixelFeatures(levels=(stride32, stride16, stride8), mask_features=self.mask_projection(merged))


class SamBranch(nn.Module):
    """Brings SAM's map to half its side and the decoder's width, and refines it by deformable attention.

    Its attention predicts for three levels and has one: `config.sam_memory` says which predictions it reads.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.reduce = ConvNorm(config.sam_channels, config.hidden_dim, 3, stride=2, bias=True, relu=True)
        self.encoder = DeformableEncoder(
            config.hidden_dim,
            num_layers=config.pixel_decoder_layers,
            num_heads=config.num_heads,
            num_levels=NUM_LEVELS,
            num_points=config.num_points,
            feedforward_dim=config.pixel_decoder_feedforward_dim,
            memory=config.sam_memory,
        )

    def forward(self, sam: Tensor) -> Tensor:
        """sam [B,C_sam,h,w] to [B,C,ceil(h/2),ceil(w/2)]."""
        refined: Tensor = self.encoder([self.reduce(sam)])[0]
        return refined
