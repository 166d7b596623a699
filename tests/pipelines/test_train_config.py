"""The configs in the checkout load, and describe the models that they say."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from frozenseg.config import load_toml
from frozenseg.decoder import MaskDecoder
from frozenseg.errors import UserInputError
from pipelines.storage_root import JOB_VARIABLE, STORAGE_VARIABLE
from pipelines.train_config import ModelSection, TrainConfig, WorkersSection, override
from pipelines.train_file import load_train_config, on_storage
from pipelines.train_overrides import Overrides

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
    assert config.micro_batch_size() == 4
    assert config.name == name


def test_the_miniature_config_fits_the_miniature_encoders() -> None:
    config = load_toml(CONFIGS / "miniature.toml", TrainConfig)
    spec = config.model_spec(None)
    assert spec.sam is not None
    assert spec.decoder == config.model.decoder
    assert config.workers.num_workers == 2


def test_the_command_line_takes_the_place_of_the_file() -> None:
    config = load_toml(CONFIGS / "miniature.toml", TrainConfig)
    changed = override(config, Overrides(shards="s3://x", steps=7, engine="torch", workers=1, random_encoders=True))
    assert (changed.shards, changed.schedule.num_steps, changed.engine.kind) == ("s3://x", 7, "torch")
    assert changed.model.random_encoders
    assert (changed.output, changed.validation) == (config.output, config.validation)
    assert changed.micro_batch_size() == 2 * config.micro_batch_size()
    assert override(config, Overrides(validation="s3://y", select="PQ-unseen")).validation.select == "PQ-unseen"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("ablation/*.toml")), ids=lambda path: path.stem)
def test_an_ablation_row_differs_from_the_papers_run_where_its_name_says(path: Path) -> None:
    paper, row = load_train_config(CONFIGS / "coco-convnext-large.toml"), load_train_config(path)
    assert (row.name, row.output) == (path.stem, f"runs/ablation/{path.stem}")
    same = dataclasses.replace(row, name=paper.name, output=paper.output)
    if path.stem == "select-by-ade20k":
        assert dataclasses.replace(same, validation=paper.validation) == paper
        assert row.validation.select == "PQ"
        return
    assert row.model.decoder != paper.model.decoder
    assert dataclasses.replace(same, model=dataclasses.replace(row.model, decoder=paper.model.decoder)) == paper
    for kind in ("query", "feature"):
        layers = (
            row.model.decoder.query_injector_layers if kind == "query" else row.model.decoder.feature_injector_layers
        )
        if path.stem.startswith(f"{kind}-injector-stride"):
            strides = {(32, 16, 8)[layer % 3] for layer in layers}
            assert strides == {int(path.stem.removeprefix(f"{kind}-injector-stride"))}
        elif path.stem.startswith(("query", "feature")) and not path.stem.startswith(kind):
            assert not layers


def test_fine_tuning_goes_on_from_a_released_model() -> None:
    config = load_train_config(CONFIGS / "fine-tune.toml")
    assert config.model.start_from == config.model.encoders_of
    assert config.model.decoder.sam_memory == "published"
    assert sum(p.numel() for p in MaskDecoder(config.model.decoder).parameters()) == 26_497_153


def test_files_that_extend_each_other_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('extends = "b.toml"\n')
    (tmp_path / "b.toml").write_text('extends = "a.toml"\n')
    with pytest.raises(UserInputError, match="in a circle"):
        load_train_config(tmp_path / "a.toml")
    (tmp_path / "c.toml").write_text("extends = 3\n")
    with pytest.raises(UserInputError, match="the name of a config file, found 3"):
        load_train_config(tmp_path / "c.toml")


def test_relative_addresses_lie_on_the_storage_and_a_job_must_have_one(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_train_config(CONFIGS / "miniature.toml")
    assert on_storage(config) == config
    monkeypatch.setenv(JOB_VARIABLE, "{}")
    with pytest.raises(UserInputError, match=r"output 'runs/miniature' is relative.*FROZENSEG_STORAGE"):
        on_storage(config)
    monkeypatch.setenv(STORAGE_VARIABLE, "/storage")
    found = on_storage(override(config, Overrides(shards="s3://bucket/shards")))
    assert (found.shards, found.output) == ("s3://bucket/shards", "/storage/runs/miniature")
    assert found.model == config.model, "the miniature is no folder"
    model = dataclasses.replace(config.model, encoders_of="models/mine", start_from="/models/mine")
    found = on_storage(dataclasses.replace(config, model=model))
    assert (found.model.encoders_of, found.model.start_from) == ("/storage/models/mine", "/models/mine")


def test_local_paths_are_made_absolute_for_workers_that_run_elsewhere() -> None:
    config = load_toml(CONFIGS / "miniature.toml", TrainConfig)
    anchored = dataclasses.replace(config, shards="s3://bucket/x", output="runs/here").anchored()
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
    with pytest.raises(UserInputError, match="min_workers <= num_workers"):
        dataclasses.replace(config, workers=WorkersSection(num_workers=2, min_workers=3))
    with pytest.raises(UserInputError, match="= 3"):  # an elastic group may get any size in between
        dataclasses.replace(config, workers=WorkersSection(num_workers=4, min_workers=2))
    with pytest.raises(UserInputError, match="`select` needs `shards`"):
        override(config, Overrides(select="PQ"))
    with pytest.raises(UserInputError, match="encoders_of"):
        dataclasses.replace(config, model=ModelSection())


@pytest.mark.parametrize(
    ("batch_size", "workers", "mode", "expected"),
    [
        (8, WorkersSection(num_workers=4), "stream", 8),
        (8, WorkersSection(num_workers=2, micro_batches=2), "stream", 8),
        (8, WorkersSection(num_workers=4), "inline", 2),
        (8, WorkersSection(num_workers=4, min_workers=4), "stream", 2),
        (32, WorkersSection(num_workers=2), "stream", 16),
    ],
)
def test_small_micro_batches_share_a_block_where_the_group_keeps_its_size(
    batch_size: int, workers: WorkersSection, mode: Any, expected: int
) -> None:
    config = load_toml(CONFIGS / "miniature.toml", TrainConfig)
    features = dataclasses.replace(config.features, mode=mode, cache=None, block_images=None, encoder_batch=1)
    config = dataclasses.replace(config, batch_size=batch_size, workers=workers, features=features)
    assert config.stream_config(config.model_spec(None)).images_per_block == expected


def test_blocks_fill_the_micro_batches_of_every_group_that_may_come() -> None:
    config = load_toml(CONFIGS / "miniature.toml", TrainConfig)
    config = dataclasses.replace(config, batch_size=24, workers=WorkersSection(num_workers=3, min_workers=2))
    assert config.common_batch_size == 4  # of 12 and 8
    spec = config.model_spec(None)
    assert config.stream_config(spec).images_per_block == 4
    features = dataclasses.replace(config.features, encoder_batch=2, block_images=2)
    assert dataclasses.replace(config, features=features).stream_config(spec).images_per_block == 2
    alone = dataclasses.replace(config, workers=WorkersSection(num_workers=2))
    features = dataclasses.replace(features, block_images=24)
    assert dataclasses.replace(alone, features=features).stream_config(spec).images_per_block == 24
    with pytest.raises(UserInputError, match=r"block_images 3: .* divides the 8 images of a worker's micro-batch"):
        dataclasses.replace(config, features=dataclasses.replace(features, block_images=3))
    with pytest.raises(UserInputError, match="block_images 48: expected a divisor of batch_size 24"):
        dataclasses.replace(config, features=dataclasses.replace(features, block_images=48))
