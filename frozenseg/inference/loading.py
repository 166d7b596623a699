"""From the names a user types to a segmenter on a device."""

from __future__ import annotations

from pathlib import Path

import torch

from frozenseg.config import suggestion
from frozenseg.errors import MissingPathError, UserInputError
from frozenseg.inference.segmenter import Segmenter
from frozenseg.model import load_model

MINIATURE = "miniature"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_segmenter(name_or_folder: str | Path, device: str = "auto", dtype: str = "float32") -> Segmenter:
    """Arguments and errors as in :func:`frozenseg.load`."""
    if dtype not in DTYPES:
        raise UserInputError(f"dtype: expected one of {', '.join(DTYPES)}, found {dtype!r}")
    model = load_model(model_folder(name_or_folder), resolve_device(device), DTYPES[dtype])
    return Segmenter(model)


def model_folder(name_or_folder: str | Path) -> Path:
    """The folder that a name or path means.

    Raises:
        MissingPathError: there is none.
    """
    if str(name_or_folder) == MINIATURE:
        return Path(__file__).resolve().parent.parent / "miniature" / "model"
    folder = Path(name_or_folder)
    if not folder.is_dir():
        hint = suggestion(str(name_or_folder), [MINIATURE])
        raise MissingPathError(f"model folder {folder} does not exist{hint}")
    return folder


def resolve_device(name: str) -> torch.device:
    """`auto` is CUDA, else Apple's MPS, else the CPU.

    Raises:
        UserInputError: an unknown device, or one that this machine lacks.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(kind for kind, there in available.items() if there))
    kind = name.split(":")[0]
    if kind not in available:
        raise UserInputError(f"device: expected auto, cpu, cuda or mps, found {name!r}")
    if not available[kind]:
        raise UserInputError(f"device {name!r}: this machine has none that torch can use")
    return torch.device(name)
