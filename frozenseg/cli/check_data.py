"""`frozenseg check-data NAME --root DIR`: counts a data set, names every defect and shows a contact sheet."""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckData:
    """Looks a data set over before training on it. Exit code 2 when a sample is defective."""

    name: Annotated[str, tyro.conf.Positional]
    """The data set: coco-panoptic, ade20k-semantic, cityscapes-panoptic, own-panoptic, ... or `list`."""
    root: str = ""
    """Folder or fsspec address of its release."""
    split: str = ""
    """By default the validation split."""
    limit: int = 0
    """Look at the first so many images only; 0: all."""
    sheet: Path | None = None
    """Write a contact sheet of images and truth here (PNG)."""
    json: bool = False
    """Print JSON instead of a table."""


def run(args: CheckData) -> int:
    """Checks and prints."""
    from frozenseg.data.check import check_data
    from frozenseg.data.layouts import expected_paths, open_dataset
    from frozenseg.data.releases import LAYOUTS
    from frozenseg.errors import UserInputError

    if args.name == "list":
        for layout in LAYOUTS:
            print(f"{layout.name}: {layout.about}")
            for path in expected_paths(layout, "ROOT", layout.splits[0]):
                print(f"    {path}")
        return 0
    if not args.root:
        raise UserInputError(f"check-data {args.name}: expected --root, the folder of its release")
    report = check_data(open_dataset(args.name, args.root, args.split), limit=args.limit, progress=_progress)
    if args.sheet is not None:
        partial = args.sheet.with_name(args.sheet.name + ".partial")
        partial.write_bytes(report.sheet)
        partial.replace(args.sheet)
    if args.json:
        print(json.dumps({k: v for k, v in dataclasses.asdict(report).items() if k != "sheet"}, indent=1))
    else:
        present = [category for category in report.categories if category.segments]
        print(f"{report.num_images} images, {report.num_segments} segments, {len(present)} of "
              f"{len(report.categories)} categories present, sizes {report.smallest} to {report.largest}")  # fmt: skip
        width = max((len(category.name) for category in present), default=0)
        for category in sorted(present, key=lambda c: -c.segments):
            print(f"  {category.name:{width}} {category.segments:>8} segments in {category.images} images")
        for problem in report.problems:
            print(f"problem: {problem}")
        print(f"{len(report.problems)} problems")
    return 2 if report.problems else 0


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty() and (done == total or done % 20 == 0):
        print(f"\r{done}/{total}", end="\n" if done == total else "", file=sys.stderr, flush=True)
