from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from frozenseg.data import decode_image
from frozenseg.errors import UserInputError

SIZE = (6, 9)
GRAY = np.arange(54, dtype=np.uint8).reshape(SIZE) * 4
COLOR = np.stack([GRAY, 255 - GRAY, GRAY // 2], axis=-1)


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(data: bytes) -> np.ndarray:
    return decode_image(data, "7").image.permute(1, 2, 0).numpy()


def test_rgb_pixels_are_those_of_the_file() -> None:
    sample = decode_image(encoded(Image.fromarray(COLOR)), "7")
    assert sample.image_id == "7"
    assert sample.original_size == SIZE
    assert sample.image.dtype == torch.uint8
    np.testing.assert_array_equal(sample.image.permute(1, 2, 0).numpy(), COLOR)


def test_gray_becomes_three_equal_colors() -> None:
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(GRAY))), np.stack([GRAY] * 3, axis=-1))


def test_sixteen_bits_keep_the_high_byte() -> None:
    deep = (GRAY.astype(np.uint16) << 8) + 17
    for kind in ("PNG", "TIFF"):
        np.testing.assert_array_equal(pixels(encoded(Image.fromarray(deep), kind))[:, :, 1], GRAY)


def test_dark_sixteen_bit_image_stays_dark() -> None:
    """A file whose values all lie under 256 isn't mistaken for 8 bits."""
    assert pixels(encoded(Image.fromarray(np.full(SIZE, 200, dtype=np.uint16)))).max() == 0


def test_transparency_lies_over_white() -> None:
    rgba = np.dstack([COLOR, np.full(SIZE, 255, dtype=np.uint8)])
    rgba[2, 3, 3] = 0
    expected = COLOR.copy()
    expected[2, 3] = 255
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(rgba))), expected)


def test_palette_with_and_without_transparency() -> None:
    palette = Image.fromarray(COLOR).quantize(16)
    expected = np.asarray(palette.convert("RGB"))
    np.testing.assert_array_equal(pixels(encoded(palette)), expected)
    index = int(np.asarray(palette)[0, 0])
    found = pixels(encoded(palette, transparency=index))
    assert (found[np.asarray(palette) == index] == 255).all()
    np.testing.assert_array_equal(found[np.asarray(palette) != index], expected[np.asarray(palette) != index])


def test_cmyk_jpeg_is_near_its_colors() -> None:
    flat = np.full((16, 16, 3), (200, 40, 90), dtype=np.uint8)
    data = encoded(Image.fromarray(flat).convert("CMYK"), "JPEG", quality=95)
    assert np.abs(pixels(data).astype(int) - flat).max() < 8


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [(1, lambda a: a), (2, lambda a: a[:, ::-1]), (3, lambda a: a[::-1, ::-1]), (6, lambda a: np.rot90(a, -1))],
)
def test_exif_rotation_is_applied(orientation: int, turn: object) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    sample = decode_image(encoded(Image.fromarray(COLOR), exif=exif), "7")
    expected = turn(COLOR)  # type: ignore[operator]
    assert sample.original_size == expected.shape[:2]
    np.testing.assert_array_equal(sample.image.permute(1, 2, 0).numpy(), expected)


def test_pixel_limit_is_checked_in_the_header() -> None:
    """The file claims 90000 x 90000 pixels and holds none: only a check before decoding can give this message."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    for width, message in ((90_000, "found far more"), (20_000, "at most 1000 pixels, found 20000 x 100")):
        header = struct.pack(">IIBBBBB", width, 90_000 if width == 90_000 else 100, 8, 2, 0, 0, 0)
        data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
        with pytest.raises(UserInputError, match=message):
            decode_image(data, "big", max_pixels=1000)


def test_limit_itself_is_allowed() -> None:
    data = encoded(Image.fromarray(COLOR))
    assert decode_image(data, "7", max_pixels=54).original_size == SIZE
    with pytest.raises(UserInputError, match="at most 53 pixels, found 9 x 6"):
        decode_image(data, "7", max_pixels=53)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "found 0 bytes"),
        (b"hello, I am text" * 9, "found 144 bytes that are none of them"),
        (encoded(Image.fromarray(np.tile(COLOR, (40, 40, 1))))[:300], "damaged"),
        (encoded(Image.fromarray(np.tile(COLOR, (40, 40, 1))), "JPEG")[:700], "damaged"),
        (encoded(Image.fromarray(GRAY.astype(np.float32)), "TIFF"), "floating-point"),
    ],
    ids=["empty", "text", "cut PNG", "cut JPEG", "float"],
)
def test_what_is_no_image_is_named(data: bytes, message: str) -> None:
    with pytest.raises(UserInputError, match=message) as error:
        decode_image(data, "a7", file_name="b.jpg")
    assert "'a7' (b.jpg)" in str(error.value)
    assert "\n" not in str(error.value)
