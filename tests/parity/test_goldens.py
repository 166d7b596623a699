"""Every golden file that is at hand stays within its tolerance; and the runner notices what doesn't."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import SHARED
from tests.parity import run

OWN = Path(__file__).resolve().parents[1] / "data" / "parity"
QUICK = ("a_", "b_head_cnx_320x192_eval", "c_logits", "c_post_cnx.", "c_recall", "e_loss", "f_layout_fcclip_convnext")
"""Files checked by every run; the others are marked slow."""


def marked(names: list[str]) -> list[object]:
    return [pytest.param(name, marks=() if name.startswith(QUICK) else pytest.mark.slow) for name in names]


def names_in(folder: Path) -> list[str]:
    return [path.name for path in run.golden_files(folder)]


def shared_names() -> list[str]:
    """What the set beside the checkout has besides our own files; a name to skip by when there is no such set."""
    return [name for name in names_in(SHARED / "parity") if name not in names_in(OWN)] or ["(none)"]


def assert_within(path: Path) -> None:
    outside = [f"{r.case}: {r.error:.3e} > {r.tolerance:.0e}" for r in run.check_file(path) if not r.passed]
    assert not outside, "\n".join(outside)


@pytest.mark.parametrize("name", marked(names_in(OWN)))
def test_own_goldens(name: str) -> None:
    assert_within(OWN / name)


def test_every_level_has_goldens_of_its_own() -> None:
    names = names_in(OWN)
    missing = [prefix for prefix in run.LEVELS if not any(name.startswith(prefix) for name in names)]
    assert missing == ["d_"]  # It holds a photograph that may not be passed on.


@pytest.mark.shared
@pytest.mark.parametrize("name", marked(shared_names()))
def test_shared_goldens(name: str, shared_dir: Path) -> None:
    assert_within(shared_dir / "parity" / name)


def test_own_goldens_stay_small() -> None:
    assert sum(path.stat().st_size for path in OWN.iterdir() if path.is_file()) < 3_000_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("fill.py", "inputs.py", "compare.py", "a_msda.npz"):
        shutil.copy(OWN / name, tmp_path / name)
    return tmp_path


def test_runner_passes_a_good_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main([str(folder)]) == 0
    assert "a_msda/head3/grad_loc" in capsys.readouterr().out


def test_runner_fails_on_a_figure_outside(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored = dict(np.load(folder / "a_msda.npz", allow_pickle=False))
    stored["tiny/out"] = stored["tiny/out"] * 1.0001
    np.savez(folder / "a_msda.npz", **stored)
    assert run.main([str(folder)]) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("OUTSIDE")]
    assert lines
    assert all("a_msda/tiny/out" in line for line in lines)


def test_runner_follows_meta(folder: Path) -> None:
    """Other shapes and seeds than the published set's: figures made by the plain form, checked through the runner."""
    import torch

    from benchmarks.baselines.deformable_attention import grid_sample_attention
    from tests.parity.golden import load_module

    arguments = {"seed": 77, "N": 2, "M": 3, "D": 5, "Lq": 11, "P": 3, "shapes": [[3, 6], [4, 2]]}
    drawn = {key: torch.from_numpy(a) for key, a in load_module(folder, "inputs").msda(**arguments).items()}
    value, places, weights = (drawn[key].requires_grad_() for key in ("value", "loc", "w"))
    out = grid_sample_attention(value, [(3, 6), (4, 2)], places, weights)
    out.backward(drawn["grad"])
    figures = {"out": out.detach(), "grad_value": value.grad, "grad_loc": places.grad, "grad_w": weights.grad}
    arrays = {f"other/{name}": figure.numpy() for name, figure in figures.items()}
    np.savez(folder / "a_msda.npz", meta=json.dumps({"other": arguments}), **arrays)
    assert run.main([str(folder)]) == 0


@pytest.mark.parametrize("name", ["z_unknown.npz", "c_logits_broken.npz"])
def test_runner_counts_what_it_cannot_check_as_failed(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / name).write_bytes(b"no archive")
    assert run.main([str(folder)]) == 1
    assert Path(name).stem in capsys.readouterr().out


def test_runner_names_a_level_without_module(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(run.LEVELS, "a_", "absent")
    with pytest.raises(LookupError, match="absent"):
        run.check_file(folder / "a_msda.npz")


def test_runner_has_nothing_to_check(tmp_path: Path) -> None:
    assert run.main([str(tmp_path)]) == 2
