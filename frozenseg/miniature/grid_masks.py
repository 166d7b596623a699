"""SAM's masks of fixed views, made once and kept beside them."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import safetensors.torch
import torch

from frozenseg.encoders import SamImageEncoder
from frozenseg.inference.sam_masks import PUBLISHED, SamMaskGenerator
from frozenseg.miniature.assemble import SAM_GRID
from frozenseg.miniature.evaluate import GEOMETRY
from frozenseg.miniature.views import FixedViews
from frozenseg.types import SamMasks

MINIATURE_GRID = dataclasses.replace(PUBLISHED, **SAM_GRID)
"""The grid of the miniature's model folder."""


def make_grid_masks(sam: SamImageEncoder, views: FixedViews) -> tuple[SamMasks, ...]:
    """Masks of each view, from the SAM map that the views hold."""
    generator = SamMaskGenerator(sam, MINIATURE_GRID)
    embeddings = views.maps[5]
    return tuple(generator.from_embedding(embedding.float(), GEOMETRY) for embedding in embeddings)


def save_grid_masks(masks: tuple[SamMasks, ...], path: Path) -> None:
    """One safetensors file, logits in float16."""
    tensors = {
        "counts": torch.tensor([len(m.predicted_iou) for m in masks]),
        "logits": torch.cat([m.logits for m in masks]).half(),
        "predicted_iou": torch.cat([m.predicted_iou for m in masks]),
        "stability": torch.cat([m.stability for m in masks]),
        "boxes": torch.cat([m.boxes for m in masks]),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial)
    os.replace(partial, path)


def load_grid_masks(path: Path) -> tuple[SamMasks, ...]:
    """Reads what `save_grid_masks` wrote."""
    tensors = safetensors.torch.load_file(path)
    counts = tensors["counts"].tolist()
    parts = {name: torch.split(tensors[name], counts) for name in ("logits", "predicted_iou", "stability", "boxes")}
    return tuple(
        SamMasks(
            logits=parts["logits"][i].float(),
            predicted_iou=parts["predicted_iou"][i],
            stability=parts["stability"][i],
            boxes=parts["boxes"][i],
        )
        for i in range(len(counts))
    )
