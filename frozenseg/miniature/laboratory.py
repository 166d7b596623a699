"""The laboratory: rows of an ablation on fixed views, each (row, seed) its own result file, resumable.

Encoders are frozen, so features are computed once and shared by all rows and seeds. A trained row trains a decoder; the
rows of options (ensemble weights, OpenSeg, SAM alone) only evaluate it again.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import multiprocessing
import os
import time
from pathlib import Path

import safetensors.torch
import torch

from frozenseg.classify import embed_vocabulary
from frozenseg.decoder import MaskDecoder
from frozenseg.errors import FrozenSegError
from frozenseg.inference.segmenter import Segmenter
from frozenseg.memory import keep_freed_memory
from frozenseg.miniature.ablation import Ablation
from frozenseg.miniature.ablation_inputs import load_inputs, make_inputs
from frozenseg.miniature.assemble import assemble
from frozenseg.miniature.categories import training_vocabulary
from frozenseg.miniature.evaluate import Scores, evaluate
from frozenseg.miniature.train_decoder import DecoderTraining, miniature_decoder_config, train_decoder
from frozenseg.miniature.views import FixedViews
from frozenseg.types import TextEmbeddings


def run_ablation(ablation: Ablation) -> None:
    """Computes what is missing.

    Raises:
        FrozenSegError: a worker failed; what it finished stays.
    """
    make_inputs(ablation)
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


def _work(ablation: Ablation, number: int) -> None:
    """One process: every job whose turn it is, by number."""
    torch.set_num_threads(1)
    keep_freed_memory(torch.device("cpu"))
    inputs_of = functools.lru_cache(maxsize=1)(functools.partial(load_inputs, ablation))
    for turn, (row, seed) in enumerate(ablation.jobs()):
        files = {name: ablation.result_file(row.name, seed, name) for name in ("", *row.read_as)}
        if turn % ablation.num_workers != number or all(file.exists() for file in files.values()):
            continue
        inputs = inputs_of(row.sam)
        start = time.process_time()
        config = miniature_decoder_config(row.query_injector_layers, row.feature_injector_layers)
        settings = dataclasses.replace(
            ablation.training, decoder=config, seed=seed, num_steps=row.num_steps or ablation.num_steps
        )
        text = embed_vocabulary(inputs.clip, training_vocabulary())
        decoder = _trained(ablation.decoder_file(row.name, seed), inputs.train, text, settings)
        segmenter = Segmenter(assemble(inputs.clip, inputs.sam, decoder))
        for name, file in files.items():
            if file.exists():
                continue
            options = ablation.options_of(name)
            scores = evaluate(segmenter, inputs.test, options, inputs.masks if options.needs_sam_masks else ())
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
