"""CLIP with a ConvNeXt image tower (timm), as LAION trained it: base, large, xxlarge and any other of that family."""

from __future__ import annotations

from torch import Tensor

from frozenseg import ops
from frozenseg.encoders.base import ClipFeatures
from frozenseg.encoders.clip import OpenClipEncoder


class ConvNextClip(OpenClipEncoder):
    """ConvNeXt CLIP: the pyramid is the four stages, the dense map is the last one after the trunk's `norm_pre`."""

    @property
    def pyramid_channels(self) -> tuple[int, int, int, int]:
        first, second, third, fourth = (int(stage["num_chs"]) for stage in self.model.visual.trunk.feature_info)
        return first, second, third, fourth

    @property
    def ensemble_needs_mask(self) -> bool:
        return False

    def _encode_pixels(self, pixels: Tensor) -> ClipFeatures:
        dense, stages = self.model.visual.trunk.forward_intermediates(pixels, indices=[0, 1, 2, 3])
        first, second, third, fourth = stages
        return ClipFeatures(pyramid=(first, second, third, fourth), dense=dense)

    def _embed_pooled(self, dense: Tensor, mask_logits: Tensor, non_empty: Tensor) -> Tensor:  # noqa: ARG002
        """Pooled vector through the trunk's head (its norm) and CLIP's projection, as one 1x1 image per mask."""
        visual = self.model.visual
        pooled = ops.pool_masks(dense, mask_logits).to(dense.dtype)
        one_pixel_maps = pooled.flatten(0, 1)[:, :, None, None]
        embeddings: Tensor = visual.head(visual.trunk.forward_head(one_pixel_maps))
        return embeddings.reshape(pooled.shape[0], pooled.shape[1], -1)
