"""CLIP with OpenAI's ResNet image tower (RN50 ... RN50x64): attention pooling instead of an average.

Shape legend: B images, Q masks, C channels, M heads, h w dense map, D CLIP width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from frozenseg import ops
from frozenseg.encoders.base import ClipFeatures
from frozenseg.encoders.clip import OpenClipEncoder


class ResNetClip(OpenClipEncoder):
    """ResNet CLIP: the pyramid is layer1..layer4 and the dense map is layer4, before attention pooling."""

    @property
    def pyramid_channels(self) -> tuple[int, int, int, int]:
        visual = self.model.visual
        last_blocks = (layer[-1] for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4))
        first, second, third, fourth = (int(block.bn3.num_features) for block in last_blocks)
        return first, second, third, fourth

    @property
    def ensemble_needs_mask(self) -> bool:
        return True

    def _encode_pixels(self, pixels: Tensor) -> ClipFeatures:
        output = self.model.visual.forward_intermediates(pixels, indices=[1, 2, 3, 4], intermediates_only=True)
        first, second, third, fourth = output["image_intermediates"]
        return ClipFeatures(pyramid=(first, second, third, fourth), dense=fourth)

    def _embed_pooled(self, dense: Tensor, mask_logits: Tensor, non_empty: Tensor) -> Tensor:
        """Attention pooling with the cells outside the mask blocked; an entirely blocked query gives `c_proj.bias`.

        The query (mean cell plus the class position) is the same for all masks, so its products with the keys are
        computed once and only the softmax is per mask. The class token is not among the keys.
        """
        pool = self.model.visual.attnpool
        batch, channels, height, width = dense.shape
        side = round((pool.positional_embedding.shape[0] - 1) ** 0.5)
        grid = pool.positional_embedding[1:].T.reshape(1, channels, side, side)
        position = ops.resize_bilinear(grid, (height, width))

        cells = (dense + position).flatten(2).transpose(1, 2)  # [B,hw,C]
        query = pool.q_proj(dense.mean(dim=(2, 3)) + pool.positional_embedding[0])  # [B,C]
        heads = (pool.num_heads, channels // pool.num_heads)
        query = query.unflatten(-1, heads)  # [B,M,C/M]
        keys = pool.k_proj(cells).unflatten(-1, heads)  # [B,hw,M,C/M]
        values = pool.v_proj(cells).unflatten(-1, heads)

        scores = torch.einsum("bmc,bpmc->bmp", query * heads[1] ** -0.5, keys)[:, :, None]  # [B,M,1,hw]
        blocked = (mask_logits <= 0).flatten(2)[:, None]  # [B,1,Q,hw]
        # The smallest finite number rather than -inf: a row blocked everywhere stays finite, and is zeroed below.
        weights = F.softmax(scores.masked_fill(blocked, torch.finfo(scores.dtype).min), dim=-1)
        weights = torch.where(non_empty[:, None, :, None], weights, 0.0)
        attended = torch.einsum("bmqp,bpmc->bqmc", weights.to(values.dtype), values).reshape(batch, -1, channels)
        embeddings: Tensor = pool.c_proj(attended)
        return embeddings
