"""The numbers of the mask decoder. The defaults are the published model's (FrozenSeg, ConvNeXt-L + SAM ViT-B)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from frozenseg.errors import UserInputError

SamMemory = Literal["published", "own_level"]
"""How the SAM branch's deformable attention reads its predictions: `published` repeats the released code's flat
indexing (what the released weights were trained with), `own_level` reads each position's own level-0 offsets with
weights normalised over that level (what new training should use). See docs/decisions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderConfig:
    """Architecture of the trained part. An empty injector tuple switches that injector off; both empty is FC-CLIP.

    Layers are counted from 0. `clip_channels` are the pyramid's channels at strides 4, 8, 16, 32; `sam_channels` is 0
    for a model without SAM (both injector tuples are then empty).
    """

    clip_channels: tuple[int, int, int, int] = (192, 384, 768, 1536)
    embedding_dim: int = 768
    sam_channels: int = 256
    hidden_dim: int = 256
    mask_dim: int = 256
    num_queries: int = 250
    num_heads: int = 8
    num_layers: int = 9
    feedforward_dim: int = 2048
    pixel_decoder_layers: int = 6
    pixel_decoder_feedforward_dim: int = 1024
    num_points: int = 4
    query_injector_layers: tuple[int, ...] = (2, 5, 8)
    feature_injector_layers: tuple[int, ...] = (0, 3, 6)
    sam_memory: SamMemory = "own_level"

    def __post_init__(self) -> None:
        """Raises UserInputError: numbers that no decoder can be built from."""
        for name in ("hidden_dim", "mask_dim", "embedding_dim", "num_queries", "num_heads", "num_layers", "num_points"):
            _require(getattr(self, name) >= 1, f"decoder: {name} must be at least 1, found {getattr(self, name)}")
        _require(
            self.hidden_dim % 32 == 0 and self.hidden_dim % self.num_heads == 0,
            f"decoder: hidden_dim must be a multiple of 32 and of num_heads ({self.num_heads}), "
            f"found {self.hidden_dim}",
        )
        for name in ("query_injector_layers", "feature_injector_layers"):
            layers: tuple[int, ...] = getattr(self, name)
            _require(
                all(0 <= layer < self.num_layers for layer in layers) and len(set(layers)) == len(layers),
                f"decoder: {name} must name distinct layers from 0 to {self.num_layers - 1}, found {layers}",
            )
        _require(
            self.sam_channels > 0 or not self.uses_sam,
            "decoder: an injector is on, but sam_channels is 0 (a model without SAM)",
        )

    @property
    def uses_sam(self) -> bool:
        """Whether any injector is on: only then SAM's features are looked at."""
        return bool(self.query_injector_layers or self.feature_injector_layers)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserInputError(message)
