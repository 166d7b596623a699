"""From nothing to the miniature model: CLIP and SAM side by side, then the decoder. Resumable at every stage."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from frozenseg.classify import embed_vocabulary
from frozenseg.encoders import OpenClipEncoder, SamImageEncoder
from frozenseg.errors import FrozenSegError
from frozenseg.miniature.assemble import assemble, round_to_half, save_miniature
from frozenseg.miniature.categories import training_vocabulary
from frozenseg.miniature.pretrain_clip import ClipPretraining, pretrain_clip
from frozenseg.miniature.pretrain_sam import SamPretraining, pretrain_sam
from frozenseg.miniature.train_decoder import DecoderTraining, train_decoder
from frozenseg.miniature.views import make_views


@dataclass(frozen=True, slots=True, kw_only=True)
class Pretraining:
    """num_views, view_seed: the scenes that the decoder is trained on."""

    clip: ClipPretraining = field(default_factory=ClipPretraining)
    sam: SamPretraining = field(default_factory=SamPretraining)
    decoder: DecoderTraining = field(default_factory=DecoderTraining)
    num_views: int = 1200
    view_seed: int = 1000


def pretrain(settings: Pretraining, work: Path, model_folder: Path) -> None:
    """Trains all three parts and writes the model folder.

    Args:
        settings: of the three trainings.
        work: checkpoints; what is finished there is not done again.
        model_folder: written at the end.

    Raises:
        FrozenSegError: the process of one encoder failed; its own message is on stderr.
    """
    work.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    jobs = [
        context.Process(target=_clip_job, args=(settings.clip, work), name="CLIP"),
        context.Process(target=_sam_job, args=(settings.sam, work), name="SAM"),
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    failed = [job.name for job in jobs if job.exitcode != 0]
    if failed:
        raise FrozenSegError(f"the pre-training of {' and '.join(failed)} failed")
    clip = pretrain_clip(settings.clip, work / "clip.pt", _reporter("CLIP"))
    sam = pretrain_sam(settings.sam, work / "sam.pt", _reporter("SAM"))
    make_model(settings, clip, sam, model_folder)


def make_model(settings: Pretraining, clip: OpenClipEncoder, sam: SamImageEncoder, model_folder: Path) -> None:
    """Trains the decoder on the finished encoders and writes the model folder."""
    round_to_half(clip)
    round_to_half(sam)
    vocabulary = training_vocabulary()
    views = make_views(clip, sam, vocabulary, "base", settings.num_views, settings.view_seed)
    decoder = train_decoder(views, embed_vocabulary(clip, vocabulary), settings.decoder, _reporter("decoder"))
    save_miniature(assemble(clip, sam, decoder), model_folder)


def _clip_job(settings: ClipPretraining, work: Path) -> None:
    torch.set_num_threads(1)
    pretrain_clip(settings, work / "clip.pt", _reporter("CLIP"))


def _sam_job(settings: SamPretraining, work: Path) -> None:
    torch.set_num_threads(1)
    pretrain_sam(settings, work / "sam.pt", _reporter("SAM"))


def _reporter(name: str) -> Callable[[int, float], None]:
    def report(step: int, loss: float) -> None:
        print(f"{name}: step {step}, loss {loss:.4f}, {time.process_time():.0f} CPU s", flush=True)  # noqa: T201

    return report
