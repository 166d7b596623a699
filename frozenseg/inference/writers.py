"""Writers of result folders: overlays, COCO panoptic, COCO RLE. Each has `add` per picture and `close` at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Protocol

from torch import Tensor

from frozenseg.inference.files import (
    coco_categories,
    coco_panoptic_annotation,
    rle_of_instances,
    rle_of_labels,
    rle_of_segments,
    write_bytes,
    write_json,
    write_picture,
)
from frozenseg.inference.folder_run import NamedResult
from frozenseg.inference.overlay import draw_instances, draw_panoptic, draw_semantic
from frozenseg.types import Instances, SegmentationOutput, Vocabulary

Format = Literal["overlay", "coco-panoptic", "rle"]


class ResultWriter(Protocol):
    """Takes results one by one; what `close` returns is where to look."""

    def add(self, item: NamedResult) -> Path:
        """Writes, or keeps for `close`; returns the file that holds it in the end."""
        ...

    def close(self) -> Path: ...


def result_writer(kind: Format, folder: Path, vocabulary: Vocabulary, notice: str) -> ResultWriter:
    """The writer of a format."""
    match kind:
        case "overlay":
            return OverlayWriter(folder, vocabulary, notice)
        case "coco-panoptic":
            return CocoPanopticWriter(folder, vocabulary, notice)
        case "rle":
            return RleWriter(folder, vocabulary, notice)


class OverlayWriter:
    """`NAME.png` per picture."""

    def __init__(self, folder: Path, vocabulary: Vocabulary, notice: str) -> None:
        self._folder, self._vocabulary, self._notice = folder, vocabulary, notice

    def add(self, item: NamedResult) -> Path:
        result = item.result
        if isinstance(result, SegmentationOutput):
            picture = draw_panoptic(item.image, result, self._vocabulary, self._notice)
        elif isinstance(result, Instances):
            picture = draw_instances(item.image, result, self._vocabulary, self._notice)
        else:
            picture = draw_semantic(item.image, result, self._vocabulary, self._notice)
        path = self._folder / f"{item.name}.png"
        write_picture(path, picture)
        return path

    def close(self) -> Path:
        return self._folder


class CocoPanopticWriter:
    """`predictions.json` in COCO's panoptic form, and its PNGs in `predictions/`."""

    def __init__(self, folder: Path, vocabulary: Vocabulary, notice: str) -> None:
        self._folder, self._vocabulary, self._notice = folder, vocabulary, notice
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def add(self, item: NamedResult) -> Path:
        assert isinstance(item.result, SegmentationOutput), "the panoptic form needs a panoptic result"
        entry, png = coco_panoptic_annotation(item.result, self._vocabulary, item.name)
        path = self._folder / "predictions" / f"{item.name}.png"
        write_bytes(path, png)
        self._images.append(_image_entry(item))
        self._annotations.append(entry)
        return path

    def close(self) -> Path:
        path = self._folder / "predictions.json"
        content = {
            "info": _info(self._vocabulary, self._notice),
            "images": self._images,
            "annotations": self._annotations,
            "categories": coco_categories(self._vocabulary),
        }
        write_json(path, content)
        return path


class RleWriter:
    """`results.json`, a list in COCO's results form, and `info.json` with the categories and pictures it is about."""

    def __init__(self, folder: Path, vocabulary: Vocabulary, notice: str) -> None:
        self._folder, self._vocabulary, self._notice = folder, vocabulary, notice
        self._images: list[dict[str, Any]] = []
        self._results: list[dict[str, Any]] = []

    def add(self, item: NamedResult) -> Path:
        result = item.result
        if isinstance(result, SegmentationOutput):
            self._results += rle_of_segments(result, self._vocabulary, item.name)
        elif isinstance(result, Instances):
            self._results += rle_of_instances(result, self._vocabulary, item.name)
        else:
            self._results += rle_of_labels(result.cpu().numpy(), self._vocabulary, item.name)
        self._images.append(_image_entry(item))
        return self._folder / "results.json"

    def close(self) -> Path:
        info = {
            "info": _info(self._vocabulary, self._notice),
            "images": self._images,
            "categories": coco_categories(self._vocabulary),
        }
        write_json(self._folder / "info.json", info)
        write_json(self._folder / "results.json", self._results)
        return self._folder / "results.json"


def _image_entry(item: NamedResult) -> dict[str, Any]:
    height, width = _size(item.image)
    return {"id": item.name, "file_name": item.path.name, "height": height, "width": width}


def _size(image: Tensor) -> tuple[int, int]:
    return int(image.shape[-2]), int(image.shape[-1])


def _info(vocabulary: Vocabulary, notice: str) -> dict[str, str]:
    return {"description": "frozenseg predictions", "vocabulary": vocabulary.name, "notice": notice}
