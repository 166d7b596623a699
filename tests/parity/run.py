"""Checks every golden case of a folder: python tests/parity/run.py FOLDER [PREFIX ...]

Prints one line per quantity (case, error, tolerance, verdict) and a summary; exit code 1 when one falls outside or a
case cannot be checked, 2 when there is nothing to check. With prefixes (`a_ b_head`) only files beginning so.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
if str(CHECKOUT) not in sys.path:
    sys.path.insert(0, str(CHECKOUT))

from tests.parity.result import CaseResult  # noqa: E402  (the checkout must be on the path first)

LEVELS = {
    "a_": "msda",
    "b_": "head",
    "c_logits": "logits",
    "c_post": "post",
    "c_recall": "recall",
    "d_": "e2e",
    "e_loss": "loss",
    "e_train": "train",
    "f_layout": "layout",
}
"""Which module of tests/parity/levels checks the files that begin with a prefix."""


def golden_files(folder: Path, prefixes: Sequence[str] = ()) -> list[Path]:
    """One file per case, sorted: its .npz, or the .json of a case that has no arrays."""
    found = {path.stem: path for path in sorted(folder.glob("*.json"))}
    found.update({path.stem: path for path in sorted(folder.glob("*.npz"))})
    return [path for stem, path in sorted(found.items()) if not prefixes or stem.startswith(tuple(prefixes))]


def check_file(path: Path) -> list[CaseResult]:
    """All results of one golden file.

    Raises:
        LookupError: no level is known for the file's name, or the level's module is missing, or it checked nothing.
    """
    level = next((name for prefix, name in LEVELS.items() if path.stem.startswith(prefix)), None)
    if level is None:
        raise LookupError(f"{path.name}: no level for this name; known prefixes: {', '.join(LEVELS)}")
    module_name = f"tests.parity.levels.{level}"
    if importlib.util.find_spec(module_name) is None:
        raise LookupError(f"{path.name}: the level {level!r} has no module {module_name}")
    results: list[CaseResult] = importlib.import_module(module_name).check(path)
    if not results:
        raise LookupError(f"{path.name}: the level {level!r} compared nothing")
    return results


def _failure(path: Path, error: BaseException) -> CaseResult:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return CaseResult(case=f"{path.stem}: {text[:300]}", error=math.inf, tolerance=0.0, passed=False)


def main(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0].startswith("-"):
        print(__doc__)
        return 2
    folder, *prefixes = arguments
    files = golden_files(Path(folder).resolve(), prefixes)
    if not files:
        print(f"no golden files in {folder}" + (f" that begin with {' or '.join(prefixes)}" if prefixes else ""))
        return 2
    print(f"{'verdict':8}{'error':>12}{'tolerance':>12}  case")
    started, counts = time.monotonic(), {True: 0, False: 0}
    for path in files:
        try:
            results = check_file(path)
        except Exception as error:  # noqa: BLE001  (a case that breaks is a failed case, and the others still count)
            results = [_failure(path, error)]
        for result in results:
            counts[result.passed] += 1
            verdict = "ok" if result.passed else "OUTSIDE"
            print(f"{verdict:8}{result.error:12.3e}{result.tolerance:12.0e}  {result.case}", flush=True)
    seconds = time.monotonic() - started
    print(f"{counts[True]} within tolerance, {counts[False]} outside; {len(files)} files, {seconds:.0f} s")
    return 1 if counts[False] else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
