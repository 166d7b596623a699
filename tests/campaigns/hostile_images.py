"""Bytes that are no picture although they look like one: cut short, promising too much, or of no kind that is read."""

from __future__ import annotations

import io
import random
import struct
import time
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

READ_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
OTHER_FORMATS = ("ICO", "TGA", "PCX", "SGI", "JPEG2000", "PDF", "EPS")
"""Formats that are refused although their files are whole: each further decoder is one more surface."""
_DAY = time.gmtime(0)
_BOMB = zlib.compress(bytes(40 << 20))


def picture(dice: random.Random, form: str) -> bytes:
    """A small valid picture of noise."""
    side = dice.randint(8, 64)
    pixels = np.random.default_rng(dice.getrandbits(32)).integers(0, 256, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    # A PDF carries the time of its writing; the same seed makes the same bytes.
    dated = {"creationDate": _DAY, "modDate": _DAY} if form == "PDF" else {}
    Image.fromarray(pixels).save(buffer, form, **dated)
    return buffer.getvalue()


def promising(dice: random.Random, form: str) -> bytes:
    """A few hundred bytes whose head promises hundreds of megapixels."""
    data = bytearray(picture(dice, form))
    side = dice.randint(9_000, 16_000)
    if form == "PNG":
        head = struct.pack(">II", side, side) + data[24:29]
        data[16:33] = head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    elif form == "JPEG":
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = struct.pack(">HH", side, side)
    elif form == "WEBP":
        data[26:30] = struct.pack("<HH", side, side)
    elif form == "GIF":
        data[6:10] = struct.pack("<HH", side, side)
    elif form == "BMP":
        data[18:26] = struct.pack("<ii", side, side)
    elif form == "TIFF":
        for tag in (256, 257):
            entry = data.index(struct.pack("<HHI", tag, 4, 1))
            data[entry + 8 : entry + 12] = struct.pack("<I", side)
    else:
        data[:] = b"P6 %d %d 255\n" % (side, side) + data[-100:]
    return bytes(data)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _text_bomb(dice: random.Random) -> bytes:
    """A PNG with a comment of a few kilobytes that unpacks to many megabytes."""
    png = picture(dice, "PNG")
    return png[:33] + _chunk(b"zTXt", b"note\0\0" + _BOMB) + png[33:]


def _impossible_size(dice: random.Random) -> bytes:
    """A PNG of a size that no picture has."""
    width, height = dice.choice([(2**31 - 1, 2**31 - 1), (0, 10), (10, 0), (2**31, 1), (2**32 - 1, 1)])
    head = struct.pack(">IIBBBBB", width, height, 8, dice.choice([0, 2, 6]), 0, 0, 0)
    body = _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(bytes(2000))) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def hostile_image(dice: random.Random) -> tuple[str, bytes]:
    """The next of a seeded generator: how it was made, and its bytes."""
    form = dice.choice(READ_FORMATS)
    other = dice.choice(OTHER_FORMATS)
    whole = picture(dice, form)
    make: dict[str, Callable[[], bytes]] = {
        f"{form} cut in its head": lambda: whole[: dice.randint(1, 12)],
        f"{form} cut in its pixels": lambda: whole[: int(len(whole) * dice.uniform(0.3, 0.8))],
        f"{form} with a broken magic": lambda: bytes([whole[0] ^ 0xFF, whole[1] ^ 0xFF]) + bytes(len(whole) - 2),
        f"{form} that promises too much": lambda: promising(dice, form),
        f"a whole {other}": lambda: picture(dice, other),
        "PNG of an impossible size": lambda: _impossible_size(dice),
        "PNG with a comment that unpacks to 40 MB": lambda: _text_bomb(dice),
        "TIFF that points past its end": lambda: b"II*\0" + struct.pack("<I", dice.randint(100, 2**32 - 1)) + bytes(8),
        "noise": lambda: dice.randbytes(dice.randint(1, 4000)),
        "zeros": lambda: bytes(dice.randint(1, 4000)),
        "text": lambda: b"<svg onload=alert(1)>" * dice.randint(1, 20),
        "empty": lambda: b"",
        "zip": lambda: b"PK\x03\x04" + dice.randbytes(200),
    }
    kind = dice.choice(sorted(make))
    return kind, make[kind]()
