"""Puts the miniature model together: its spec, and its folder inside the package."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from frozenseg.decoder import MaskDecoder
from frozenseg.encoders import OpenClipEncoder, SamImageEncoder
from frozenseg.miniature.categories import training_vocabulary
from frozenseg.miniature.encoders import IMAGE_SIZE, MINIATURE_SAM, miniature_clip_config, miniature_tokenizer
from frozenseg.model import ClipReference, FrozenSeg, ModelSpec, SamReference, save_model
from frozenseg.model.spec import DECODER_FILE

MODEL_FOLDER = Path(__file__).parent / "model"
INFERENCE: dict[str, Any] = {
    "alpha": 0.6,
    "beta": 1.0,
    "object_threshold": 0.4,
    "overlap_threshold": 0.6,
    "epsilon": 0.4,
    "sam_panoptic_weight": 1.0,
    "shortest_side": IMAGE_SIZE,
    "longest_side": IMAGE_SIZE,
}
SAM_GRID: dict[str, Any] = {
    "points_per_side": 16,
    "min_predicted_iou": 0.5,
    "min_stability": 0.5,
    "min_region_area": 12,
}
"""What differs from the published grid. One point per 8 scene pixels: as good as 32 here, at a quarter of the time.
Regions of 100 pixels would be whole things. Thresholds below the published ones (.8 and .7): more of the small SAM's
masks are of use than it is sure of (docs/miniature.md)."""
NOTES = (
    "Trained from nothing on procedural scenes by ray_jobs/pretrain_miniature.py, for demonstrations and "
    "tests. It knows only the words of its 23 categories and says nothing about photographs; docs/miniature.md has the "
    "figures. All three weight files are this project's own work, under its licence."
)


def assemble(clip: OpenClipEncoder, sam: SamImageEncoder | None, decoder: MaskDecoder) -> FrozenSeg:
    """The model in eval mode; `sam` None for a decoder without injectors."""
    spec = ModelSpec(
        name="miniature",
        clip=ClipReference(
            architecture=miniature_clip_config(),
            source="file",
            location="clip.safetensors",
            known_token_ids=miniature_tokenizer().known_token_ids,
        ),
        sam=SamReference(architecture=MINIATURE_SAM, source="file", location="sam.safetensors") if sam else None,
        decoder=decoder.config,
        training_vocabulary=training_vocabulary(),
        inference=INFERENCE,
        sam_grid=SAM_GRID,
    )
    return FrozenSeg(clip, sam, decoder, spec).eval()


def save_miniature(model: FrozenSeg, folder: Path = MODEL_FOLDER) -> None:
    """Writes the model folder, all three weight files in float16 so that the wheel stays small."""
    save_model(model, folder, embed_encoders=True, half=True, notes=NOTES)
    weights = folder / DECODER_FILE
    partial = weights.with_suffix(".partial")
    tensors = {name: tensor.half() for name, tensor in safetensors.torch.load_file(weights).items()}
    safetensors.torch.save_file(tensors, partial)
    os.replace(partial, weights)


def round_to_half(module: torch.nn.Module) -> None:
    """Gives parameters the values that float16 files will hold, so that features are the shipped model's."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(parameter.half())
