"""A training config from its file: files that build on another one, and where their relative addresses lead."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from frozenseg.config import from_mapping, read_toml
from frozenseg.data.files import is_remote
from frozenseg.errors import UserInputError
from pipelines.train_config import TrainConfig

BASE_KEY = "extends"
STORAGE_VARIABLE = "FROZENSEG_STORAGE"
JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray sets it for the entry point of a submitted job."""


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
    """The config with its relative addresses below $FROZENSEG_STORAGE, the folder that all nodes of a cluster see.

    A submitted job runs in a folder that is thrown away, and another one the next time: there it must be set.

    Raises:
        UserInputError: a relative output in a submitted job without that variable.
    """
    storage = os.environ.get(STORAGE_VARIABLE)
    if storage is None:
        if JOB_VARIABLE in os.environ and not Path(config.output).is_absolute():
            raise UserInputError(
                f"output {config.output!r} is relative, and a submitted job runs in a folder that is thrown away: set "
                f"{STORAGE_VARIABLE} on the cluster to a folder that all nodes see, or give --output"
            )
        return config
    root = Path(storage)

    def below(address: str) -> str:
        return address if is_remote(address) else str(root / address)

    validation = config.validation
    if validation.shards is not None:
        validation = dataclasses.replace(validation, shards=below(validation.shards))
    return dataclasses.replace(config, shards=below(config.shards), output=below(config.output), validation=validation)
