"""The COCO panoptic PNG: a color per pixel, whose number R + 256 G + 65536 B is the id of its segment; 0 is void."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from frozenseg.data.images import DECODER_ERRORS, DEFAULT_MAX_PIXELS
from frozenseg.data.plain_files import decode_plain_png
from frozenseg.errors import UserInputError

MAX_SEGMENT_ID = 256**3 - 1
HASH_PRIMES = (127, 251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521)


def decode_id_map(png: bytes, name: str, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> NDArray[np.int32]:
    """[h,w] int32 segment ids of a panoptic PNG; `name` says in errors what it belongs to.

    Raises:
        UserInputError: not a PNG, damaged, over the pixel limit, or not in RGB.
    """
    try:
        picture = Image.open(io.BytesIO(png), formats=("PNG",))
        width, height = picture.size
        if width * height > max_pixels:
            raise UserInputError(f"{name}: expected at most {max_pixels} pixels, found {width} x {height}")
        if picture.mode not in ("RGB", "RGBA"):
            raise UserInputError(f"{name}: expected an RGB panoptic PNG, found mode {picture.mode!r}")
        pixels = decode_plain_png(picture, png)
        if pixels is None:
            pixels = np.array(picture if picture.mode == "RGB" else picture.convert("RGB"))
    except UserInputError:
        raise
    except DECODER_ERRORS as error:
        raise UserInputError(
            f"{name}: expected a panoptic PNG, found {len(png)} bytes that don't decode: {error}"
        ) from None
    return pack_colors(pixels)


def pack_colors(pixels: NDArray[np.uint8]) -> NDArray[np.int32]:
    """[h,w] numbers R + 256 G + 65536 B of contiguous colors [h,w,3]."""
    height, width = pixels.shape[:2]
    ids = np.zeros(height * width, dtype=np.int32)
    if len(ids):
        # A pixel and the first byte of the next are one little-endian number, read where it stands: no arithmetic on
        # three planes. The last pixel has no next.
        overlapping = np.ndarray((len(ids) - 1,), dtype="<i4", buffer=pixels, strides=(3,))
        np.bitwise_and(overlapping, np.int32(MAX_SEGMENT_ID), out=ids[:-1])
        red, green, blue = pixels[-1, -1].tolist()
        ids[-1] = red + (green << 8) + (blue << 16)
    return ids.reshape(height, width)


def encode_id_map(segment_ids: NDArray[np.integer]) -> bytes:
    """The panoptic PNG of a [h,w] map of ids from 0 to 256^3 - 1."""
    if segment_ids.size and not (int(segment_ids.min()) >= 0 and int(segment_ids.max()) <= MAX_SEGMENT_ID):
        raise UserInputError(
            f"segment ids of a panoptic PNG lie in 0..{MAX_SEGMENT_ID}, found {segment_ids.min()}..{segment_ids.max()}"
        )
    ids = segment_ids.astype(np.uint32)
    colors = np.stack([ids & 255, (ids >> 8) & 255, (ids >> 16) & 255], axis=-1).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(colors).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def runs(*maps: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Starts and lengths of the runs, in reading order, over which every one of the equally large maps is constant.

    Label maps are constant along rows for dozens of pixels, so what is counted or looked up per run instead of per
    pixel costs next to nothing.
    """
    size = maps[0].size
    if size == 0:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    change = np.zeros(size, dtype=bool)
    change[0] = True
    for label_map in maps:
        flat = label_map.reshape(-1)
        change[1:] |= flat[1:] != flat[:-1]
    starts = np.flatnonzero(change)
    return starts, np.diff(starts, append=size)


def positions(values: NDArray[np.int32], known: NDArray[np.int32]) -> NDArray[np.intp]:
    """Position in `known` (distinct, not negative) of each value; an arbitrary one for values that aren't there.

    A prime that keeps the few known ids apart makes the look-up one remainder, much cheaper than a search.
    """
    numbers = np.arange(len(known))
    for prime in HASH_PRIMES:
        table = np.zeros(prime, dtype=np.intp)
        slots = known % np.int32(prime)
        table[slots] = numbers
        if len(known) <= prime and np.array_equal(table[slots], numbers):
            looked_up: NDArray[np.intp] = table[values % np.int32(prime)]
            return looked_up
    order = np.argsort(known, kind="stable")
    place = np.searchsorted(known[order], values).clip(max=len(known) - 1)
    found: NDArray[np.intp] = order[place]
    return found
