"""The model as a whole: its spec, its folder on disk, its weights."""

from frozenseg.model.build import RandomWeightsWarning, WeightsSource, build_model, with_random_encoders
from frozenseg.model.folder import load_model, save_model
from frozenseg.model.frozenseg import FrozenSeg
from frozenseg.model.presets import fcclip_spec, frozenseg_spec
from frozenseg.model.spec import FORMAT_VERSION, ClipReference, ModelSpec, SamReference, read_spec

__all__ = [
    "FORMAT_VERSION",
    "ClipReference",
    "FrozenSeg",
    "ModelSpec",
    "RandomWeightsWarning",
    "SamReference",
    "WeightsSource",
    "build_model",
    "fcclip_spec",
    "frozenseg_spec",
    "load_model",
    "read_spec",
    "save_model",
    "with_random_encoders",
]
