"""Labelled images with everything that formats get wrong: holes, islands, parts, names with special signs."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from frozenseg.types import Category, Segment, Vocabulary
from pipelines.labeling.formats import FORMATS, LabelFormat, write_part
from pipelines.labeling.labelled import ImageQuality, LabelledImage, PackedMap
from pipelines.labeling.merge import merge
from shards import Storage

NAMES = ('cat & "dog"', "<sky>", "plain: water")
VOCABULARY = Vocabulary(
    categories=tuple(Category(name=name, is_thing=i != 1) for i, name in enumerate(NAMES)), name="scenes"
)


def disc(shape: tuple[int, int], centre: tuple[float, float], radius: float) -> NDArray[np.bool_]:
    """centre: (x, y)."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    return np.asarray((x - centre[0]) ** 2 + (y - centre[1]) ** 2 <= radius**2)


def scene(number: int) -> tuple[NDArray[np.int32], tuple[int, ...]]:
    """Segment ids [h,w], and the category of segments 1, 2, ...; image 3 shows nothing."""
    shape = (90 + 7 * number, 120)
    ids = np.zeros(shape, dtype=np.int32)
    if number == 3:
        return ids, ()
    ids[60:] = 2
    ids[disc(shape, (35, 40), 30) & ~disc(shape, (35, 40), 18)] = 1
    ids[disc(shape, (90, 25 + 5 * number), 20)] = 3
    ids[disc(shape, (90, 25 + 5 * number), 8)] = 2
    ids[disc(shape, (20, 75), 12)] = 3
    return ids, (0, 1, 2)


def write_scenes(folder: Path, formats: tuple[LabelFormat, ...] = FORMATS, count: int = 5) -> None:
    """`images/`, truth as `truth/ID.npy` and `labels/` in two parts, merged."""
    (folder / "images").mkdir(parents=True)
    (folder / "truth").mkdir()
    labelled = []
    for number in range(1, count + 1):
        ids, categories = scene(number)
        pixels = np.random.default_rng(number).integers(0, 256, (*ids.shape, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG")
        (folder / "images" / f"p{number}.jpg").write_bytes(buffer.getvalue())
        np.save(folder / "truth" / f"p{number}.npy", ids)
        segments = tuple(
            Segment(id=i, category_id=c, is_thing=c != 1, score=0.9 - 0.1 * i, area=int((ids == i).sum()))
            for i, c in enumerate(categories, 1)
        )
        labelled.append(
            LabelledImage(
                number=number,
                image_id=f"p{number}",
                file_name=f"p{number}.jpg",
                address=f"/corpus/p{number}.jpg",
                image_bytes=buffer.getvalue(),
                size=(ids.shape[0], ids.shape[1]),
                segment_ids=PackedMap.of(ids),
                segments=segments,
                quality=ImageQuality(entropy=0.1 * number, disagreement=None, num_dropped=0),
                semantic=PackedMap.of(ids - 1),
            )
        )
    storage = Storage(folder / "labels")
    write_part(storage, formats, 0, labelled[:3], VOCABULARY)
    write_part(storage, formats, 1, labelled[3:], VOCABULARY)
    for wanted in formats:
        merge(storage, wanted, [0, 1], VOCABULARY)
