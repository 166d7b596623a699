"""Class logits of embeddings against text rows, the best synonym of each category counting.

Shape legend: B images, Q queries or masks, D CLIP width, T synonym rows, K categories.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def class_logits(
    embeddings: Tensor,
    rows: Tensor,
    row_category: Tensor,
    scale: Tensor | float,
    void_row: Tensor | None = None,
) -> Tensor:
    """Cosine with every text row times `scale`, then the maximum over each category's rows.

    Args:
        embeddings: [...,D], normalised here.
        rows: [T,D] of unit norm.
        row_category: [T] int64, ascending, every category at least once.
        scale: the factor itself, min(exp(logit_scale), 100) in the published model.
        void_row: [D], normalised here; when given, its logit is appended as the last column.

    Returns:
        [...,K] float32, or [...,K+1] with a void row. Differentiable in embeddings, rows, scale and void_row.

    Source: MODEL.md "Class logits of an embedding".
    """
    leading = embeddings.shape[:-1]
    # Normalising and the sharp scale need single precision: half precision moves a logit of 100 by 0.05.
    with torch.autocast(embeddings.device.type, enabled=False):
        directions = F.normalize(embeddings.float(), dim=-1).reshape(-1, embeddings.shape[-1])
        if isinstance(scale, Tensor):
            scale = scale.float()
        # Rows first: reducing over categories then moves contiguous rows.
        by_row = (rows.float() @ directions.T) * scale
        logits = _category_maximum(by_row, row_category)
        if void_row is not None:
            void = F.normalize(void_row.float(), dim=-1)[None] @ directions.T
            logits = torch.cat([logits, void * scale])
        return logits.T.reshape(*leading, logits.shape[0])


def _category_maximum(by_row: Tensor, row_category: Tensor) -> Tensor:
    """[T,N] to [K,N]."""
    num_rows, num_columns = by_row.shape
    num_categories = int(row_category[-1]) + 1
    if num_categories == num_rows:
        return by_row
    lowest = by_row.new_full((num_categories, num_columns), -torch.inf)
    index = row_category.to(by_row.device)[:, None].expand(num_rows, num_columns)
    return lowest.scatter_reduce(0, index, by_row, "amax")
