"""The laboratory at a size that trains nothing worth having: rows, SAMs, files, and going on."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from frozenseg.config import load_toml
from frozenseg.errors import UserInputError
from frozenseg.miniature.ablation import Ablation, OptionRow, SamRow, TrainedRow
from frozenseg.miniature.ablation_inputs import load_inputs, make_inputs
from frozenseg.miniature.ablation_report import read_results, table
from frozenseg.miniature.encoders import MINIATURE_SAM
from frozenseg.miniature.iou_head import IouHeadFitting
from frozenseg.miniature.laboratory import run_ablation
from frozenseg.miniature.pretrain_sam import SamPretraining
from frozenseg.miniature.train_decoder import DecoderTraining

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "miniature-ablation.toml"
HARDLY_TRAINED = SamPretraining(
    num_scenes=4, num_steps=1, num_encoder_steps=1, batch_size=2, num_points=2, num_mask_steps=1,
    iou_head=IouHeadFitting(num_scenes=2, num_points=2, num_steps=1, batch_size=2),
)  # fmt: skip
OTHER_SAM = SamRow(
    name="other",
    architecture=dataclasses.replace(MINIATURE_SAM, name="other-sam", dim=32, depth=1, global_attn_indexes=(0,)),
    training=HARDLY_TRAINED,
)


def ablation(to: Path) -> Ablation:
    return Ablation(
        to=to,
        num_train_views=3,
        num_test_views=2,
        num_steps=1,
        num_workers=1,
        baseline="plain",
        rows=(
            TrainedRow(name="plain", num_seeds=2),
            TrainedRow(name="injected", query_injector_layers=(2,), num_seeds=1, sam="other", read_as=("masks",)),
        ),
        options=(OptionRow(name="masks", options={"openseg": True}),),
        sams=(OTHER_SAM,),
        training=DecoderTraining(batch_size=2, num_points=16),
    )


def test_rows_with_two_sams_are_trained_read_and_reported_once(tmp_path: Path) -> None:
    small = ablation(tmp_path)
    run_ablation(small)
    results = sorted(path.name for path in (tmp_path / "results").iterdir())
    assert results == ["injected+masks.0.json", "injected.0.json", "plain.0.json", "plain.1.json"]
    # A rerun goes on with what is missing: one reading of a decoder that is there.
    decoder = small.decoder_file("injected", 0)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    lost = small.result_file("injected", 0, "masks")
    before = json.loads(lost.read_text())["scores"]
    lost.unlink()
    run_ablation(small)
    assert json.loads(lost.read_text())["scores"] == before
    assert all(path.stat().st_mtime_ns == time for path, time in written.items() if path != lost)
    assert decoder in written
    report = table(read_results(tmp_path), "plain")
    assert [line.split("|")[1].strip() for line in report.splitlines()[2:]] == ["injected", "injected + masks", "plain"]


def test_views_of_two_sams_differ_in_sams_map_alone(tmp_path: Path) -> None:
    small = ablation(tmp_path)
    make_inputs(small)
    own, other = load_inputs(small, ""), load_inputs(small, "other")
    assert own.train.source != other.train.source
    *clip, sam = zip(own.train.maps, other.train.maps, strict=True)
    assert all(left.equal(right) for left, right in clip)
    assert sam[0].shape == sam[1].shape
    assert not sam[0].equal(sam[1])
    # No row with the model's own SAM is read with masks.
    assert own.masks == ()
    assert len(other.masks) == small.num_test_views


def test_a_row_with_a_sam_that_nobody_defined_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserInputError, match=r"row 'plain' is to have SAM 'huge', which \[\[sams\]\] doesn't define"):
        dataclasses.replace(ablation(tmp_path), rows=(TrainedRow(name="plain", sam="huge"),))


def test_the_projects_config_has_the_papers_rows() -> None:
    config = load_toml(CONFIG, Ablation)
    sizes = {row.name: row.architecture for row in config.sams}
    assert sizes["small"].dim < MINIATURE_SAM.dim
    assert {row.num_seeds for row in config.rows if row.name in ("fc-clip", "query-injector", "both-injectors")} == {5}
    assert {row.name for row in config.rows if row.sam} == {"fc-clip-small-sam", "both-injectors-small-sam"}
