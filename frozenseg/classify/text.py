"""A vocabulary as CLIP text rows.

Shape legend: K categories, T synonym rows, D CLIP width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from frozenseg.classify.templates import VILD_TEMPLATES, check_templates, fill_templates
from frozenseg.types import TextEmbeddings, Vocabulary

TEXTS_PER_CALL = 224
"""Sentences in one run of the text tower: 16 names in 14 templates."""


class TextEncoder(Protocol):
    """The part of a CLIP encoder that this module needs."""

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """[N,D], not normalised."""
        ...


def embed_names(clip: TextEncoder, names: Sequence[str], templates: Sequence[str] = VILD_TEMPLATES) -> Tensor:
    """One unit row for each name: the mean of its normalised sentences, normalised again.

    Names of like length share a run of the text tower, so that short names don't pay for long ones.

    Returns:
        [len(names),D] float32, on the encoder's device.

    Raises:
        UserInputError: templates without exactly one `{}`, or words that a reduced text tower doesn't know.
    """
    check_templates(templates)
    order = sorted(range(len(names)), key=lambda i: len(names[i]))
    names_per_call = max(1, TEXTS_PER_CALL // len(templates))
    rows: list[Tensor] = []
    for start in range(0, len(order), names_per_call):
        chunk = order[start : start + names_per_call]
        sentences = clip.encode_text([text for i in chunk for text in fill_templates(names[i], templates)])
        unit = F.normalize(sentences.float(), dim=-1).reshape(len(chunk), len(templates), -1)
        rows.append(F.normalize(unit.mean(dim=1), dim=-1))
    in_order = torch.cat(rows)
    position = torch.tensor(order, device=in_order.device)
    return torch.empty_like(in_order).index_copy_(0, position, in_order)


@torch.no_grad()
def embed_vocabulary(
    clip: TextEncoder, vocabulary: Vocabulary, templates: Sequence[str] = VILD_TEMPLATES
) -> TextEmbeddings:
    """Text rows of every name of every category; a name that several categories share is encoded once.

    Raises:
        UserInputError: as `embed_names`.
    """
    names = [(name, k) for k, category in enumerate(vocabulary.categories) for name in category.names]
    unique = {name: i for i, name in enumerate(dict.fromkeys(name for name, _ in names))}
    rows = embed_names(clip, list(unique), templates)
    pick = torch.tensor([unique[name] for name, _ in names], device=rows.device)
    return TextEmbeddings(
        rows=rows[pick],
        row_category=torch.tensor([k for _, k in names], dtype=torch.int64, device=rows.device),
    )
