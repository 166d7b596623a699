"""The configs in the checkout load, and describe the models that they say."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from frozenseg.config import load_toml
from frozenseg.decoder import MaskDecoder
from frozenseg.errors import UserInputError
from pipelines.train_config import ModelSection, TrainConfig, WorkersSection, override

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize(
    ("name", "trained"),
    [("coco-convnext-large", 26_497_153), ("coco-rn50x64", 27_792_001), ("fcclip-convnext-large", 20_721_601)],
)
def test_published_recipes_train_the_published_number_of_parameters(name: str, trained: int) -> None:
    config = load_toml(CONFIGS / f"{name}.toml", TrainConfig)
    decoder = MaskDecoder(config.model.decoder)
    assert sum(p.numel() for p in decoder.parameters()) == trained
    rate = config.step_decay()
    assert [rate(step) for step in (0, 327_777, 327_778, 355_092)] == pytest.approx([1e-4, 1e-4, 1e-5, 1e-6])
    assert config.micro_batch_size == 4
    assert config.name == name


def test_the_miniature_config_fits_the_miniature_encoders() -> None:
    config = load_toml(CONFIGS / "miniature.toml", TrainConfig)
    spec = config.model_spec(None)
    assert spec.sam is not None
    assert spec.decoder == config.model.decoder
    assert config.workers.num_workers == 2


def test_the_command_line_takes_the_place_of_the_file() -> None:
    config = load_toml(CONFIGS / "miniature.toml", TrainConfig)
    changed = override(config, shards="s3://x", num_steps=7, engine="torch", random_encoders=True)
    assert (changed.shards, changed.schedule.num_steps, changed.engine.kind) == ("s3://x", 7, "torch")
    assert changed.model.random_encoders
    assert changed.output == config.output


def test_local_paths_are_made_absolute_for_workers_that_run_elsewhere() -> None:
    config = load_toml(CONFIGS / "miniature.toml", TrainConfig)
    anchored = override(config, shards="s3://bucket/x", output="runs/here").anchored()
    here = Path.cwd() / "runs" / "here"
    assert anchored.shards == "s3://bucket/x"
    assert anchored.output == str(here)
    assert anchored.checkpoint_address == str(here / "checkpoints")
    assert anchored.model.encoders_of == "miniature"
    model = dataclasses.replace(config.model, encoders_of="some/model", start_from="other/model")
    anchored = dataclasses.replace(config, model=model).anchored()
    assert anchored.model.encoders_of == str(Path.cwd() / "some" / "model")
    assert anchored.model.start_from == str(Path.cwd() / "other" / "model")


def test_a_misspelt_key_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text((CONFIGS / "miniature.toml").read_text().replace("learning_rate", "learning_rat"))
    with pytest.raises(UserInputError, match=r"learning_rat\b.*learning_rate"):
        load_toml(path, TrainConfig)


def test_sizes_that_do_not_divide_and_contradicting_encoders_are_refused() -> None:
    config = load_toml(CONFIGS / "miniature.toml", TrainConfig)
    with pytest.raises(UserInputError, match="multiple of num_workers x micro_batches = 3"):
        dataclasses.replace(config, workers=WorkersSection(num_workers=3))
    with pytest.raises(UserInputError, match="encoders_of"):
        dataclasses.replace(config, model=ModelSection())
