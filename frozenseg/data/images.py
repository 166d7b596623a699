"""Bytes of an image file -> pixels, for whatever cameras, scanners and paint programs write."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from frozenseg.data.plain_files import decode_plain_jpeg
from frozenseg.errors import UserInputError
from frozenseg.types import ImageSample

DEFAULT_MAX_PIXELS = 100_000_000
# Only what people photograph, scan and draw: every further decoder is one more surface for a hostile file.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
# What Pillow's decoders are known to raise on damaged files, beside OSError.
DECODER_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, AttributeError, OverflowError,
    struct.error, zlib.error, Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip


def decode_image(
    data: bytes, image_id: str, *, max_pixels: int = DEFAULT_MAX_PIXELS, file_name: str = ""
) -> ImageSample:
    """Decodes the bytes of an image file.

    EXIF rotation is applied; gray, palette and CMYK become RGB; 16-bit values keep their high byte; transparency is
    laid over white. Of an animation the first frame counts.

    Returns:
        The sample with image [3,h,w] uint8 RGB (a channels-last view: colours lie together, as resizing wants them).

    Raises:
        UserInputError: not an image, damaged, or more than `max_pixels` pixels (looked up in the header, before
            anything is decoded).
    """
    name = f"image {image_id!r}" + (f" ({file_name})" if file_name else "")
    if not data:
        raise UserInputError(f"{name}: expected an image file, found 0 bytes")
    try:
        picture: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UserInputError(f"{name}: expected at most {max_pixels} pixels, found far more in its header") from None
    except DECODER_ERRORS:
        expected = "expected an image (JPEG, PNG, WebP, BMP, TIFF, GIF, PPM)"
        raise UserInputError(f"{name}: {expected}, found {len(data)} bytes that are none of them") from None
    width, height = picture.size
    if width * height > max_pixels:
        raise UserInputError(f"{name}: expected at most {max_pixels} pixels, found {width} x {height}")
    try:
        pixels = decode_plain_jpeg(picture, data)
        if pixels is None:
            pixels = _to_rgb(picture)
    except DECODER_ERRORS as error:
        raise UserInputError(f"{name}: the file is damaged: {str(error) or type(error).__name__}") from None
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    return ImageSample(image_id=image_id, image=image, original_size=(pixels.shape[0], pixels.shape[1]))


def _to_rgb(picture: Image.Image) -> NDArray[np.uint8]:
    """[h,w,3] uint8, its own memory."""
    ImageOps.exif_transpose(picture, in_place=True)
    if picture.mode.startswith("I;16") or picture.mode == "I":
        values = np.asarray(picture).astype(np.int64)
        # Mode "I" holds 16-bit samples of a PNG or TIFF; a file of 8-bit range keeps its values.
        if picture.mode != "I" or values.max(initial=0) > 255:
            values = values >> 8
        gray = values.clip(0, 255).astype(np.uint8)
        return np.ascontiguousarray(np.broadcast_to(gray[:, :, None], (*gray.shape, 3)))
    if picture.mode == "F":
        raise ValueError("floating-point pixels have no known range; store 8 or 16 bits")
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        colored = picture.convert("RGBA")
        white = Image.new("RGBA", colored.size, (255, 255, 255, 255))
        picture = Image.alpha_composite(white, colored)
    return np.array(picture if picture.mode == "RGB" else picture.convert("RGB"))
