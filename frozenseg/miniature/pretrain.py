"""From nothing to the miniature model: CLIP and SAM side by side, then the decoder. Resumable at every stage."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

import safetensors.torch
import torch
import torch.distributed as dist

from frozenseg.classify import embed_vocabulary
from frozenseg.decoder import MaskDecoder
from frozenseg.encoders import OpenClipEncoder, SamImageEncoder
from frozenseg.errors import FrozenSegError
from frozenseg.memory import keep_freed_memory
from frozenseg.miniature.assemble import assemble, round_to_half, save_miniature
from frozenseg.miniature.categories import training_vocabulary
from frozenseg.miniature.pretrain_clip import ClipPretraining, pretrain_clip
from frozenseg.miniature.pretrain_sam import SamPretraining, pretrain_sam
from frozenseg.miniature.train_decoder import DecoderTraining, train_decoder
from frozenseg.miniature.views import make_views

_CLIP, _SAM, _DECODER, _MEETING = "clip.pt", "sam.pt", "decoder.safetensors", "decoder-workers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pretraining:
    """num_views, view_seed: the scenes that the decoder is trained on; num_workers: processes that share its views and
    its batches."""

    clip: ClipPretraining = field(default_factory=ClipPretraining)
    sam: SamPretraining = field(default_factory=SamPretraining)
    decoder: DecoderTraining = field(default_factory=DecoderTraining)
    num_views: int = 1200
    view_seed: int = 1000
    num_workers: int = 1


def pretrain(settings: Pretraining, work: Path, model_folder: Path) -> None:
    """Trains all three parts and writes the model folder.

    Args:
        settings: of the three trainings.
        work: checkpoints; what is finished there is not done again.
        model_folder: written at the end.

    Raises:
        FrozenSegError: the process of one part failed; its own message is on stderr.
        ValueError: views or batches can't be shared evenly by the workers.
    """
    if settings.num_views % settings.num_workers or settings.decoder.batch_size % settings.num_workers:
        raise ValueError(f"num_workers: {settings.num_workers} of them can't share views and batches evenly")
    work.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    _run_together(
        context.Process(target=_clip_job, args=(settings, work), name="CLIP"),
        context.Process(target=_sam_job, args=(settings, work), name="SAM"),
        need_each_other=False,
    )
    if not (work / _DECODER).exists():
        # What a run that was cut off left: workers would wait for its members.
        (work / _MEETING).unlink(missing_ok=True)
        _run_together(
            *(
                context.Process(target=_decoder_job, args=(settings, work, rank), name=f"decoder, worker {rank}")
                for rank in range(settings.num_workers)
            ),
            need_each_other=True,
        )
    clip, sam = _finished_encoders(settings, work)
    decoder = MaskDecoder(settings.decoder.decoder)
    decoder.load_state_dict(safetensors.torch.load_file(work / _DECODER))
    save_miniature(assemble(clip, sam, decoder.eval()), model_folder)


def _run_together(*jobs: BaseProcess, need_each_other: bool) -> None:
    for job in jobs:
        job.start()
    running, failed = list(jobs), []
    while running:
        multiprocessing.connection.wait([job.sentinel for job in running])
        ended = [job for job in running if job.exitcode is not None]
        running = [job for job in running if job not in ended]
        failed += [job.name for job in ended if job.exitcode]
        if failed and need_each_other:
            for job in running:
                job.terminate()
                job.join()
            break
    if failed:
        raise FrozenSegError(f"the pre-training of {' and '.join(failed)} failed")


def _finished_encoders(settings: Pretraining, work: Path) -> tuple[OpenClipEncoder, SamImageEncoder]:
    """As they will be stored: rounded to half precision."""
    clip = pretrain_clip(settings.clip, work / _CLIP, _reporter("CLIP"))
    sam = pretrain_sam(settings.sam, work / _SAM, _reporter("SAM"))
    round_to_half(clip)
    round_to_half(sam)
    return clip, sam


def _clip_job(settings: Pretraining, work: Path) -> None:
    _use_one_core()
    pretrain_clip(settings.clip, work / _CLIP, _reporter("CLIP"))


def _sam_job(settings: Pretraining, work: Path) -> None:
    _use_one_core()
    pretrain_sam(settings.sam, work / _SAM, _reporter("SAM"))


def _decoder_job(settings: Pretraining, work: Path, rank: int) -> None:
    _use_one_core()
    clip, sam = _finished_encoders(settings, work)
    vocabulary = training_vocabulary()
    share = settings.num_views // settings.num_workers
    views = make_views(clip, sam, vocabulary, "base", share, settings.view_seed, first=rank * share)
    dist.init_process_group(
        "gloo",
        init_method=(work / _MEETING).absolute().as_uri(),
        rank=rank,
        world_size=settings.num_workers,
    )
    try:
        text = embed_vocabulary(clip, vocabulary)
        report = _reporter("decoder") if rank == 0 else None
        decoder = train_decoder(views, text, settings.decoder, report, dist.group.WORLD)
        if rank == 0:
            partial = work / (_DECODER + ".partial")
            safetensors.torch.save_file(decoder.state_dict(), partial)
            os.replace(partial, work / _DECODER)
        dist.barrier()
    finally:
        dist.destroy_process_group()


def _use_one_core() -> None:
    torch.set_num_threads(1)
    keep_freed_memory(torch.device("cpu"))


def _reporter(name: str) -> Callable[[int, float], None]:
    def report(step: int, loss: float) -> None:
        print(f"{name}: step {step}, loss {loss:.4f}, {time.process_time():.0f} CPU s", flush=True)  # noqa: T201

    return report
