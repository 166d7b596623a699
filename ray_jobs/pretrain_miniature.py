#!/usr/bin/env python
"""Makes the miniature model from nothing: pre-trains CLIP and SAM in two processes, then trains the decoder.

python ray_jobs/pretrain_miniature.py --work runs/pretrain --to runs/pretrain/model

Started again with the same --work, it goes on where it stopped. The model that ships came out of these defaults.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

import tyro

# `ray job submit` runs this file with no package installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from frozenseg.errors import FrozenSegError
from frozenseg.miniature.pretrain import Pretraining, pretrain


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """Fields: work: folder of checkpoints; to: the model folder that is written; settings: of the trainings."""

    work: Path = Path("runs/pretrain")
    to: Path = Path("runs/pretrain/model")
    settings: Pretraining = field(default_factory=Pretraining)


def main() -> int:
    arguments = tyro.cli(Arguments, description=__doc__)
    try:
        pretrain(arguments.settings, arguments.work, arguments.to)
    except FrozenSegError as error:
        print(error, file=sys.stderr)
        return 2
    print(
        f"wrote {arguments.to}; "
        f"try: frozenseg predict IMAGE --model {arguments.to} --vocabulary 'red flag; snow(stuff)'"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
