"""The miniature world: procedural panoptic scenes and small encoders, so that everything runs and can be measured
on a laptop. `frozenseg.load("miniature")` needs only the weights in `model/`, not this package."""

from frozenseg.miniature.categories import full_vocabulary, training_vocabulary
from frozenseg.miniature.dataset import encoded_sample, train_scenes, val_scenes, write_dataset
from frozenseg.miniature.encoders import (
    IMAGE_SIZE,
    MINIATURE_SAM,
    build_miniature_clip,
    build_miniature_sam,
    known_captions,
)
from frozenseg.miniature.world import SCENE_SIZE, Scene, SceneSegment, make_scene

__all__ = [
    "IMAGE_SIZE",
    "MINIATURE_SAM",
    "SCENE_SIZE",
    "Scene",
    "SceneSegment",
    "build_miniature_clip",
    "build_miniature_sam",
    "encoded_sample",
    "full_vocabulary",
    "known_captions",
    "make_scene",
    "train_scenes",
    "training_vocabulary",
    "val_scenes",
    "write_dataset",
]
