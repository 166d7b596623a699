"""Class logits of embeddings, and the ensemble of the decoder's classes with CLIP's.

Shape legend: B images, Q queries, K categories, D CLIP width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from frozenseg import ops
from frozenseg.types import TextEmbeddings

LOG_EPSILON = 1e-8


def class_logits(embeddings: Tensor, text: TextEmbeddings, scale: float | Tensor, void: Tensor | None = None) -> Tensor:
    """Scaled cosine with every text row; a category's logit is the maximum over its names. Differentiable.

    Args:
        embeddings: [B,Q,D], normalised here.
        text: rows of the vocabulary.
        scale: factor of the cosine, e.g. min(exp(logit_scale), 100).
        void: [D] row of "none of these", normalised here; None leaves its column out.

    Returns:
        [B,Q,K], or [B,Q,K+1] with void last.
    """
    return ops.class_logits(embeddings, text.rows, text.row_category, scale, void)


def ensemble_class_scores(
    decoder_logits: Tensor,
    clip_logits: Tensor,
    non_empty: Tensor | None,
    seen: Tensor,
    alpha: float = 0.4,
    beta: float = 0.8,
) -> Tensor:
    """Geometric mean of the decoder's and CLIP's class probabilities, weighted by seen and unseen.

    Source: paper, Eq. 3; the published code's two softmaxes and epsilon.

    Args:
        decoder_logits: [B,Q,K+1], void last.
        clip_logits: [B,Q,K], of mask-pooled CLIP features.
        non_empty: [B,Q] bool, False where the mask has no cell at the dense resolution: there the decoder's classes
            stand alone (ResNet). None takes CLIP's everywhere (ConvNeXt).
        seen: [K] bool.
        alpha: CLIP's weight for seen categories, in [0,1].
        beta: CLIP's weight for unseen categories, in [0,1].

    Returns:
        [B,Q,K+1] float32: log(probability + 1e-8), void last. Finite for finite decoder logits.
    """
    # Logarithms of softmaxes throughout: p ** a underflows, and 0 times log 0 would be NaN.
    log_in = F.log_softmax(decoder_logits[..., :-1].float(), dim=-1)
    log_out = F.log_softmax(clip_logits.float(), dim=-1)
    weight = torch.where(seen.to(log_in.device), alpha, beta).to(log_in.dtype)
    mixed = (1 - weight) * log_in + weight * log_out
    if non_empty is not None:
        mixed = torch.where(non_empty[..., None], mixed, log_in)
    void_probability = F.softmax(decoder_logits.float(), dim=-1)[..., -1:]
    probabilities = F.softmax(mixed, dim=-1) * (1 - void_probability)
    return torch.log(torch.cat([probabilities, void_probability], dim=-1) + LOG_EPSILON)
