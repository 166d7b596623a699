"""TOML files and plain mappings -> frozen dataclasses, and back. Unknown keys are refused by name.

A config is any dataclass whose fields are str, int, float, bool, Path, None-able, Literal, tuple, dict[str, X] or other
such dataclasses. An int is accepted where a float is meant, never the other way round.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from frozenseg.errors import MissingPathError, UserInputError

T = TypeVar("T")
_SCALARS: dict[type, str] = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


def load_toml(path: str | Path, cls: type[T]) -> T:
    """Reads a TOML file into the dataclass `cls`; fields that the file leaves out keep their defaults.

    Raises:
        MissingPathError: no such file.
        UserInputError: not TOML, an unknown key (with the nearest known one), a missing key or a wrong type.
    """
    return from_mapping(read_toml(Path(path)), cls, where=str(path))


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        MissingPathError: no such file.
        UserInputError: not TOML.
    """
    if not path.is_file():
        raise MissingPathError(f"config file {path} does not exist")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserInputError(f"config file {path} is not TOML: {error}") from error


def load_json(path: str | Path, cls: type[T]) -> T:
    """Like :func:`load_toml` for a JSON file."""
    path = Path(path)
    if not path.is_file():
        raise MissingPathError(f"file {path} does not exist")
    return from_mapping(read_json(path), cls, where=str(path))


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UserInputError: not JSON, or not an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserInputError(f"file {path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise UserInputError(f"file {path}: expected a JSON object, found {_describe(value)}")
    return value


def from_mapping(mapping: Mapping[str, Any], cls: type[T], *, where: str) -> T:
    """Builds the dataclass `cls`; `where` (a file name, say) begins every message.

    Raises:
        UserInputError: an unknown or missing key or a wrong type, named with its path ("decoder.num_queries").
    """
    return typing.cast(T, _dataclass(mapping, cls, where, ""))


def to_json_dict(value: Any) -> Any:
    """Dataclass -> dicts, lists and scalars that JSON and TOML hold; None fields are left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        pairs = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
        return {name: to_json_dict(item) for name, item in pairs if item is not None}
    if isinstance(value, Mapping):
        return {str(key): to_json_dict(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_json_dict(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def to_toml(value: Any) -> str:
    """A dataclass as TOML text that :func:`load_toml` reads back to an equal value."""
    lines: list[str] = []
    _write_table(to_json_dict(value), "", lines)
    return "\n".join(lines).strip() + "\n"


def suggestion(name: str, known: typing.Iterable[str]) -> str:
    """`; did you mean 'x'?` when a known name is near, else nothing."""
    nearest = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""


def _dataclass(mapping: Any, cls: type, where: str, path: str) -> Any:
    if not isinstance(mapping, Mapping):
        raise UserInputError(f"{where}: {path or 'the file'}: expected a table of keys, found {_describe(mapping)}")
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    for key in mapping:
        if key not in fields:
            hint = suggestion(key, fields) or f"; known keys: {', '.join(fields)}"
            raise UserInputError(f"{where}: unknown key {_join(path, key)!r}{hint}")
    hints = typing.get_type_hints(cls)
    arguments = {}
    for name, field in fields.items():
        if name in mapping:
            arguments[name] = _convert(mapping[name], hints[name], where, _join(path, name))
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise UserInputError(f"{where}: the key {_join(path, name)!r} is missing")
    try:
        return cls(**arguments)
    except UserInputError as error:
        raise UserInputError(f"{where}: {path + ': ' if path else ''}{error}") from error


def _convert(value: Any, hint: Any, where: str, path: str) -> Any:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _convert_union(value, hint, where, path)
    if origin is Literal:
        if value not in get_args(hint):
            hint_text = suggestion(value, [str(a) for a in get_args(hint)]) if isinstance(value, str) else ""
            choices = ", ".join(map(repr, get_args(hint)))
            raise UserInputError(f"{where}: {path}: expected one of {choices}, found {value!r}{hint_text}")
        return value
    if origin is tuple:
        return _convert_tuple(value, get_args(hint), where, path)
    if origin in (dict, Mapping) or origin is typing.get_origin(Mapping[str, int]):
        if not isinstance(value, Mapping):
            raise UserInputError(f"{where}: {path}: expected a table of keys, found {_describe(value)}")
        return {
            str(key): _convert(item, get_args(hint)[1], where, _join(path, str(key))) for key, item in value.items()
        }
    if dataclasses.is_dataclass(hint):
        return _dataclass(value, typing.cast(type, hint), where, path)
    if hint is Any:
        return value
    return _convert_scalar(value, hint, where, path)


def _convert_union(value: Any, hint: Any, where: str, path: str) -> Any:
    choices = [choice for choice in get_args(hint) if choice is not type(None)]
    if value is None and type(None) in get_args(hint):
        return None
    if len(choices) == 1:
        return _convert(value, choices[0], where, path)
    if isinstance(value, Mapping):  # a table can only be the dataclass: its own message names the wrong key
        for choice in choices:
            if dataclasses.is_dataclass(choice):
                return _convert(value, choice, where, path)
    for choice in choices:
        try:
            return _convert(value, choice, where, path)
        except UserInputError:
            continue
    raise UserInputError(f"{where}: {path}: expected {_name(hint)}, found {_describe(value)}")


def _convert_tuple(value: Any, items: tuple[Any, ...], where: str, path: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise UserInputError(f"{where}: {path}: expected a list, found {_describe(value)}")
    if len(items) == 2 and items[1] is Ellipsis:
        return tuple(_convert(item, items[0], where, f"{path}[{i}]") for i, item in enumerate(value))
    if len(value) != len(items):
        raise UserInputError(f"{where}: {path}: expected {len(items)} values, found {len(value)}")
    return tuple(_convert(v, t, where, f"{path}[{i}]") for i, (v, t) in enumerate(zip(value, items, strict=True)))


def _convert_scalar(value: Any, hint: Any, where: str, path: str) -> Any:
    if hint is Path and isinstance(value, (str, Path)):
        return Path(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint in _SCALARS and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise UserInputError(f"{where}: {path}: expected {_name(hint)}, found {_describe(value)}")


def _name(hint: Any) -> str:
    if hint in _SCALARS:
        return _SCALARS[hint]
    if hint is Path:
        return "a path"
    return str(hint).replace("typing.", "")


def _describe(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _write_table(table: Mapping[str, Any], path: str, lines: list[str]) -> None:
    for key, value in table.items():
        if not isinstance(value, Mapping) and not _is_table_list(value):
            lines.append(f"{_key(key)} = {_value(value)}")
    for key, value in table.items():
        name = f"{path}.{_key(key)}" if path else _key(key)
        if isinstance(value, Mapping):
            lines.extend(["", f"[{name}]"])
            _write_table(value, name, lines)
        elif _is_table_list(value):
            for item in value:
                lines.extend(["", f"[[{name}]]"])
                _write_table(item, name, lines)


def _is_table_list(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(isinstance(item, Mapping) for item in value)


def _key(key: str) -> str:
    plain = key.isascii() and key.replace("_", "").replace("-", "").isalnum()
    return key if plain else json.dumps(key)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, int):
        return str(value)
    return json.dumps(str(value), ensure_ascii=True).replace("\x7f", "\\u007f")
