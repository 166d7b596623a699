"""`frozenseg convert`: a released checkpoint -> a model folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True, slots=True, kw_only=True)
class Convert:
    """Turns a released FrozenSeg or FC-CLIP checkpoint into a model folder."""

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """The released .pth file, bare or as a training loop saved it."""
    to: Path
    """The model folder to write."""
    with_encoders: bool = False
    """Keep the CLIP and SAM weights that the file holds; otherwise the folder refers to the official ones."""
    vocabulary: str = "coco-panoptic"
    """What the model was trained with: a published name, a file or text. It decides which categories are seen."""


def run(args: Convert) -> int:
    from frozenseg.model.convert import convert_checkpoint
    from frozenseg.vocabulary import load_vocabulary

    spec = convert_checkpoint(
        args.checkpoint,
        args.to,
        with_encoders=args.with_encoders,
        training_vocabulary=load_vocabulary(args.vocabulary),
    )
    kept = "stored beside it" if args.with_encoders else "referred to"
    print(f"{spec.name} written to {args.to}; its encoders are {kept}")
    return 0
