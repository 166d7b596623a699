"""The fast decoders give Pillow's pixels, and leave to Pillow whatever they might read otherwise."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from frozenseg.data import decode_id_map, decode_image, encode_id_map
from frozenseg.data.panoptic_png import pack_colors
from frozenseg.data import plain_files
from frozenseg.data.plain_files import decode_plain_jpeg, decode_plain_png
from frozenseg.errors import UserInputError

NOISE = np.random.default_rng(0).integers(0, 256, (45, 61, 3), dtype=np.uint8)
# Neighbouring pixels alike, as in photographs: then chroma that is stored at half the size tells in the result.
SMOOTH = np.asarray(Image.fromarray(NOISE[:9, :12]).resize((61, 45), Image.Resampling.BICUBIC))


def encoded(pixels: np.ndarray, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def pillow(data: bytes) -> np.ndarray:
    return np.array(opened(data).convert("RGB"))


@pytest.mark.parametrize("pixels", [NOISE, SMOOTH], ids=["noise", "smooth"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"subsampling": "4:4:4", "quality": 98},
        {"subsampling": "4:2:2", "quality": 60},
        {"subsampling": "4:2:0", "quality": 30},
        {"progressive": True, "subsampling": "4:2:0"},
        {"optimize": True, "restart_marker_rows": 1},
        {"keep_rgb": True},
        {"comment": b"a note", "dpi": (72, 72)},
    ],
    ids=str,
)
def test_jpeg_pixels_are_pillows(pixels: np.ndarray, options: dict[str, object]) -> None:
    data = encoded(pixels, "JPEG", **options)
    fast = decode_plain_jpeg(opened(data), data)
    assert fast is not None
    np.testing.assert_array_equal(fast, pillow(data))
    np.testing.assert_array_equal(decode_image(data, "7").image.permute(1, 2, 0).numpy(), pillow(data))


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (7, 9), (16, 16), (17, 33)])
def test_jpeg_of_any_size(size: tuple[int, int]) -> None:
    data = encoded(SMOOTH[: size[0], : size[1]], "JPEG", subsampling="4:2:0")
    np.testing.assert_array_equal(decode_plain_jpeg(opened(data), data), pillow(data))


def test_jpeg_that_is_gray_cmyk_turned_or_of_several_pictures_is_left_to_pillow() -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    buffer, four_colors = io.BytesIO(), io.BytesIO()
    first = Image.fromarray(NOISE)
    first.convert("CMYK").save(four_colors, "JPEG")
    first.save(buffer, "MPO", save_all=True, append_images=[first])
    several = buffer.getvalue()
    assert opened(several).format == "MPO"
    for data in (
        encoded(NOISE[:, :, 0], "JPEG"),
        four_colors.getvalue(),
        encoded(NOISE, "JPEG", exif=turned),
        several,
    ):
        assert decode_plain_jpeg(opened(data), data) is None
    assert decode_image(encoded(NOISE, "JPEG", exif=turned), "7").original_size == (61, 45)
    upright = Image.Exif()
    upright[0x0112], upright[0x010F] = 1, "a camera"
    data = encoded(NOISE, "JPEG", exif=upright)
    assert decode_plain_jpeg(opened(data), data) is not None


def label_map() -> np.ndarray:
    """Patches, rows that repeat and noise, so that the encoder takes every filter."""
    rng = np.random.default_rng(3)
    ids = rng.integers(0, 256**3, (6, 8)).repeat(10, 0).repeat(10, 1)
    ids[25:30] = rng.integers(0, 256**3, (5, 80))
    ids[30:34] = np.arange(80) * 70_001
    return ids


@pytest.mark.parametrize("level", [0, 1, 6, 9])
def test_png_pixels_are_pillows(level: int) -> None:
    ids = label_map()
    colors = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=-1).astype(np.uint8)
    data = encoded(colors, "PNG", compress_level=level)
    fast = decode_plain_png(opened(data), data)
    assert fast is not None
    np.testing.assert_array_equal(fast, colors)
    np.testing.assert_array_equal(decode_id_map(data, "x"), ids)


def test_png_of_another_kind_is_left_to_pillow() -> None:
    others = {
        "gray": encoded(NOISE[:, :, 0], "PNG"),
        "palette": encoded(np.asarray(Image.fromarray(NOISE).quantize(8)), "PNG"),
        "alpha": encoded(np.dstack([NOISE, NOISE[:, :, :1]]), "PNG"),
        "16 bits": encoded(NOISE[:, :, 0].astype(np.uint16) << 8, "PNG"),
        "no PNG": encoded(NOISE, "BMP"),
    }
    for name, data in others.items():
        assert decode_plain_png(opened(data), data) is None, name
    buffer = io.BytesIO()
    frames = [Image.fromarray(NOISE), Image.fromarray(SMOOTH)]
    frames[0].save(buffer, "PNG", save_all=True, append_images=frames[1:])
    assert decode_plain_png(opened(buffer.getvalue()), buffer.getvalue()) is None


def test_png_with_notes_profile_and_a_transparent_color_keeps_its_ids() -> None:
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Software", "a program")
    ids = label_map()
    colors = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=-1).astype(np.uint8)
    transparent = tuple(colors[0, 0].tolist())
    data = encoded(colors, "PNG", pnginfo=notes, transparency=transparent, dpi=(72, 72), icc_profile=b"x" * 200)
    np.testing.assert_array_equal(decode_id_map(data, "x"), ids)


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 1), (3, 4)])
def test_colors_pack_into_numbers(size: tuple[int, int]) -> None:
    colors = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    wide = colors.astype(np.int32)
    expected = wide[:, :, 0] + 256 * wide[:, :, 1] + 65536 * wide[:, :, 2]
    np.testing.assert_array_equal(pack_colors(colors), expected)


def damaged(data: bytes, seed: int) -> bytes:
    """Cut short, or with one to three bytes changed, half of the time near the beginning."""
    rng = random.Random(seed)
    if rng.random() < 0.3:
        return data[: rng.randrange(4, len(data))]
    changed = bytearray(data)
    for _ in range(rng.randrange(1, 4)):
        changed[rng.randrange(120 if rng.random() < 0.5 else len(data))] = rng.randrange(256)
    return bytes(changed)


@pytest.mark.filterwarnings("ignore")  # Pillow warns of some damages and decodes on.
@pytest.mark.parametrize("kind", ["JPEG", "progressive JPEG", "PNG"])
def test_damaged_files_give_what_pillow_gives(kind: str) -> None:
    """Never other pixels, and never pixels where Pillow refuses."""
    if kind == "PNG":
        whole, fast = encode_id_map(label_map()), decode_plain_png
    else:
        whole, fast = encoded(NOISE, "JPEG", progressive=kind != "JPEG"), decode_plain_jpeg
    agreed = 0
    for seed in range(600):
        data = damaged(whole, seed)
        try:
            picture = opened(data)
        except Exception:  # noqa: BLE001 - then nobody decodes it
            continue
        if picture.width * picture.height > 10**6:
            continue
        found = fast(picture, data)
        if found is not None:
            np.testing.assert_array_equal(found, pillow(data))
            agreed += 1
    assert kind == "PNG" or agreed > 20


def test_a_damaged_label_map_is_refused() -> None:
    data = encode_id_map(label_map())
    with pytest.raises(UserInputError, match="don't decode"):
        decode_id_map(data[: len(data) // 2], "map 7")


def test_a_panic_of_the_png_library_is_a_file_left_to_pillow_and_ctrl_c_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """pyo3's PanicException, which only Rust can raise, is known by its name."""
    data = encode_id_map(label_map())
    panic = type("PanicException", (BaseException,), {})

    def fail_with(error: type[BaseException]) -> None:
        def decode(*_: object) -> None:
            raise error

        monkeypatch.setattr(plain_files.kornia_io, "decode_image_png_u8", decode)

    fail_with(panic)
    assert decode_plain_png(opened(data), data) is None
    fail_with(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        decode_plain_png(opened(data), data)
