"""`frozenseg make-miniature`: writes the miniature world as a COCO panoptic data set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeMiniature:
    """Writes the miniature world: training scenes of base categories, validation scenes of all categories.

    Fields: to: a new or empty folder; num_train, num_val: scenes; seed: another seed makes other scenes.
    """

    to: Path
    num_train: int = 400
    num_val: int = 60
    seed: int = 0


def run(args: MakeMiniature) -> int:
    from frozenseg.miniature.dataset import write_dataset

    folder = write_dataset(args.to, args.num_train, args.num_val, args.seed)
    print(f"wrote {args.num_train} training and {args.num_val} validation scenes to {folder}")
    return 0
