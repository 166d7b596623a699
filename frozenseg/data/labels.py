"""Semantic label files: one number per pixel, as PNG or TIFF of 8 or 16 bits, gray or palette."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

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


def decode_planes(data: bytes, name: str, mode: str) -> tuple[NDArray[np.uint8], ...]:
    """The planes [h,w] of a color PNG in which colors are numbers; `mode` is "RGB" or "RGBA".

    Raises:
        UserInputError: not a PNG of that mode, damaged, or over the pixel limit; `name` says which.
    """
    try:
        picture = Image.open(io.BytesIO(data), formats=("PNG",))
        width, height = picture.size
        if width * height > DEFAULT_MAX_PIXELS:
            raise UserInputError(f"{name}: expected at most {DEFAULT_MAX_PIXELS} pixels, found {width} x {height}")
        if picture.mode != mode:
            raise UserInputError(f"{name}: expected a PNG in {mode}, found mode {picture.mode!r}")
        pixels = np.asarray(picture)
    except UserInputError:
        raise
    except DECODER_ERRORS as error:
        raise UserInputError(f"{name}: expected a label PNG, found {len(data)} bytes: {error}") from None
    return tuple(pixels[:, :, index] for index in range(len(mode)))


def decode_ade_full(data: bytes, name: str) -> NDArray[np.int32]:
    """[h,w] category of ADE20K's full release: red in steps of ten counts 256, green 1. Raises as `decode_planes`."""
    red, green, _ = decode_planes(data, name, "RGB")
    values: NDArray[np.int32] = red.astype(np.int32) // 10 * 256 + green
    return values


def decode_matlab(data: bytes, name: str) -> NDArray[np.int32]:
    """[h,w] values of the matrix `LabelMap` of a MATLAB file, which is how PASCAL Context writes its labels.

    Raises:
        UserInputError: no such file or no such matrix; `name` says which.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        stream: Any = io.BytesIO(data)  # the stubs know file names only
        content = loadmat(stream, variable_names=["LabelMap"])
    except (MatReadError, NotImplementedError, *DECODER_ERRORS) as error:
        raise UserInputError(f"{name}: expected a MATLAB file (version 5), found {len(data)} bytes: {error}") from None
    values = content.get("LabelMap")
    if not isinstance(values, np.ndarray) or values.ndim != 2 or values.dtype.kind not in "iu":
        raise UserInputError(f"{name}: expected a matrix LabelMap of whole numbers, found none")
    return values.astype(np.int32)
