"""The commonest kinds of file, decoded by faster libraries than Pillow; every other file is left to Pillow.

The pixels are the same to the bit. What such a library refuses, Pillow is asked about, and its answer counts.
"""

from __future__ import annotations

import numpy as np
import simplejpeg
from kornia_rs import io as kornia_io
from numpy.typing import NDArray
from PIL import ExifTags, Image, JpegImagePlugin, PngImagePlugin


def decode_plain_jpeg(picture: Image.Image, data: bytes) -> NDArray[np.uint8] | None:
    """[h,w,3] of an opened but not yet loaded `picture`, whose file's bytes are `data`.

    None unless it is a JPEG in color that no EXIF entry turns, and undamaged.
    """
    if not (isinstance(picture, JpegImagePlugin.JpegImageFile) and picture.format == "JPEG" and picture.mode == "RGB"):
        return None
    if picture.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        return None
    try:
        # A hostile file may have one size for Pillow, which the caller held against its limit, and another here.
        if tuple(simplejpeg.decode_jpeg_header(data, strict=True)[:2]) != (picture.height, picture.width):
            return None
        # strict: of a file cut short, libjpeg-turbo would give gray for what is missing.
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False, strict=True)
    except ValueError:
        return None
    return pixels


def decode_plain_png(picture: Image.Image, data: bytes) -> NDArray[np.uint8] | None:
    """[h,w,3] of an opened but not yet loaded `picture`, whose file's bytes are `data`; nothing is turned.

    For label maps: it keeps other Python threads waiting, for as long as a photograph in a PNG takes to decode.
    None unless it is a still PNG in RGB of 8 bits without interlacing, and undamaged.
    """
    if not (
        isinstance(picture, PngImagePlugin.PngImageFile)
        and picture.mode == "RGB"
        and picture.tile
        and picture.tile[0].args == "RGB"
        and not picture.info.get("interlace")
        and not picture.is_animated
    ):
        return None
    try:
        pixels: NDArray[np.uint8] = kornia_io.decode_image_png_u8(data, (picture.height, picture.width), "rgb")
    except BaseException as error:  # the library has no error of its own
        # A panic in its Rust is no Exception, so that it would end a job; Ctrl-C must.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        return None
    return pixels
