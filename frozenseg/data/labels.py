"""Semantic label files: one number per pixel, as PNG or TIFF of 8 or 16 bits, gray or palette."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from frozenseg.data.images import DECODER_ERRORS, DEFAULT_MAX_PIXELS
from frozenseg.errors import UserInputError

IGNORED = -1
"""Contiguous label of a pixel that nothing is known of."""


def decode_label_map(data: bytes, name: str, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> NDArray[np.int32]:
    """[h,w] int32 values as they are in the file; of a palette image the indices.

    Raises:
        UserInputError: not a label file, damaged, over the pixel limit, or in color; `name` says which.
    """
    try:
        picture = Image.open(io.BytesIO(data), formats=("PNG", "TIFF"))
        width, height = picture.size
        if width * height > max_pixels:
            raise UserInputError(f"{name}: expected at most {max_pixels} pixels, found {width} x {height}")
        if picture.mode not in ("L", "P", "I", "1") and not picture.mode.startswith("I;16"):
            raise UserInputError(f"{name}: expected one number a pixel (gray or palette), found mode {picture.mode!r}")
        values: NDArray[np.int32] = np.asarray(picture).astype(np.int32)
    except UserInputError:
        raise
    except DECODER_ERRORS as error:
        raise UserInputError(f"{name}: expected a label PNG or TIFF, found {len(data)} bytes: {error}") from None
    return values


def translate(labels: NDArray[np.int32], values: Mapping[int, int]) -> NDArray[np.int32]:
    """Contiguous ids [h,w] int32; values that aren't in the table become `IGNORED`."""
    top = max([65535, *values])
    table = np.full(top + 2, IGNORED, dtype=np.int32)
    table[list(values.keys())] = list(values.values())
    translated: NDArray[np.int32] = table[np.where((labels < 0) | (labels > top), top + 1, labels)]
    return translated
