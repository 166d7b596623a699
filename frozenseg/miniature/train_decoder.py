"""Trains a decoder for the miniature world on fixed views; plain PyTorch, minutes on a CPU, one process or several."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from frozenseg.decoder import MaskDecoder
from frozenseg.decoder.config import DecoderConfig
from frozenseg.losses import Criterion
from frozenseg.miniature.views import FixedViews
from frozenseg.training import parameter_groups
from frozenseg.types import EncoderFeatures, TextEmbeddings


def miniature_decoder_config(
    query_injector_layers: tuple[int, ...] = (2,), feature_injector_layers: tuple[int, ...] = (0, 3)
) -> DecoderConfig:
    """The default's numbers: 6 layers, 24 queries, 96 wide."""
    return DecoderConfig(
        clip_channels=(32, 64, 96, 128),
        embedding_dim=128,
        sam_channels=96,
        hidden_dim=96,
        mask_dim=96,
        num_queries=24,
        num_heads=4,
        num_layers=6,
        feedforward_dim=192,
        pixel_decoder_layers=1,
        pixel_decoder_feedforward_dim=192,
        query_injector_layers=query_injector_layers,
        feature_injector_layers=feature_injector_layers,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderTraining:
    """num_points: sampled points of a mask in the loss; decay_at: share of the steps after which the rate falls to a
    tenth; average_decay: of the exponential moving average of the weights that becomes the decoder, 0 for the weights
    of the last step; flip: every view also counts mirrored, as if the encoders' maps of a mirrored picture were the
    mirrored maps, which they nearly are; matrix products run in bfloat16 when `half` is on."""

    num_steps: int = 800
    batch_size: int = 6
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    decay_at: float = 0.85
    average_decay: float = 0.99
    flip: bool = True
    num_points: int = 1024
    seed: int = 0
    half: bool = True
    decoder: DecoderConfig = field(default_factory=miniature_decoder_config)


def train_decoder(
    views: FixedViews,
    text: TextEmbeddings,
    settings: DecoderTraining,
    report: Callable[[int, float], None] | None = None,
    workers: dist.ProcessGroup | None = None,
) -> MaskDecoder:
    """A decoder trained on the views, in eval mode.

    Args:
        views: of training scenes; where there are several workers, this one's own share of them.
        text: rows of the views' vocabulary.
        settings: the same settings, seed and number of workers give the same decoder on one machine.
        report: called every 20 steps with the step's number and the mean loss since (of this worker's images).
        workers: the group of processes that train one decoder together, each its share of every batch; all get the
            same decoder.

    Raises:
        ValueError: the batch can't be shared evenly.
    """
    rank, count = (dist.get_rank(workers), dist.get_world_size(workers)) if workers is not None else (0, 1)
    if settings.batch_size % count:
        raise ValueError(f"batch_size: expected a multiple of the {count} workers, found {settings.batch_size}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        decoder = MaskDecoder(settings.decoder).train()
        if rank:
            # The weights are everyone's, the drawn views and points each worker's own.
            torch.manual_seed(settings.seed * count + rank)
        _fit(decoder, views, text, settings, report, workers, count)
    return decoder.eval()


def _fit(
    decoder: MaskDecoder,
    views: FixedViews,
    text: TextEmbeddings,
    settings: DecoderTraining,
    report: Callable[[int, float], None] | None,
    workers: dist.ProcessGroup | None,
    num_workers: int,
) -> None:
    batch_size = settings.batch_size // num_workers
    groups = [
        {"params": list(group.parameters.values()), "weight_decay": group.weight_decay}
        for group in parameter_groups(decoder, settings.weight_decay)
    ]
    # Fused: on a CPU the default goes through two hundred small parameters one by one.
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)
    averaging = get_ema_multi_avg_fn(settings.average_decay)  # type: ignore[no-untyped-call]
    average = AveragedModel(decoder, multi_avg_fn=averaging)
    criterion = Criterion(num_points=settings.num_points)
    order = torch.empty(0, dtype=torch.int64)
    # Numbers past the views' own are mirrored views.
    num_views = 2 * len(views) if settings.flip else len(views)
    running = 0.0
    for step in range(settings.num_steps):
        if len(order) < batch_size:
            order = torch.cat([order, torch.randperm(num_views)])
        drawn, order = order[:batch_size], order[batch_size:]
        is_mirrored = drawn >= len(views)
        indices = (drawn % len(views)).tolist()
        if step == int(settings.decay_at * settings.num_steps):
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * 0.1
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.half):
            output = decoder(_mirrored(views.features(indices), is_mirrored), text)
        targets = [
            replace(views.targets[index], masks=views.targets[index].masks.flip(-1))
            if mirrored
            else views.targets[index]
            for index, mirrored in zip(indices, is_mirrored.tolist(), strict=True)
        ]
        num_masks = torch.tensor(float(sum(len(target.category_ids) for target in targets)))
        if workers is not None:
            dist.all_reduce(num_masks, group=workers)
        loss = criterion(output, targets, max(float(num_masks) / num_workers, 1.0)).total
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if workers is not None:
            _average_gradients(decoder, workers, num_workers)
        nn.utils.clip_grad_norm_(decoder.parameters(), settings.clip_norm)
        optimizer.step()
        average.update_parameters(decoder)
        running += float(loss.detach())
        if (step + 1) % 20 == 0:
            if report is not None:
                report(step + 1, running / 20)
            running = 0.0
    decoder.load_state_dict(average.module.state_dict())


def _average_gradients(decoder: MaskDecoder, workers: dist.ProcessGroup, num_workers: int) -> None:
    """In one message: the decoder is small, and a message costs more than its bytes."""
    gradients = [p.grad for p in decoder.parameters() if p.grad is not None]
    together = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(together, group=workers)
    together /= num_workers
    means = torch.split(together, [gradient.numel() for gradient in gradients])
    for gradient, mean in zip(gradients, means, strict=True):
        gradient.copy_(mean.view_as(gradient))


def _mirrored(features: EncoderFeatures, rows: Tensor) -> EncoderFeatures:
    """With the maps of some rows mirrored left to right. rows [B] bool."""

    def mirror(level: Tensor) -> Tensor:
        return torch.where(rows[:, None, None, None], level.flip(-1), level)

    first, second, third, fourth = (mirror(level) for level in features.clip_pyramid)
    return replace(
        features,
        clip_pyramid=(first, second, third, fourth),
        clip_dense=mirror(features.clip_dense),
        sam=mirror(features.sam),
    )
