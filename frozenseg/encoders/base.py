"""What the rest of the library asks of a frozen encoder. Families are classes; callers know only these protocols.

Shape legend: B images, H W padded pixels (multiples of 32), Q masks, D CLIP width, C channels, h w map size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClipFeatures:
    """pyramid: 4 maps [B,C_l,H/s,W/s], s = 4, 8, 16, 32; dense [B,C,H/32,W/32]."""

    pyramid: tuple[Tensor, Tensor, Tensor, Tensor]
    dense: Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PooledEmbeddings:
    """embeddings [B,Q,D] (not normalised); non_empty [B,Q] bool: the mask covers at least one dense cell."""

    embeddings: Tensor
    non_empty: Tensor


class ClipEncoder(Protocol):
    """A frozen CLIP: image pyramid, mask pooling, text."""

    @property
    def architecture(self) -> str: ...
    @property
    def weights_hash(self) -> str:
        """sha256 hex digest of the parameters and buffers."""
        ...

    @property
    def embedding_dim(self) -> int: ...
    @property
    def pyramid_channels(self) -> tuple[int, int, int, int]: ...
    @property
    def ensemble_needs_mask(self) -> bool:
        """True where an empty mask has no CLIP evidence (ResNet): alpha and beta are 0 for it. Source: FACTS/MODEL."""
        ...

    @property
    def logit_scale(self) -> float:
        """min(exp(learned log scale), 100)."""
        ...

    def encode_image(self, images: Tensor, valid_sizes: Tensor) -> ClipFeatures:
        """images [B,3,H,W] uint8 RGB; valid_sizes [B,2] int64. Normalises, zeroes the padding, runs the trunk."""
        ...

    def pool_masks(self, dense: Tensor, mask_logits: Tensor) -> PooledEmbeddings:
        """dense [B,C,h,w]; mask_logits [B,Q,h',w'], resized bilinearly to h,w. A cell belongs where > 0."""
        ...

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """[N,D], not normalised. Text longer than the context is cut, with a warning that names it."""
        ...


class SamEncoder(Protocol):
    """A frozen SAM image encoder."""

    @property
    def architecture(self) -> str: ...
    @property
    def weights_hash(self) -> str: ...
    @property
    def out_channels(self) -> int: ...
    @property
    def input_size(self) -> int:
        """Side of the square input in pixels: 1024 for the released models."""
        ...

    def encode_image(self, images: Tensor, valid_sizes: Tensor) -> Tensor:
        """images [B,3,H,W] uint8 RGB, padded. Normalises with SAM's statistics, zeroes the padding, resizes bilinearly
        without antialias to the square input whatever the aspect; returns [B,C,h,w] (64x64 for the released models)."""
        ...
