"""`frozenseg show attention|features|recall|panels`: figures of what a model sees, as PNG."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL import Image

    from frozenseg.data.dataset import SegmentationData
    from frozenseg.encoders import SamImageEncoder
    from frozenseg.inference.options import InferenceOptions
    from frozenseg.inference.segmenter import Segmenter


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """Where the most confident query looks, in the last layers of the decoder, and the mask that comes of it."""

    image: Annotated[str, tyro.conf.Positional]
    """A picture."""
    model: str = "miniature"
    """Model folder."""
    vocabulary: str = ""
    """Text, file or published name; the model's training vocabulary when empty."""
    to: Path = Path("attention.png")
    """The figure."""
    layers: int = 3
    """How many of the last layers."""
    device: str = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """k-means clusters of the SAM features of a picture, one panel per SAM."""

    image: Annotated[str, tyro.conf.Positional]
    """A picture."""
    models: tuple[str, ...] = ()
    """Model folders, whose SAMs are shown; the miniature where no SAM is named at all."""
    sams: tuple[Literal["vit_t", "vit_b", "vit_l", "vit_h"], ...] = ()
    """Released SAMs by their size, as `frozenseg weights get` keeps them."""
    clusters: int = 8
    """How many clusters."""
    to: Path = Path("features.png")
    """The figure."""
    device: str = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recall:
    """Recall of mask proposals against IoU, seen and unseen categories apart, from evaluations that were run."""

    evaluations: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders that ray_jobs/evaluate.py wrote."""
    to: Path = Path("recall.png")
    """The figure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panels:
    """Pictures of a data set with their truth and the panoptic results of one or more models, side by side."""

    dataset: str
    """A data set by its name (frozenseg check-data list)."""
    root: str
    """Folder of its release."""
    split: str = ""
    """By default the validation split."""
    models: tuple[str, ...] = ("miniature",)
    """Model folders."""
    images: tuple[int, ...] = ()
    """Positions of the pictures in the split; the first three when empty."""
    to: Path = Path("panels.png")
    """The figure."""
    device: str = "auto"


Show = (
    Annotated[Attention, tyro.conf.subcommand("attention")]
    | Annotated[Features, tyro.conf.subcommand("features")]
    | Annotated[Recall, tyro.conf.subcommand("recall")]
    | Annotated[Panels, tyro.conf.subcommand("panels")]
)


def run(args: Attention | Features | Recall | Panels) -> int:
    """Draws and writes the figure; exit code 0."""
    from frozenseg.inference.files import write_picture

    match args:
        case Attention():
            picture = _attention(args)
        case Features():
            picture = _features(args)
        case Recall():
            picture = _recall(args)
        case Panels():
            picture = _panels(args)
    write_picture(args.to, picture)
    print(args.to)
    return 0


def _attention(args: Attention) -> Image.Image:
    from frozenseg.errors import UserInputError
    from frozenseg.inference.attention_maps import as_maps, recorded
    from frozenseg.inference.figures import heat_over, picture_of, side_by_side, upsampled
    from frozenseg.inference.loading import load_segmenter
    from frozenseg.inference.segmenter import read_image
    from frozenseg.vocabulary import load_vocabulary

    segmenter = load_segmenter(args.model, args.device, "float32")
    vocabulary = load_vocabulary(args.vocabulary) if args.vocabulary else segmenter.model.spec.training_vocabulary
    if vocabulary is None:
        raise UserInputError("--vocabulary is needed: the model doesn't say what it was trained with")
    sample = read_image(args.image)
    with recorded(segmenter.model.decoder) as weights:
        prediction = segmenter(sample.image, vocabulary)
    # The void class, last, is no confidence in anything.
    scores, categories = prediction.class_scores[:, :-1].max(-1)
    query = int(scores.argmax())
    name = vocabulary.categories[int(categories[query])].name
    mask = prediction.proposals()[query].float().cpu()
    panels = [
        ("picture", picture_of(sample.image)),
        (f"mask: {name} {float(scores[query].exp()):.2f}", heat_over(sample.image, mask)),
    ]
    geometry = prediction.geometry
    for found in as_maps(weights, query, geometry.padded_size)[-args.layers :]:
        whole = upsampled(found.weights, geometry.padded_size)
        valid = whole[: geometry.valid_size[0], : geometry.valid_size[1]]
        heat = heat_over(sample.image, upsampled(valid, geometry.output_size))
        panels.append((f"attention, layer {found.layer + 1}", heat))
    return side_by_side(panels, segmenter.notice)


def _features(args: Features) -> Image.Image:
    from frozenseg.data import collate, resize_for_test
    from frozenseg.inference.figures import clusters, draw_clusters, picture_of, side_by_side
    from frozenseg.inference.palette import category_colors
    from frozenseg.inference.segmenter import read_image
    from frozenseg.types import Category, Vocabulary

    sample = read_image(args.image)
    colors = category_colors(Vocabulary(categories=tuple(Category(name=f"#{n}") for n in range(args.clusters))))
    panels, notices = [("picture", picture_of(sample.image))], []
    for name, sam, options, notice in _sams(args):
        resized = resize_for_test(sample, options.shortest_side, options.longest_side)
        batch = collate([resized])
        features = sam.encode_image(batch.images, batch.valid_sizes)[0]
        # The padding of the picture has features too, and nothing to show.
        part = [valid / padded for valid, padded in zip(resized.image.shape[1:], batch.images.shape[2:], strict=True)]
        height, width = (max(1, round(n * p)) for n, p in zip(features.shape[1:], part, strict=True))
        labels = clusters(features[:, :height, :width], args.clusters)
        panels.append((name, draw_clusters(labels, colors).resize(_size(sample.image), 0)))
        notices += [notice] if notice else []
    return side_by_side(panels, "; ".join(dict.fromkeys(notices)))


def _sams(args: Features) -> Iterator[tuple[str, SamImageEncoder, InferenceOptions, str]]:
    """Name, encoder, how it wants its pictures, and what has to be said of it; one is in memory at a time."""
    from frozenseg.errors import UserInputError
    from frozenseg.inference.loading import load_segmenter, resolve_device
    from frozenseg.inference.options import InferenceOptions
    from frozenseg.model.load_encoders import load_sam
    from frozenseg.model.official import official
    from frozenseg.model.spec import SamReference

    for folder in args.models or (() if args.sams else ("miniature",)):
        segmenter = load_segmenter(folder, args.device, "float32")
        if segmenter.model.sam is None:
            raise UserInputError(f"{folder}: expected a model with SAM, found one without")
        yield segmenter.model.spec.name, segmenter.model.sam, segmenter.options, segmenter.notice
    for size in args.sams:
        file_name = official(f"sam-{size.replace('_', '-')}").file_name
        sam = load_sam(SamReference(architecture=size, source="official", location=file_name), Path())
        yield f"SAM {size}", sam.to(resolve_device(args.device)), InferenceOptions(), ""


def _size(image: Any) -> tuple[int, int]:
    """Width and height, as PIL has them."""
    return int(image.shape[2]), int(image.shape[1])


def _recall(args: Recall) -> Image.Image:
    from frozenseg.data.files import read_json
    from frozenseg.errors import UserInputError
    from frozenseg.inference.figures import CURVE_COLORS, Curve, draw_curves

    curves = []
    for number, folder in enumerate(args.evaluations):
        report = read_json(folder / "metrics.json", "evaluation")
        for group, dashed in (("seen", False), ("unseen", True)):
            found = report.get("recall_curves", {}).get(group)
            if not found or None in found["recall"]:
                continue
            curves.append(
                Curve(
                    name=f"{folder.name}, {group}",
                    x=tuple(found["thresholds"]),
                    y=tuple(found["recall"]),
                    color=CURVE_COLORS[number % len(CURVE_COLORS)],
                    dashed=dashed,
                )
            )
    if not curves:
        raise UserInputError("show recall: expected evaluations with proposal recall, found none")
    return draw_curves(curves, "IoU", "recall of mask proposals")


def _panels(args: Panels) -> Image.Image:
    from frozenseg.data.layouts import open_dataset
    from frozenseg.errors import UserInputError
    from frozenseg.inference.figures import stacked
    from frozenseg.inference.loading import load_segmenter

    data = open_dataset(args.dataset, args.root, args.split)
    images = args.images or tuple(range(min(3, len(data))))
    outside = [index for index in images if not 0 <= index < len(data)]
    if outside:
        raise UserInputError(f"--images: expected positions from 0 to {len(data) - 1}, found {outside}")
    segmenters = [load_segmenter(folder, args.device, "float32") for folder in args.models]
    return stacked([_row(data, index, segmenters) for index in images])


def _row(data: SegmentationData, index: int, segmenters: list[Segmenter]) -> Image.Image:
    """One picture, its truth, and what each model makes of it."""
    from frozenseg.data import decode_annotation, decode_image
    from frozenseg.inference.figures import picture_of, side_by_side
    from frozenseg.inference.overlay import draw_panoptic
    from frozenseg.types import Segment, SegmentationOutput

    encoded = data[index]
    sample, annotation = decode_image(encoded.image_bytes, encoded.image_id), decode_annotation(encoded)
    truth = SegmentationOutput(
        segment_ids=annotation.segment_ids,
        segments=tuple(
            Segment(id=s.id, category_id=s.category_id, is_thing=s.is_thing, score=1.0, area=s.area)
            for s in annotation.segments
        ),
    )
    panels = [("picture", picture_of(sample.image)), ("truth", draw_panoptic(sample.image, truth, data.vocabulary))]
    for segmenter in segmenters:
        result = segmenter(sample.image, data.vocabulary).panoptic()
        panels.append((segmenter.model.spec.name, draw_panoptic(sample.image, result, data.vocabulary)))
    notices = dict.fromkeys(segmenter.notice for segmenter in segmenters if segmenter.notice)
    return side_by_side(panels, "; ".join(notices))
