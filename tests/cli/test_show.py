"""The figures of `frozenseg show`: what they show is right, and files come out; how they look was looked at."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from frozenseg.cli import main
from frozenseg.decoder.layers import AttentionBlock
from frozenseg.encoders.sam import sam_preset
from frozenseg.encoders.sam_builder import build_sam
from frozenseg.inference.attention_maps import attention_weights
from frozenseg.inference.figures import Curve, clusters, draw_curves, heat_over, side_by_side
from frozenseg.miniature.dataset import write_dataset


def test_recomputed_attention_is_what_the_block_uses() -> None:
    torch.manual_seed(0)
    block = AttentionBlock(8, 2)
    x, memory, position, places = torch.rand(1, 3, 8), torch.rand(1, 5, 8), torch.rand(3, 8), torch.rand(5, 8)
    allowed = torch.tensor([[[1, 1, 0, 0, 1], [1, 1, 1, 1, 1], [0, 0, 0, 1, 0]]], dtype=torch.bool)
    weights = attention_weights(block, x, memory, position=position, memory_position=places, allowed=allowed)
    assert torch.allclose(weights.sum(-1), torch.ones(1, 3), atol=1e-6)
    assert weights[~allowed].abs().max() == 0
    # With an identity for the values' way, one head at a time, the block's own output is the weighted mean.
    with torch.no_grad():
        single = AttentionBlock(8, 1)
        single.in_projection.weight[16:] = torch.eye(8)
        single.out_projection.weight.copy_(torch.eye(8))
        found = attention_weights(single, x, memory, position=position, memory_position=places, allowed=allowed)
        expected = single.norm(x + found @ memory)
        output = single(x, memory, position=position, memory_position=places, allowed=allowed)
    assert torch.allclose(output, expected, atol=1e-5)


def test_clusters_tell_two_materials_apart() -> None:
    features = torch.zeros(3, 6, 9)
    features[:, :, 6:] = 5
    labels = clusters(features + 0.01 * torch.rand(3, 6, 9), 2)
    assert (labels[:, :6] == 0).all()
    assert (labels[:, 6:] == 1).all()


def test_heat_is_bright_where_values_are_great() -> None:
    values = torch.zeros(4, 4)
    values[1, 2] = 3
    heat = np.asarray(heat_over(torch.full((3, 4, 4), 90, dtype=torch.uint8), values)).sum(-1)
    assert np.unravel_index(heat.argmax(), heat.shape) == (1, 2)
    sheet = side_by_side([("a title much too long for its panel", Image.new("RGB", (10, 20)))], notice="RANDOM WEIGHTS")
    assert sheet.height > 360


def test_a_curve_goes_where_its_numbers_are() -> None:
    curve = Curve(name="a", x=(0.5, 0.9), y=(1.0, 1.0), color=(255, 0, 0))
    pixels = np.asarray(draw_curves([curve], "IoU", "recall")).astype(int)
    red = (pixels[:, :600, 0] - pixels[:, :600, 1] > 200).nonzero()[0]
    assert red.min() >= 40
    assert red.max() <= 52  # At the top of the plot: recall 1.


def test_the_command_on_the_miniature(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = write_dataset(tmp_path / "world", 1, 1, 0)
    picture = str(next((world / "val").iterdir()))
    for name, arguments in {
        "attention": [picture],
        "features": [picture, "--clusters", "4"],
        "panels": ["--dataset", "own-panoptic", "--root", str(world)],
    }.items():
        target = tmp_path / f"{name}.png"
        assert main(["show", name, *arguments, "--to", str(target), "--device", "cpu"]) == 0
        with Image.open(target) as figure:
            assert figure.width > 700
    command = ["show", "panels", "--dataset", "own-panoptic", "--root", str(world)]
    assert main([*command, "--images", "5"]) == 2
    assert "--images: expected positions from 0 to 0, found [5]" in capsys.readouterr().err


def test_features_of_a_released_sam_are_those_of_its_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FROZENSEG_WEIGHTS", str(tmp_path))
    picture = tmp_path / "picture.png"
    Image.effect_noise((64, 48), 80).convert("RGB").save(picture)
    command = ["show", "features", str(picture), "--sams", "vit_t", "--device", "cpu", "--clusters", "3", "--to"]
    assert main([*command, str(tmp_path / "none.png")]) == 2
    assert "frozenseg weights get sam-vit-t" in capsys.readouterr().err
    torch.manual_seed(0)
    torch.save(build_sam(sam_preset("vit_t")).sam.state_dict(), tmp_path / "mobile_sam.pt")
    assert main([*command, str(tmp_path / "one.png")]) == 0
    with Image.open(tmp_path / "one.png") as figure:
        assert 400 < figure.width < 900, "the picture and one panel"


def test_recall_curves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid = {"thresholds": [0.5, 0.7, 0.9], "recall": [0.9, 0.6, 0.1]}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        report = {"recall_curves": {"seen": grid, "unseen": {**grid, "recall": [0.5, 0.3, 0.0]}}}
        (tmp_path / name / "metrics.json").write_text(json.dumps(report))
    folders = [str(tmp_path / "one"), str(tmp_path / "two")]
    assert main(["show", "recall", *folders, "--to", str(tmp_path / "recall.png")]) == 0
    assert (tmp_path / "recall.png").stat().st_size > 1000
    (tmp_path / "one/metrics.json").write_text("{}")
    assert main(["show", "recall", folders[0]]) == 2
    assert "expected evaluations with proposal recall, found none" in capsys.readouterr().err
