"""Reading released checkpoints: a bare state dict, or one wrapped by a training loop with its numpy scalars.

Nothing in a file is ever executed: `weights_only=True`, with numpy's scalar types as the only addition.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from frozenseg.errors import MissingPathError, UserInputError

_SCALAR: Any = np._core.multiarray.scalar  # type: ignore[attr-defined]
_SAFE: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    _SCALAR,
    (_SCALAR, "numpy.core.multiarray.scalar"),  # its name before numpy 2
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("float64", "float32", "float16", "int64", "int32", "uint8", "bool")),
]


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors by name, memory-mapped where the file's format allows it.

    Raises:
        MissingPathError, UserInputError: no such file; not a checkpoint, or one that holds more than plain data.
    """
    if not path.is_file():
        raise MissingPathError(f"checkpoint {path} does not exist")
    with torch.serialization.safe_globals(_SAFE):
        content = _load(path)
    if isinstance(content, Mapping):
        for key in ("model", "state_dict"):
            if isinstance(content.get(key), Mapping):
                content = content[key]
                break
    if not isinstance(content, Mapping) or not content:
        raise UserInputError(
            f"checkpoint {path}: expected tensors by name, or a dict with 'model', found something else"
        )
    strangers = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if strangers:
        raise UserInputError(f"checkpoint {path}: {strangers[0]!r} is no tensor ({len(strangers)} such entries)")
    return {str(name).removeprefix("module."): tensor for name, tensor in content.items()}


def _load(path: Path) -> Any:
    try:
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap" not in str(error):
                raise
            return torch.load(path, map_location="cpu", weights_only=True)  # the format before torch 1.6
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError, KeyError, AttributeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserInputError(f"checkpoint {path} cannot be read: {reason}") from error
