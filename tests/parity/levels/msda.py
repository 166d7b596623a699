"""a_msda*: multi-scale deformable attention alone, forward and its three gradients, and the flat memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from frozenseg.ops import multi_scale_deformable_attention, read_flat_memory
from tests.parity.golden import load_module
from tests.parity.result import CaseResult

MEAN_TOLERANCE = 1e-6
LARGEST_TOLERANCE = 1e-5
LARGEST_ROUNDINGS = 4 * float(np.finfo(np.float32).eps)
"""Four roundings of the array's largest entry, where that is more than the absolute tolerance: location gradients are
multiplied by the map's size, and from 64 on one unit in the last place of float32 is already 7.6e-6."""


def check(path: Path) -> list[CaseResult]:
    """Per case and array two lines: relative mean, and largest absolute difference."""
    inputs = load_module(path.parent, "inputs")
    golden = load_module(path.parent, "compare").Golden(path)
    results = []
    for case, arguments in golden.meta.items():
        drawn = {key: torch.from_numpy(array) for key, array in inputs.msda(**arguments).items()}
        value, locations, weights = (drawn[key].requires_grad_() for key in ("value", "loc", "w"))
        shapes = [(int(height), int(width)) for height, width in arguments["shapes"]]
        if arguments.get("levels", len(shapes)) == len(shapes):
            read = (locations, weights)
        else:
            read = (read_flat_memory(locations), read_flat_memory(weights))
        out = multi_scale_deformable_attention(value, shapes, *read)
        out.backward(drawn["grad"])
        found = {"out": out, "grad_value": value.grad, "grad_loc": locations.grad, "grad_w": weights.grad}
        for name in golden.names():
            if not name.startswith(f"{case}/"):
                continue
            array = found[name.removeprefix(f"{case}/")]
            assert array is not None
            largest, mean = golden.diff(name, array.detach().numpy())
            allowed = max(LARGEST_TOLERANCE, LARGEST_ROUNDINGS * float(np.abs(golden.get(name)).max()))
            for kind, error, tolerance in (("mean", mean, MEAN_TOLERANCE), ("max", largest, allowed)):
                label = f"{path.stem}/{name} {kind}"
                results.append(CaseResult(case=label, error=error, tolerance=tolerance, passed=error <= tolerance))
    return results
