"""Checks a deployment file: `python -m serve.deployment serve/config.yaml`.

Ray's own schema accepts keys that it does not know, so a misspelt one would silently do nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from frozenseg.config import suggestion
from frozenseg.errors import MissingPathError, UserInputError
from serve.settings import ServeSettings, settings_from

IMPORT_PATH = "serve.app:build"


def check_deployment(path: str | Path) -> list[ServeSettings]:
    """The settings of every application of ours in a `serve deploy` file.

    Raises:
        UserInputError: no YAML, an unknown key at any level, a value that Ray refuses, or no application of ours.
    """
    from ray.serve.schema import ServeDeploySchema

    path = Path(path)
    if not path.is_file():
        raise MissingPathError(f"deployment file {path} does not exist")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserInputError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserInputError(f"{path}: expected a mapping with the key 'applications'")
    _check_keys(content, ServeDeploySchema, str(path))
    try:
        ServeDeploySchema.model_validate(content)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False)[0]
        raise UserInputError(f"{path}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}") from error
    ours = [a for a in content.get("applications", []) if a["import_path"] == IMPORT_PATH]
    if not ours:
        raise UserInputError(f"{path}: no application has the import path {IMPORT_PATH!r}")
    return [settings_from(application.get("args") or {}) for application in ours]


def _check_keys(found: Mapping[str, Any], schema: type[BaseModel], where: str) -> None:
    """Raises UserInputError for a key that `schema`, or a schema within it, lacks."""
    known = schema.model_fields
    for key, value in found.items():
        if key not in known:
            raise UserInputError(f"{where}: unknown key {key!r}{suggestion(str(key), list(known))}")
        inner = _inner_schema(known[key].annotation)
        if inner is None:
            continue
        for position, entry in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(entry, dict):
                name = f"{key}[{position}]" if isinstance(value, list) else key
                _check_keys(entry, inner, f"{where}: {name}")


def _inner_schema(annotation: Any) -> type[BaseModel] | None:
    """The schema in `X`, `X | None` or `list[X]`, where there is one."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        inner = _inner_schema(argument)
        if inner is not None:
            return inner
    return None


def main(arguments: list[str]) -> int:
    """Prints what is wrong on one line (exit code 2), or that the file is in order."""
    if len(arguments) != 1:
        print("usage: python -m serve.deployment FILE", file=sys.stderr)  # noqa: T201
        return 2
    try:
        settings = check_deployment(arguments[0])
    except UserInputError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    print(f"{arguments[0]}: in order; serves {', '.join(s.model for s in settings)}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
