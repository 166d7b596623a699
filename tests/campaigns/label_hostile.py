"""Labels a folder of hostile images with a few good ones among them, and looks at what became of each.

python -m tests.campaigns.label_hostile --images 1000

Passes when every image is either labelled or listed with a reason, and the good ones get the labels that they get
alone.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import struct
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from pipelines.corpus import find_corpus
from pipelines.label import label
from pipelines.labeling.formats import LabelFormat
from pipelines.labeling.options import LabelOptions
from pipelines.segmenter_pool import PoolOptions, SegmenterSource

CHECKOUT = Path(__file__).resolve().parents[2]
NUM_GOOD = 4
ODD_NAMES = (
    "new\nline",
    "quo\"te'",
    "</script><b>",
    "-rf",
    "caf\udce9",
    "ümlaut 漢字",
    "a&b<c",
    "x" * 200,
    "{}%s$(id)",
    ".x",
)


ALL_BUT_MIRRORED: tuple[LabelFormat, ...] = (
    "coco-panoptic",
    "coco-instances",
    "semantic-png",
    "parquet",
    "webdataset",
    "cvat",
    "label-studio",
)
ALONE: tuple[LabelFormat, ...] = ("coco-panoptic",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """kinds: of hostile images, how many were labelled and how many listed as errors; lost: names of images that are
    neither or both; changed: good images with other labels than alone."""

    kinds: dict[str, tuple[int, int]]
    lost: tuple[str, ...]
    changed: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.lost and not self.changed


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(dice: random.Random, size: tuple[int, int] = (40, 30), mode: str = "RGB") -> Image.Image:
    channels = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.frombuffer(dice.randbytes(size[0] * size[1] * channels), dtype=np.uint8)
    return Image.frombytes(mode, size, pixels.tobytes())


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width: int, height: int, *extra: bytes) -> bytes:
    """A PNG whose header says that size, whatever its data are."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + b"".join(extra)
        + chunk(b"IDAT", zlib.compress(bytes(100)))
        + chunk(b"IEND", b"")
    )


def cut(data: bytes, dice: random.Random) -> bytes:
    return data[: dice.randrange(1, len(data))]


def flipped(data: bytes, dice: random.Random) -> bytes:
    damaged = bytearray(data)
    for _ in range(dice.randrange(1, 20)):
        damaged[dice.randrange(len(damaged))] ^= 1 << dice.randrange(8)
    return bytes(damaged)


def animation(dice: random.Random) -> bytes:
    return saved(noise(dice), "GIF", save_all=True, append_images=[noise(dice), noise(dice)])


KINDS: dict[str, Callable[[random.Random], bytes]] = {
    "empty": lambda dice: b"",
    "noise": lambda dice: dice.randbytes(dice.randrange(1, 2000)),
    "text": lambda dice: b"<svg xmlns='x' onload='alert(1)'/>" * dice.randrange(1, 50),
    "cut jpeg": lambda dice: cut(saved(noise(dice), "JPEG"), dice),
    "cut png": lambda dice: cut(saved(noise(dice), "PNG"), dice),
    "cut webp": lambda dice: cut(saved(noise(dice), "WEBP"), dice),
    "cut tiff": lambda dice: cut(saved(noise(dice), "TIFF"), dice),
    "flipped jpeg": lambda dice: flipped(saved(noise(dice), "JPEG"), dice),
    "flipped png": lambda dice: flipped(saved(noise(dice), "PNG"), dice),
    "flipped webp": lambda dice: flipped(saved(noise(dice), "WEBP"), dice),
    "flipped tiff": lambda dice: flipped(saved(noise(dice), "TIFF", compression="tiff_lzw"), dice),
    "flipped bmp": lambda dice: flipped(saved(noise(dice), "BMP"), dice),
    "bomb header": lambda dice: png_of(dice.randrange(10**5, 2**31), dice.randrange(10**5, 2**31)),
    "large header": lambda dice: png_of(9000, 9000),
    "zero side": lambda dice: png_of(0, dice.randrange(100)),
    "text bomb": lambda dice: png_of(8, 8, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**26)))),
    "one pixel": lambda dice: saved(noise(dice, (1, 1)), "PNG"),
    "very wide": lambda dice: saved(noise(dice, (5000, 1)), "PNG"),
    "very tall": lambda dice: saved(noise(dice, (1, 5000)), "PNG"),
    "cmyk": lambda dice: saved(noise(dice, mode="CMYK"), "JPEG"),
    "gray alpha": lambda dice: saved(noise(dice, mode="LA"), "PNG"),
    "16 bit": lambda dice: saved(Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40)), "PNG"),
    "float": lambda dice: saved(Image.fromarray(np.full((9, 9), np.nan, dtype=np.float32)), "TIFF"),
    "animation": animation,
    "odd exif": lambda dice: saved(noise(dice), "JPEG", exif=b"Exif\0\0" + dice.randbytes(60)),
    "odd profile": lambda dice: saved(noise(dice), "JPEG", icc_profile=dice.randbytes(300)),
}


def write_images(folder: Path, count: int, dice: random.Random) -> dict[str, str]:
    """`count` hostile images and NUM_GOOD good ones. Returns the kind of each hostile file's name."""
    folder.mkdir(parents=True)
    kinds: dict[str, str] = {}
    for number in range(NUM_GOOD):
        (folder / f"good{number}.jpg").write_bytes(saved(noise(random.Random(number), (64, 48)), "JPEG"))
    for number in range(count):
        kind = list(KINDS)[number % len(KINDS)] if number < len(KINDS) else dice.choice(list(KINDS))
        odd = dice.choice(ODD_NAMES) if dice.random() < 0.3 else "image"
        name = f"{odd}{number}{dice.choice(['.jpg', '.png', '.tiff', '.webp'])}"
        data = KINDS[kind](dice)
        path = os.fsencode(folder) + b"/" + os.fsencode(name)
        # One of the odd names has a slash in it.
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)
        kinds[name.encode("utf-8", "backslashreplace").decode()] = kind
    return kinds


def labels_by_name(to: Path) -> dict[str, Any]:
    """File name -> what the panoptic JSON says of its segments."""
    panoptic = json.loads((to / "coco-panoptic" / "panoptic.json").read_text())
    names = {image["id"]: image["file_name"] for image in panoptic["images"]}
    return {names[a["image_id"]]: a["segments_info"] for a in panoptic["annotations"]}


def run_campaign(model: Path, vocabulary: str, work: Path, *, images: int, seed: int = 0) -> Outcome:
    """All formats, in this process."""
    kinds = write_images(work / "hostile", images, random.Random(seed))
    write_images(work / "alone", 0, random.Random(seed))
    source, here = SegmenterSource(model=str(model)), PoolOptions(in_process=True)
    for name, formats in (("hostile", ALL_BUT_MIRRORED), ("alone", ALONE)):
        options = LabelOptions(
            to=str(work / f"{name}-labels"),
            vocabulary=vocabulary,
            formats=formats,
            max_error_share=1.0,
            images_per_part=8,
        )
        label(source, find_corpus(str(work / name)), options, here)
    labelled, alone = labels_by_name(work / "hostile-labels"), labels_by_name(work / "alone-labels")
    errors = pq.read_table(work / "hostile-labels" / "errors.parquet").to_pylist()
    listed = {error["file"] for error in errors if error["reason"]}
    found: dict[str, Counter[bool]] = {}
    for name, kind in kinds.items():
        found.setdefault(kind, Counter())[name in labelled] += 1
    return Outcome(
        kinds={kind: (counts[True], counts[False]) for kind, counts in found.items()},
        lost=tuple(name for name in kinds if (name in labelled) == (name in listed)),
        changed=tuple(name for name in alone if labelled.get(name) != alone[name]),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--model", type=Path, default=CHECKOUT / "frozenseg" / "miniature" / "model")
    parser.add_argument("--vocabulary", default="red button; green flag; water(stuff)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        outcome = run_campaign(
            arguments.model.absolute(), arguments.vocabulary, Path(work), images=arguments.images, seed=arguments.seed
        )
    for kind, (num_labelled, num_errors) in outcome.kinds.items():
        print(f"{kind}: {num_labelled} labelled, {num_errors} in errors.parquet")
    print(f"lost: {outcome.lost}, changed: {outcome.changed}:", "passed" if outcome.passed else "FAILED")
    return 0 if outcome.passed else 1


if __name__ == "__main__":
    sys.exit(main())
