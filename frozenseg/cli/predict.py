"""`frozenseg predict`: pictures in, overlays or result files out."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

if TYPE_CHECKING:
    from frozenseg.inference.segmenter import Segmenter
    from frozenseg.types import Vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class Predict:
    """Segments pictures by any vocabulary.

    Examples: frozenseg predict photo.jpg --vocabulary "cat; dog,puppy; sky(stuff)"; frozenseg predict photos/ --to out
    --model FOLDER --vocabulary coco-panoptic --format coco-panoptic.
    """

    images: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Files, folders or globs."""
    model: str | None = None
    """A model folder; without it the small model inside the package is used, which knows a made-up world only."""
    vocabulary: str | None = None
    """Text ("cat; dog,puppy; sky(stuff)"), a file, or a published name; without it the model's training vocabulary."""
    task: Literal["panoptic", "semantic", "instance"] = "panoptic"
    """What is wanted of each picture."""
    to: Path = Path("predictions")
    """Folder for the results."""
    format: Literal["overlay", "coco-panoptic", "rle"] = "overlay"
    """Pictures to look at, COCO panoptic JSON and PNG, or COCO RLE JSON."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Mixed precision for the networks."""
    batch_size: int = 1
    """Pictures in one forward pass."""
    min_score: float = 0.0
    """What scores less is "none of these" (void)."""
    ensemble: bool = False
    """Let SAM's masks vote for categories that training hasn't seen (OpenSeg ensemble; slower): in semantic results,
    and in panoptic ones where the model folder's `sam_panoptic_weight` is above 0."""
    tile_above: int = 4096
    """Pictures with a longer side than this many pixels are cut in overlapping tiles."""


def run(args: Predict) -> int:
    import dataclasses

    from frozenseg.errors import UserInputError
    from frozenseg.inference.files import find_images
    from frozenseg.inference.folder_run import RunSettings, UnreadablePicture, predict_files
    from frozenseg.inference.loading import MINIATURE, load_segmenter
    from frozenseg.inference.writers import result_writer
    from frozenseg.memory import keep_freed_memory

    if not args.images:
        raise UserInputError("expected files, folders or globs of pictures, found none")
    if args.batch_size < 1:
        raise UserInputError(f"--batch-size: expected at least 1, found {args.batch_size}")
    if args.format == "coco-panoptic" and args.task != "panoptic":
        raise UserInputError(f"--format coco-panoptic needs --task panoptic, found {args.task}")
    paths = find_images(args.images)
    if args.model is None:
        print("no --model given: using the embedded miniature, which knows a small made-up world", file=sys.stderr)
    segmenter = load_segmenter(args.model or MINIATURE, args.device, args.dtype)
    keep_freed_memory(segmenter.model.device)
    vocabulary = _vocabulary(args.vocabulary, segmenter)
    settings = RunSettings(
        task=args.task,
        min_score=args.min_score,
        batch_size=args.batch_size,
        tile_above=args.tile_above,
        options=dataclasses.replace(segmenter.options, openseg=True) if args.ensemble else None,
    )
    writer = result_writer(args.format, args.to, vocabulary, segmenter.notice)
    started = time.perf_counter()
    unreadable: list[UnreadablePicture] = []
    for item in predict_files(segmenter, paths, vocabulary, settings):
        if isinstance(item, UnreadablePicture):
            if len(paths) == 1:
                raise UserInputError(item.reason)
            unreadable.append(item)
            print(f"skipped: {item.reason}", file=sys.stderr)
        else:
            print(f"{item.path} -> {writer.add(item)}")
    if len(unreadable) == len(paths):
        raise UserInputError(f"none of {len(paths)} pictures could be read")
    target = writer.close()
    num_done = len(paths) - len(unreadable)
    print(f"{num_done} picture(s) in {time.perf_counter() - started:.1f} s; results in {target}")
    if unreadable:
        # The others' results are written; who calls this from a script must still learn of it.
        files = ", ".join(str(item.path) for item in unreadable)
        raise UserInputError(f"{len(unreadable)} of {len(paths)} picture(s) could not be read: {files}")
    return 0


def _vocabulary(text: str | None, segmenter: Segmenter) -> Vocabulary:
    """The vocabulary that was asked for, or the one the model was trained with."""
    from frozenseg.errors import UserInputError
    from frozenseg.vocabulary import load_vocabulary

    if text is not None:
        return load_vocabulary(text)
    training = segmenter.model.spec.training_vocabulary
    if training is None:
        raise UserInputError("--vocabulary is needed: the model doesn't say what it was trained with")
    print(f"no --vocabulary given: using the model's own ({training.name}, {len(training)})", file=sys.stderr)
    return training
