"""`frozenseg score panoptic|instances|semantic`: scores prediction files that anyone made."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:
    from frozenseg.evaluation import CityscapesScores, LvisScores, PanopticScores, PrecisionScores, SemanticScores
    from frozenseg.types import Vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class Panoptic:
    """PQ, SQ and RQ of predictions in COCO panoptic format: a JSON and a folder of PNGs."""

    truth: str
    """Panoptic JSON of the truth (path or fsspec address)."""
    truth_dir: str
    """Folder of its PNGs."""
    predictions: str
    """JSON of the predictions."""
    predictions_dir: str
    """Folder of their PNGs."""
    seen: str = ""
    """Training vocabulary (name, file or text): scores its categories apart from the others."""
    json: bool = False
    """Print JSON instead of a table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instances:
    """Average precision of a COCO results file: a list of detections.

    By the protocol of COCO or LVIS, with a JSON of the truth, or by that of Cityscapes, with a folder of its
    instanceIds files (gtFine/val); an image's id is then the file's name without _gtFine_instanceIds.png, a
    category's that of Cityscapes (24 to 33).
    """

    truth: str
    """COCO or LVIS instances JSON of the truth, or Cityscapes' folder (path or fsspec address)."""
    predictions: str
    """COCO results JSON."""
    protocol: Literal["coco", "lvis", "cityscapes"] = "coco"
    """How average precision is computed."""
    kind: Literal["segm", "bbox"] = "segm"
    """Overlap of masks or of boxes; boxes by COCO's protocol only."""
    seen: str = ""
    """Training vocabulary (name, file or text): scores its categories apart from the others."""
    json: bool = False
    """Print JSON instead of a table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Semantic:
    """mIoU and its kin of label files; a prediction is named like its truth."""

    truth_dir: str
    """Folder of label PNGs or TIFFs (path or fsspec address)."""
    predictions_dir: str
    """Folder of predicted label files."""
    vocabulary: str
    """Categories (published name, file or text)."""
    first_value: int = 0
    """Added to a category's id (or position, where it has none) to get its value in the files: 1 for ADE20K-150."""
    seen: str = ""
    """Training vocabulary (name, file or text): scores its categories apart from the others."""
    json: bool = False
    """Print JSON instead of a table."""


Score = (
    Annotated[Panoptic, tyro.conf.subcommand("panoptic")]
    | Annotated[Instances, tyro.conf.subcommand("instances")]
    | Annotated[Semantic, tyro.conf.subcommand("semantic")]
)


def run(args: Panoptic | Instances | Semantic) -> int:
    """Scores and prints; exit code 0."""
    scores: PanopticScores | PrecisionScores | LvisScores | CityscapesScores | SemanticScores
    match args:
        case Panoptic():
            scores, lines = _panoptic(args)
        case Instances():
            scores, lines = _instances(args)
        case Semantic():
            scores, lines = _semantic(args)
    if args.json:
        print(json.dumps(_plain(dataclasses.asdict(scores)), indent=1))
    else:
        print("\n".join(lines))
    return 0


def _panoptic(args: Panoptic) -> tuple[PanopticScores, list[str]]:
    from frozenseg.data import CocoPanoptic
    from frozenseg.evaluation.panoptic_files import PanopticPredictions, score_panoptic_files

    # Images aren't needed for scoring, so their folder isn't asked for.
    truth = CocoPanoptic(args.truth, args.truth_dir, args.truth_dir)
    predictions = PanopticPredictions(args.predictions, args.predictions_dir, truth)
    scores = score_panoptic_files(truth, predictions, _seen(args.seen, truth.vocabulary)).compute()
    lines = [f"{scores.num_images} images", f"{'':8} {'PQ':>7} {'SQ':>7} {'RQ':>7} categories"]
    groups = (("all", scores.all), ("things", scores.things), ("stuff", scores.stuff))
    for name, group in (*groups, ("seen", scores.seen), ("unseen", scores.unseen)):
        if group is not None:
            numbers = " ".join(_percent(number) for number in (group.pq, group.sq, group.rq))
            lines.append(f"{name:8} {numbers} {group.num_categories:>10}")
    return scores, lines


def _instances(args: Instances) -> tuple[PrecisionScores | LvisScores | CityscapesScores, list[str]]:
    from frozenseg.data.coco_instances import CocoInstances
    from frozenseg.data.dataset import ApProtocol, InstanceData
    from frozenseg.data.layouts import cityscapes_instances
    from frozenseg.evaluation.instance_files import score_instance_files

    # Images aren't needed for scoring, so their folder isn't asked for.
    truth: InstanceData
    if args.protocol == "cityscapes":
        truth = cityscapes_instances(args.truth)
    else:
        truth = CocoInstances(args.truth, "", image_file=lambda *_: "", protocol=ApProtocol(args.protocol))
    seen = _seen(args.seen, truth.vocabulary)
    scores = score_instance_files(truth, args.predictions, kind=args.kind, seen=seen).compute()
    lines = [f"{scores.num_images} images"]
    for name, value in dataclasses.asdict(scores).items():
        if isinstance(value, float):
            lines.append(f"{name:10} {_percent(value)}")
    return scores, lines


def _semantic(args: Semantic) -> tuple[SemanticScores, list[str]]:
    from frozenseg.data.layout import label_values
    from frozenseg.evaluation.semantic_files import score_semantic_files
    from frozenseg.vocabulary import load_vocabulary

    vocabulary = load_vocabulary(args.vocabulary)
    metric = score_semantic_files(
        args.truth_dir,
        args.predictions_dir,
        vocabulary,
        label_values(vocabulary, args.first_value),
        _seen(args.seen, vocabulary),
    )
    scores = metric.compute()
    lines = [f"{scores.num_images} images, {scores.num_categories} categories present"]
    numbers = (
        ("mIoU", scores.miou),
        ("FWIoU", scores.fwiou),
        ("pixel accuracy", scores.pixel_accuracy),
        ("mean accuracy", scores.mean_accuracy),
        ("mIoU seen", scores.miou_seen),
        ("mIoU unseen", scores.miou_unseen),
    )
    lines += [f"{name:14} {_percent(number)}" for name, number in numbers if number is not None]
    return scores, lines


def _seen(source: str, vocabulary: Vocabulary) -> Any:
    from frozenseg.vocabulary import load_vocabulary

    return vocabulary.seen_mask(load_vocabulary(source)) if source else None


def _percent(number: float) -> str:
    return f"{'-':>7}" if math.isnan(number) else f"{100 * number:7.3f}"


def _plain(value: Any) -> Any:
    """JSON has no nan: what could not be scored is null."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value
