"""Pre-trains the miniature SAM: points to masks, on whole scenes, things and stuff alike.

Three things shorten the plateau of empty masks that a SAM from nothing sits on for thousands of steps: the decoder's
attention between points and image starts out local (keys are projected as queries are, so that equal positions match),
the image encoder first learns alone that places of one segment look alike, and pixels inside and outside weigh alike.

Masks are supervised at the scene's own resolution with plain cross-entropy (not focal loss, which keeps logits small):
sharp logits are what segment-anything's stability filter asks for. The head that predicts IoU learns from the masks as
they are, and once more alone when they are done (`iou_head`), so that its filter means something.

Shape legend: B scenes, P points of a scene, M = 4 masks of a point (one plain, three alternatives), S = 128.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam
from torch import Tensor

from frozenseg.encoders import SamArchitecture, SamImageEncoder
from frozenseg.encoders.pixels import SAM_PIXEL_MEAN, SAM_PIXEL_STD
from frozenseg.miniature.encoders import MINIATURE_SAM, build_miniature_sam
from frozenseg.miniature.iou_head import IouHeadFitting, fit_iou_head
from frozenseg.miniature.pretraining import ScenePool, learning_rate_factor, make_optimizer, train_steps, write_state
from frozenseg.miniature.sam_points import actual_iou, predict_masks, sample_points

_SHARPNESS = 3.0
"""The released SAM's logits rise steeply at borders, and the offsets of the stability filter are meant for that. A mask
decoder trained for minutes is right about the border but hesitant: its logits are stretched by this factor."""
_LAST_SHARPENING = 2.0
"""And by this one when training has ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamPretraining:
    """num_scenes: size of the scene pool; batch_size scenes of num_points points each; num_encoder_steps: the first of
    num_steps, on the image encoder alone; num_mask_steps: further ones on the rest, with the image encoder as it is by
    then (it is all that our decoder reads of SAM, so that both may train at the same time); iou_head: fitted last."""

    num_scenes: int = 4000
    num_steps: int = 900
    batch_size: int = 8
    num_points: int = 6
    num_encoder_steps: int = 210
    num_mask_steps: int = 600
    learning_rate: float = 1e-3
    weight_decay: float = 0.02
    seed: int = 21
    iou_head: IouHeadFitting = field(default_factory=IouHeadFitting)


def pretrain_sam(
    settings: SamPretraining,
    checkpoint: Path,
    report: Callable[[int, float], None],
    architecture: SamArchitecture = MINIATURE_SAM,
) -> SamImageEncoder:
    """The trained encoder; continues from `checkpoint` when it exists."""
    torch.manual_seed(settings.seed)
    encoder = build_miniature_sam(architecture)
    finished = checkpoint.with_stem(checkpoint.stem + "-finished")
    if finished.exists():
        encoder.load_state_dict(torch.load(finished, weights_only=True))
        encoder.freeze()
        return encoder
    _start_local(encoder.sam)
    encoder.requires_grad_(True)
    # Made when the first step asks for it: a finished checkpoint needs none.
    pool = cache(lambda: ScenePool.make(settings.seed, settings.num_scenes))

    def loss_of(step: int, generator: torch.Generator) -> Tensor:
        images, ids, _ = pool().batch(settings.batch_size, generator)
        num_points = 0 if step < settings.num_encoder_steps else settings.num_points
        return _batch_loss(encoder.sam, images, ids, num_points, 1.0, generator)

    def mask_loss_of(step: int, generator: torch.Generator) -> Tensor:  # noqa: ARG001
        images, ids, _ = pool().batch(settings.batch_size, generator)
        return _batch_loss(encoder.sam, images, ids, settings.num_points, _SHARPNESS, generator)

    train_steps(
        encoder,
        make_optimizer(encoder, settings.learning_rate, settings.weight_decay, ("token", "embed", "rel_pos")),
        loss_of,
        lambda step: learning_rate_factor(step, settings.num_steps, 60, 0.4),
        num_steps=settings.num_steps,
        seed=settings.seed,
        checkpoint=checkpoint,
        report=report,
        every=50,
    )
    if settings.num_mask_steps == 0:
        encoder.freeze()
        return encoder
    _sharpen(encoder.sam, _SHARPNESS)
    encoder.sam.image_encoder.requires_grad_(False)
    train_steps(
        encoder,
        make_optimizer(encoder, settings.learning_rate, settings.weight_decay, ("token", "embed")),
        mask_loss_of,
        # Ends at a seventh of the rate, not at 0: masks still get better at the end.
        lambda step: learning_rate_factor(step, settings.num_mask_steps + 100, 20, 0.1),
        num_steps=settings.num_mask_steps,
        seed=settings.seed + 1,
        checkpoint=checkpoint.with_stem(checkpoint.stem + "-masks"),
        report=report,
        every=50,
    )
    encoder.freeze()
    finish(encoder, settings.iou_head)
    write_state(encoder.state_dict(), finished)
    return encoder


def _start_local(sam: Sam) -> None:
    """Attention between points and image starts out matching positions: keys are projected as queries are, three times
    as strongly as usual."""
    transformer = sam.mask_decoder.transformer
    attentions = [transformer.final_attn_token_to_image]
    for layer in transformer.layers:
        attentions += [layer.cross_attn_token_to_image, layer.cross_attn_image_to_token]
    with torch.no_grad():
        for attention in attentions:
            attention.q_proj.weight.mul_(3)
            attention.k_proj.weight.copy_(attention.q_proj.weight)


def finish(encoder: SamImageEncoder, settings: IouHeadFitting) -> None:
    """What follows when the masks are learnt, and leaves them as they are: steeper logits, and the head that predicts
    IoU fitted alone."""
    _sharpen(encoder.sam, _LAST_SHARPENING)
    fit_iou_head(encoder, settings)


def _sharpen(sam: Sam, factor: float) -> None:
    """Logits `factor` times as large, the same masks."""
    with torch.no_grad():
        for perceptron in sam.mask_decoder.output_hypernetworks_mlps:
            perceptron.layers[-1].weight.mul_(factor)
            perceptron.layers[-1].bias.mul_(factor)


def _batch_loss(
    sam: Sam, images: Tensor, ids: Tensor, num_points: int, sharpness: float, generator: torch.Generator
) -> Tensor:
    """Likeness of the image map, and with points, the masks, whose logits are divided by `sharpness` in the loss.
    images [B,3,256,256]; ids [B,S,S]."""
    mean = torch.tensor(SAM_PIXEL_MEAN)[:, None, None]
    pixels = (images - mean) / torch.tensor(SAM_PIXEL_STD)[:, None, None]
    with torch.autocast("cpu", torch.bfloat16):
        embeddings = sam.image_encoder(pixels)
        likeness: Tensor = embeddings.new_zeros(())
        if embeddings.requires_grad:
            likeness = _likeness_loss(embeddings.float(), ids, generator)
        if num_points == 0:
            return likeness
        losses = []
        for embedding, map_ in zip(embeddings, ids, strict=True):
            points, truth = sample_points(map_, num_points, generator)
            logits, predicted_iou = predict_masks(sam, embedding[None], points)
            losses.append(_mask_loss(logits.float() / sharpness, predicted_iou.float(), truth))
    return torch.stack(losses).mean() + 0.3 * likeness


def _likeness_loss(embeddings: Tensor, ids: Tensor, generator: torch.Generator) -> Tensor:
    """Places of one segment should point the same way, places of two segments not: balanced cross-entropy of cosines
    between some places, drawn evenly over segments, and all places. embeddings [B,C,h,w]; ids [B,S,S]."""
    step = ids.shape[-1] // embeddings.shape[-1]
    owners = ids[:, step // 2 :: step, step // 2 :: step].flatten(1)
    places = F.normalize(embeddings.flatten(2), dim=1)
    share = torch.stack([1 / torch.bincount(row, minlength=16)[row].float() for row in owners])
    drawn = torch.multinomial(share, 32, generator=generator)
    picked = places.gather(2, drawn[:, None].expand(-1, places.shape[1], -1))
    logits = 10 * (torch.einsum("bcn,bcp->bnp", picked, places) - 0.5)
    same = (owners.gather(1, drawn)[:, :, None] == owners[:, None, :]).float()
    return _balanced(F.binary_cross_entropy_with_logits(logits, same, reduction="none"), same)


def _balanced(values: Tensor, inside: Tensor) -> Tensor:
    """Mean over the inside plus mean over the outside, halved, over the last axis; then the mean of all."""
    within = (values * inside).sum(-1) / inside.sum(-1).clamp(min=1)
    without = (values * (1 - inside)).sum(-1) / (1 - inside).sum(-1).clamp(min=1)
    return ((within + without) / 2).mean()


def _mask_loss(logits: Tensor, predicted_iou: Tensor, truth: Tensor) -> Tensor:
    """Plain mask + best of the three alternatives (with a little of their mean, so that none dies) + IoU regression."""
    wanted = truth[:, None].expand_as(logits)
    pixel = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    # Cells near the border decide IoU and stability, and are few: they count four times more.
    near = F.avg_pool2d(truth[:, None], 7, stride=1, padding=3, count_include_pad=False)
    weight = 1 + 3 * ((near > 0.02) & (near < 0.98)).float()
    plain = (pixel * weight).sum((-2, -1)) / weight.sum((-2, -1))
    within = (pixel * wanted).sum((-2, -1)) / wanted.sum((-2, -1)).clamp(min=1)
    cross_entropy = plain + 0.5 * within
    share = logits.sigmoid()
    overlap = (share * wanted).sum((-2, -1))
    dice = 1 - (2 * overlap + 1) / (share.sum((-2, -1)) + wanted.sum((-2, -1)) + 1)
    loss = 3 * cross_entropy + dice
    alternatives = loss[:, 1:]
    iou_error = (predicted_iou - actual_iou(logits.detach(), wanted)).square().mean()
    best = 0.7 * alternatives.min(1).values.mean() + 0.3 * alternatives.mean()
    return 0.5 * loss[:, 0].mean() + best + 2 * iou_error
