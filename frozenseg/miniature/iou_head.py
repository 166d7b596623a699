"""The last part of the miniature SAM's pre-training: its opinion of its own masks.

While masks are learnt, the head that predicts their IoU chases a moving target on few points and ends up shy: of points
on novel looks hardly one passes segment-anything's filter. Once the masks are fixed, what the head reads is fixed too,
so it is collected once for many points and the head alone is fitted to it, in seconds. By absolute error: a mask is
mostly right or mostly wrong, and where the head cannot tell, the mean of both would be no mask's IoU; the median is the
likelier one's.

Shape legend: P points of a scene, M = 4 masks of a point, N points in all, C channels, S = 128.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from frozenseg.encoders import SamImageEncoder
from frozenseg.miniature.encoders import IMAGE_SIZE
from frozenseg.miniature.pretraining import ScenePool
from frozenseg.miniature.sam_points import actual_iou, predict_masks, sample_points
from frozenseg.miniature.world import SCENE_SIZE


@dataclass(frozen=True, slots=True, kw_only=True)
class IouHeadFitting:
    """num_scenes of num_points points each, half of them drawn evenly over segments, half evenly over the picture, as a
    grid lies; num_steps of batch_size points."""

    num_scenes: int = 1200
    num_points: int = 16
    num_steps: int = 2000
    batch_size: int = 512
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    seed: int = 31


def fit_iou_head(encoder: SamImageEncoder, settings: IouHeadFitting) -> float:
    """Fits the head in place; masks stay as they are. Returns the last mean absolute error."""
    tokens, iou = collect(encoder, settings)
    head: nn.Module = encoder.sam.mask_decoder.iou_prediction_head
    generator = torch.Generator().manual_seed(settings.seed)
    head.requires_grad_(True)
    optimizer = torch.optim.AdamW(head.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, settings.num_steps)
    error = tokens.new_zeros(())
    for _ in range(settings.num_steps):
        picked = torch.randint(len(tokens), (settings.batch_size,), generator=generator)
        error = (head(tokens[picked]) - iou[picked]).abs().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        schedule.step()
    head.requires_grad_(False)
    return float(error.detach())


@torch.no_grad()
def collect(encoder: SamImageEncoder, settings: IouHeadFitting) -> tuple[Tensor, Tensor]:
    """What the head reads for each point [N,C], and the IoU of its masks with the segment under it [N,M]."""
    pool = ScenePool.make(settings.seed, settings.num_scenes)
    generator = torch.Generator().manual_seed(settings.seed)
    read: list[Tensor] = []
    iou: list[Tensor] = []

    def keep(_: nn.Module, inputs: Any) -> None:
        read.append(inputs[0])

    # segment-anything has no method that stops before the head.
    hook = encoder.sam.mask_decoder.iou_prediction_head.register_forward_pre_hook(keep)
    try:
        for image, ids in zip(pool.images, pool.segment_ids.long(), strict=True):
            picture = F.interpolate(image[None].float(), size=(IMAGE_SIZE, IMAGE_SIZE), mode="bilinear")
            embedding = encoder.encode_image(picture, torch.tensor([[IMAGE_SIZE, IMAGE_SIZE]]))
            points, truth = _points(ids, settings.num_points, generator)
            logits, _ = predict_masks(encoder.sam, embedding, points)
            iou.append(actual_iou(logits, truth[:, None].expand_as(logits)))
    finally:
        hook.remove()
    return torch.cat(read), torch.cat(iou)


def _points(ids: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """[P,2] points and [P,S,S] their segments; a point on void has nothing to find."""
    points, truth = sample_points(ids, count // 2, generator)
    xy = torch.randint(SCENE_SIZE, (count - count // 2, 2), generator=generator)
    owner = ids[xy[:, 1], xy[:, 0]]
    under = (ids[None] == owner[:, None, None]) & (owner > 0)[:, None, None]
    return torch.cat([points, (xy + 0.5) * (IMAGE_SIZE / SCENE_SIZE)]), torch.cat([truth, under.float()])
