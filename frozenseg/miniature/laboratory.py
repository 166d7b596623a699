"""The laboratory: rows of an ablation on fixed views, each (row, seed) its own result file, resumable.

Encoders are frozen, so features are computed once and shared by all rows and seeds. A trained row trains a decoder; the
rows of options (ensemble weights, OpenSeg, SAM alone) only evaluate it again.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from frozenseg.classify import embed_vocabulary
from frozenseg.decoder import MaskDecoder
from frozenseg.errors import FrozenSegError, UserInputError
from frozenseg.inference.options import InferenceOptions
from frozenseg.inference.segmenter import Segmenter
from frozenseg.miniature.assemble import INFERENCE, MODEL_FOLDER, assemble
from frozenseg.miniature.categories import full_vocabulary, training_vocabulary
from frozenseg.miniature.evaluate import Scores, evaluate
from frozenseg.miniature.grid_masks import load_grid_masks, make_grid_masks, save_grid_masks
from frozenseg.miniature.train_decoder import DecoderTraining, miniature_decoder_config, train_decoder
from frozenseg.miniature.views import FixedViews, load_views, make_views, save_views
from frozenseg.model import load_model
from frozenseg.types import TextEmbeddings


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionRow:
    """Another way to read a trained decoder. Fields: name; options: inference options that differ from the default."""

    name: str
    options: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedRow:
    """A decoder to train. Fields: name; the injectors' layers (layer i reads the map at stride 32, 16, 8 for i mod 3 =
    0, 1, 2); num_seeds; num_steps: None for the ablation's; read_as: names of option rows evaluated with it, too."""

    name: str
    query_injector_layers: tuple[int, ...] = ()
    feature_injector_layers: tuple[int, ...] = ()
    num_seeds: int = 3
    num_steps: int | None = None
    read_as: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ablation:
    """Fields: to: folder of results; model: folder whose encoders are used, "miniature" for the one in the package;
    num_train_views, num_test_views: scenes; num_steps: of a trained row; num_workers: processes of one thread each;
    baseline: the row that others are paired with; rows; options."""

    to: Path = Path("runs/miniature-ablation")
    model: str = "miniature"
    num_train_views: int = 600
    num_test_views: int = 150
    num_steps: int = 300
    num_workers: int = 2
    baseline: str = "fc-clip"
    rows: tuple[TrainedRow, ...] = ()
    options: tuple[OptionRow, ...] = ()
    training: DecoderTraining = field(default_factory=DecoderTraining)

    def __post_init__(self) -> None:
        names = [row.name for row in self.options]
        for row in self.rows:
            for name in row.read_as:
                if name not in names:
                    raise UserInputError(
                        f"row {row.name!r} is to be read as {name!r}, which [[options]] doesn't define"
                    )
        if self.baseline not in [row.name for row in self.rows]:
            raise UserInputError(f"the baseline {self.baseline!r} is none of the rows")

    @property
    def model_folder(self) -> Path:
        return MODEL_FOLDER if self.model == "miniature" else Path(self.model)

    def jobs(self) -> Iterator[tuple[TrainedRow, int]]:
        """All (row, seed), first seeds first, so that an interrupted run has something of every row."""
        for seed in range(max(row.num_seeds for row in self.rows)):
            yield from ((row, seed) for row in self.rows if seed < row.num_seeds)

    def result_file(self, row: str, seed: int, read_as: str = "") -> Path:
        return self.to / "results" / f"{row}{'+' + read_as if read_as else ''}.{seed}.json"


def run_ablation(ablation: Ablation) -> None:
    """Computes what is missing.

    Raises:
        FrozenSegError: a worker failed; what it finished stays.
    """
    _prepare(ablation)
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=_work, args=(ablation, number), name=str(number))
        for number in range(ablation.num_workers)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode != 0 for worker in workers):
        raise FrozenSegError("a worker of the ablation failed; its own message is above, and a rerun goes on from here")


def _train_file(ablation: Ablation) -> Path:
    return ablation.to / "views" / f"train-{ablation.num_train_views}.safetensors"


def _test_file(ablation: Ablation) -> Path:
    return ablation.to / "views" / f"test-{ablation.num_test_views}.safetensors"


def _mask_file(ablation: Ablation) -> Path:
    return ablation.to / "views" / f"masks-{ablation.num_test_views}.safetensors"


def _needs_masks(ablation: Ablation) -> bool:
    return any(InferenceOptions(**{**INFERENCE, **row.options}).needs_sam_masks for row in ablation.options)


def _prepare(ablation: Ablation) -> None:
    """Views and SAM masks, once."""
    model = load_model(ablation.model_folder)
    if not _train_file(ablation).exists():
        views = make_views(model.clip, model.sam, training_vocabulary(), "base", ablation.num_train_views, 1000)
        save_views(views, _train_file(ablation))
    if not _test_file(ablation).exists():
        views = make_views(model.clip, model.sam, full_vocabulary(), "all", ablation.num_test_views, 2000)
        save_views(views, _test_file(ablation))
    if _needs_masks(ablation) and not _mask_file(ablation).exists():
        assert model.sam is not None, "the miniature model has a SAM"
        views = load_views(_test_file(ablation), full_vocabulary())
        save_grid_masks(make_grid_masks(model.sam, views), _mask_file(ablation))


def _work(ablation: Ablation, number: int) -> None:
    """One process: every job whose turn it is, by number."""
    torch.set_num_threads(1)
    encoders = load_model(ablation.model_folder)
    train = load_views(_train_file(ablation), training_vocabulary())
    test = load_views(_test_file(ablation), full_vocabulary())
    text = embed_vocabulary(encoders.clip, training_vocabulary())
    readings = {row.name: row.options for row in ablation.options}
    masks = load_grid_masks(_mask_file(ablation)) if _needs_masks(ablation) else ()
    for turn, (row, seed) in enumerate(ablation.jobs()):
        files = {name: ablation.result_file(row.name, seed, name) for name in ("", *row.read_as)}
        if turn % ablation.num_workers != number or all(file.exists() for file in files.values()):
            continue
        start = time.process_time()
        config = miniature_decoder_config(row.query_injector_layers, row.feature_injector_layers)
        settings = dataclasses.replace(
            ablation.training, decoder=config, seed=seed, num_steps=row.num_steps or ablation.num_steps
        )
        weights = ablation.to / "decoders" / f"{row.name}.{seed}.safetensors"
        decoder = _trained(weights, train, text, settings)
        segmenter = Segmenter(assemble(encoders.clip, encoders.sam, decoder))
        for name, file in files.items():
            if file.exists():
                continue
            options = InferenceOptions(**{**INFERENCE, **readings.get(name, {})})
            scores = evaluate(segmenter, test, options, masks if options.needs_sam_masks else ())
            _write_result(file, row.name, name, seed, scores, time.process_time() - start)
            print(f"{file.stem}: {scores.miou_seen:.3f} / {scores.miou_unseen:.3f}", flush=True)  # noqa: T201


def _trained(path: Path, views: FixedViews, text: TextEmbeddings, settings: DecoderTraining) -> MaskDecoder:
    """The decoder in `path`, trained first when there is none."""
    if path.exists():
        decoder = MaskDecoder(settings.decoder)
        decoder.load_state_dict(safetensors.torch.load_file(path))
        return decoder.eval()
    decoder = train_decoder(views, text, settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    safetensors.torch.save_file({name: tensor.clone() for name, tensor in decoder.state_dict().items()}, partial)
    os.replace(partial, path)
    return decoder


def _write_result(path: Path, row: str, reading: str, seed: int, scores: Scores, cpu_seconds: float) -> None:
    content = dataclasses.asdict(scores)
    # JSON has no pairs as keys.
    content["cells"] = {
        f"look {'seen' if look else 'unseen'}, outline {'seen' if outline else 'unseen'}": dataclasses.asdict(cell)
        for (look, outline), cell in scores.cells.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    document = {"row": row, "read_as": reading, "seed": seed, "cpu_seconds": cpu_seconds, "scores": content}
    partial.write_text(json.dumps(document, indent=1))
    os.replace(partial, path)
