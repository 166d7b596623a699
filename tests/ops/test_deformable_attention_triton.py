"""The GPU's kernels: interpreted by Triton on the CPU, and compiled where there is a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from frozenseg.ops import multi_scale_deformable_attention
from frozenseg.ops.deformable_attention import has_triton
from tests.ops import triton_script

CHECKOUT = Path(__file__).resolve().parents[2]
needs_triton = pytest.mark.skipif(not has_triton(), reason="Triton comes with torch's CUDA builds only")


@needs_triton
def test_interpreted_kernels_agree_with_the_plain_form() -> None:
    """In a process of its own: Triton reads the variable when it is imported."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.ops.triton_script", "cpu"]
    done = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert done.stdout == "agrees\n"


def test_a_cpu_never_asks_for_triton() -> None:
    """It is slow to import, and not there on every machine."""
    code = (
        "import sys, torch; from frozenseg.ops import multi_scale_deformable_attention as attend;"
        "attend(torch.zeros(1, 4, 1, 2), [(2, 2)], torch.zeros(1, 1, 1, 1, 1, 2), torch.zeros(1, 1, 1, 1, 1));"
        "assert 'frozenseg.ops.deformable_attention_triton' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.gpu
@needs_triton
def test_compiled_kernels_agree_with_the_plain_form() -> None:
    triton_script.check("cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("with_triton", [True, False])
def test_both_ways_of_a_gpu_give_the_cpus_values(with_triton: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("frozenseg.ops.deformable_attention.has_triton", lambda: with_triton)
    inputs, grad = triton_script.draw(0, torch.float32)
    expected = triton_script.forward_backward(multi_scale_deformable_attention, 0, inputs, grad)
    found = triton_script.forward_backward(multi_scale_deformable_attention, 0, [x.cuda() for x in inputs], grad.cuda())
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left.cpu(), right, rtol=1e-4, atol=1e-4)
