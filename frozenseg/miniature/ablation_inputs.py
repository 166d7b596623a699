"""What all rows with one SAM share: the frozen encoders, views of the scenes, SAM's masks. Made once, kept in files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from frozenseg.encoders import OpenClipEncoder, SamImageEncoder
from frozenseg.miniature.ablation import Ablation
from frozenseg.miniature.assemble import round_to_half
from frozenseg.miniature.categories import full_vocabulary, training_vocabulary
from frozenseg.miniature.grid_masks import load_grid_masks, make_grid_masks, save_grid_masks
from frozenseg.miniature.pretrain_sam import pretrain_sam
from frozenseg.miniature.views import FixedViews, load_views, make_views, save_views
from frozenseg.model import load_model
from frozenseg.types import SamMasks

_TRAIN_SERIES, _TEST_SERIES = 1000, 2000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AblationInputs:
    """Fields: the encoders; train: views of scenes of base categories; test: of all; masks: of the test views, empty
    when no reading asks for them."""

    clip: OpenClipEncoder
    sam: SamImageEncoder
    train: FixedViews
    test: FixedViews
    masks: tuple[SamMasks, ...]


def make_inputs(ablation: Ablation) -> None:
    """Computes what no file holds yet, for every SAM that a row names."""
    for sam_name in dict.fromkeys(row.sam for row in ablation.rows):
        files = _Files(ablation, sam_name)
        clip, sam = _encoders(ablation, sam_name)
        if not files.train.exists():
            views = make_views(clip, sam, training_vocabulary(), "base", ablation.num_train_views, _TRAIN_SERIES)
            save_views(views, files.train)
        if not files.test.exists():
            views = make_views(clip, sam, full_vocabulary(), "all", ablation.num_test_views, _TEST_SERIES)
            save_views(views, files.test)
        if _needs_masks(ablation, sam_name) and not files.masks.exists():
            save_grid_masks(make_grid_masks(sam, load_views(files.test, full_vocabulary())), files.masks)


def load_inputs(ablation: Ablation, sam_name: str) -> AblationInputs:
    """What `make_inputs` made for a SAM; an empty name is the model's own."""
    files = _Files(ablation, sam_name)
    clip, sam = _encoders(ablation, sam_name)
    return AblationInputs(
        clip=clip,
        sam=sam,
        train=load_views(files.train, training_vocabulary()),
        test=load_views(files.test, full_vocabulary()),
        masks=load_grid_masks(files.masks) if _needs_masks(ablation, sam_name) else (),
    )


class _Files:
    """Of one SAM: train, test, masks."""

    def __init__(self, ablation: Ablation, sam_name: str) -> None:
        def path(kind: str, count: int) -> Path:
            name = f"{kind}-{count}" + (f"-{sam_name}" if sam_name else "")
            return ablation.to / "views" / f"{name}.safetensors"

        self.train = path("train", ablation.num_train_views)
        self.test = path("test", ablation.num_test_views)
        self.masks = path("masks", ablation.num_test_views)


def _needs_masks(ablation: Ablation, sam_name: str) -> bool:
    readings = {reading for row in ablation.rows if row.sam == sam_name for reading in row.read_as}
    return any(ablation.options_of(reading).needs_sam_masks for reading in readings)


def _encoders(ablation: Ablation, sam_name: str) -> tuple[OpenClipEncoder, SamImageEncoder]:
    """CLIP of the model, and its SAM or the ablation's own of that name, which is pre-trained first if need be."""
    model = load_model(ablation.model_folder)
    if not sam_name:
        assert model.sam is not None, "the miniature model has a SAM"
        return model.clip, model.sam
    row = next(row for row in ablation.sams if row.name == sam_name)
    checkpoint = ablation.to / "sams" / f"{sam_name}.pt"
    checkpoint.parent.mkdir(parents=True, exist_ok=True)

    def report(step: int, loss: float) -> None:
        print(f"SAM {sam_name}: step {step}, loss {loss:.4f}", flush=True)  # noqa: T201

    sam = pretrain_sam(row.training, checkpoint, report, row.architecture)
    round_to_half(sam)
    return model.clip, sam
