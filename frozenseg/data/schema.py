"""Looking up keys of parsed JSON so that what is missing or of the wrong kind is named, with file and place."""

from __future__ import annotations

from typing import Any, TypeVar

from frozenseg.errors import UserInputError

T = TypeVar("T", int, str, list[Any], dict[str, Any], float)


def require(entry: Any, key: str, kind: type[T], place: str) -> T:
    """`entry[key]`, of the given kind (a float may be written as an integer; a flag may be a boolean).

    Raises:
        UserInputError: `entry` is no object, the key is missing, or its value is of another kind.
    """
    if not isinstance(entry, dict):
        raise UserInputError(f"{place}: expected an object with the key {key!r}, found {type(entry).__name__}")
    if key not in entry:
        raise UserInputError(f"{place}: expected the key {key!r}, found only {sorted(entry)}")
    value = entry[key]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return kind(value)
    if kind is int and (isinstance(value, bool) or (isinstance(value, float) and value.is_integer())):
        return kind(value)
    if not isinstance(value, kind):
        raise UserInputError(f"{place}: expected {key!r} to be {kind.__name__}, found {value!r:.60}")
    return value


def image_key(entry: Any, key: str, place: str) -> str:
    """An image id as text; data sets use whole numbers or names.

    Raises:
        UserInputError: missing, neither number nor text, empty, or with a dot or slash (shards name files by the id).
    """
    value = entry.get(key) if isinstance(entry, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise UserInputError(f"{place}: expected {key!r} to be a number or a name, found {value!r:.60}")
    text = str(value)
    if not text or "." in text or "/" in text:
        raise UserInputError(f"{place}: expected {key!r} without dots and slashes, found {text!r}")
    return text
