"""Mask logits as the product of mask embeddings with a map.

Shape legend: B images, Q queries, C channels, H W map size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _MaskProduct(torch.autograd.Function):
    """The product whose backward pass reads only the queries that the loss says anything of.

    The mask losses look at the matched queries alone, one in ten or twenty: of all others the gradient is zero.
    """

    @staticmethod
    def forward(ctx: Any, embeddings: Tensor, features: Tensor) -> Tensor:
        ctx.save_for_backward(embeddings, features)
        return torch.bmm(embeddings, features.flatten(2)).view(*embeddings.shape[:2], *features.shape[2:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        embeddings, features = ctx.saved_tensors
        grad, maps = gradients[0].flatten(2), features.flatten(2)
        grad_embeddings, grad_maps = torch.zeros_like(embeddings), torch.empty_like(maps)
        # Both ends, and no sum of sizes: this way a gradient that is not a number counts as well.
        taught = (grad.amax(-1) != 0) | (grad.amin(-1) != 0)
        for image, rows in enumerate(taught):
            queries = rows.nonzero().squeeze(1)
            rest = grad[image].index_select(0, queries)
            grad_embeddings[image].index_copy_(0, queries, rest @ maps[image].T)
            torch.mm(embeddings[image].index_select(0, queries).T, rest, out=grad_maps[image])
        return grad_embeddings, grad_maps.view_as(features)


def mask_product(embeddings: Tensor, features: Tensor) -> Tensor:
    """embeddings [B,Q,C] times features [B,C,H,W]: [B,Q,H,W], in autocast's dtype where that is on.

    On the CPU it is differentiable once. Elsewhere, and in autocast, the plain product: to pick queries out a device
    would have to wait for their number, and it multiplies faster than that.
    """
    if embeddings.device.type == "cpu" and not torch.is_autocast_enabled("cpu"):
        product: Tensor = _MaskProduct.apply(embeddings, features)
        return product
    return torch.einsum("bqc,bchw->bqhw", embeddings, features)
