"""What is served, in the API's words, and example pictures for the page."""

from __future__ import annotations

import numpy as np
from PIL import Image

from frozenseg.inference.loading import MINIATURE, model_folder
from frozenseg.model import ModelSpec, read_spec
from frozenseg.vocabulary import format_vocabulary
from serve.answers import png_bytes
from serve.schema import ModelOut

NUM_EXAMPLES = 4
EXAMPLE_SEED = 20_000
"""Scenes from this seed on belong neither to training nor to evaluation."""


def describe_model(name: str) -> ModelOut:
    """A model folder, or `miniature`, as /v1/models tells of it."""
    spec = read_spec(model_folder(name))
    training = spec.training_vocabulary
    examples = tuple(f"/v1/examples/{i}" for i in range(NUM_EXAMPLES)) if name == MINIATURE else ()
    return ModelOut(
        name=spec.name,
        description=spec.notice or spec.notes or f"model {spec.name}",
        clip=_architecture(spec.clip.architecture),
        sam="" if spec.sam is None else _architecture(spec.sam.architecture),
        random_weights=bool(spec.random_parts),
        training_categories=() if training is None else tuple(c.name for c in training.categories),
        suggested_vocabulary=_suggestion(name, spec),
        examples=examples,
    )


def _architecture(architecture: object) -> str:
    return architecture if isinstance(architecture, str) else str(getattr(architecture, "name", "custom"))


def _suggestion(name: str, spec: ModelSpec) -> str:
    """Names to begin with: all of the miniature world, unseen ones included, else what the model was trained on."""
    if name == MINIATURE:
        from frozenseg.miniature import full_vocabulary

        return format_vocabulary(full_vocabulary())
    return "" if spec.training_vocabulary is None else format_vocabulary(spec.training_vocabulary)


def example_png(index: int) -> bytes:
    """A scene of the miniature world that no model was trained on."""
    from frozenseg.miniature.dataset import val_scenes

    [scene] = val_scenes(1, EXAMPLE_SEED, first=index)
    return png_bytes(Image.fromarray(np.ascontiguousarray(scene.image)))
