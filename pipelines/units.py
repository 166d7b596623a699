"""Sizes as people write them."""

from __future__ import annotations

import re

from frozenseg.errors import UserInputError

_FACTORS = {"": 1, "B": 1, "KB": 2**10, "MB": 2**20, "GB": 2**30, "TB": 2**40}


def parse_bytes(text: str) -> int:
    """`256MB` -> 268435456; units of 1024. Raises UserInputError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?B|)", text.strip().upper())
    if match is None or float(match[1]) <= 0:
        raise UserInputError(f"size {text!r}: expected a number with KB, MB or GB, such as 256MB")
    return int(float(match[1]) * _FACTORS[match[2]])
