"""The helper modules that lie beside the golden figures: fill.py (weights), inputs.py (inputs), compare.py."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def load_module(folder: Path, name: str) -> ModuleType:
    """Module `name` of a golden folder, fresh. They import each other by bare name, so it is registered under it."""
    if name == "compare":
        load_module(folder, "inputs")
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
