"""A training config from its file: files that build on another one, and where their relative addresses lead."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from frozenseg.config import from_mapping, read_toml
from frozenseg.errors import UserInputError
from pipelines.storage_root import below_storage, result_below_storage
from pipelines.train_config import MINIATURE, TrainConfig

BASE_KEY = "extends"


def load_train_config(path: Path) -> TrainConfig:
    """A config file. Its key `extends` names another one, beside it, whose values hold where this one says nothing.

    Raises:
        UserInputError: as `frozenseg.config.load_toml`; files that extend each other in a circle.
    """
    return from_mapping(_merged(path, ()), TrainConfig, where=str(path))


def _merged(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    mapping = read_toml(path)
    base = mapping.pop(BASE_KEY, None)
    if base is None:
        return mapping
    if not isinstance(base, str):
        raise UserInputError(f"{path}: {BASE_KEY}: expected the name of a config file, found {base!r}")
    base_path = path.parent / base
    if base_path.resolve() in above:
        raise UserInputError(f"{path}: {BASE_KEY} = {base!r}: the files extend each other in a circle")
    return _over(mapping, _merged(base_path, (*above, path.resolve())))


def _over(mapping: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """The base's values with the mapping's in their place, table by table."""
    merged = dict(base)
    for key, value in mapping.items():
        below = merged.get(key)
        merged[key] = _over(value, below) if isinstance(value, Mapping) and isinstance(below, Mapping) else value
    return merged


def on_storage(config: TrainConfig) -> TrainConfig:
    """The config with its relative addresses below $FROZENSEG_STORAGE.

    Raises:
        UserInputError: a relative output in a submitted job without that variable.
    """
    model, features, validation, checkpoints = config.model, config.features, config.validation, config.checkpoints
    if features.cache is not None:
        kept = dataclasses.replace(features.cache, address=below_storage(features.cache.address))
        features = dataclasses.replace(features, cache=kept)
    return dataclasses.replace(
        config,
        shards=below_storage(config.shards),
        output=result_below_storage(config.output, "--output"),
        model=dataclasses.replace(
            model, encoders_of=_model_below(model.encoders_of), start_from=_model_below(model.start_from)
        ),
        features=features,
        validation=dataclasses.replace(validation, shards=_below(validation.shards)),
        checkpoints=dataclasses.replace(checkpoints, address=_below(checkpoints.address)),
    )


def _below(address: str | None) -> str | None:
    return address if address is None else below_storage(address)


def _model_below(folder: str | None) -> str | None:
    return folder if folder == MINIATURE else _below(folder)
