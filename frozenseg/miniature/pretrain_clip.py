"""Pre-trains the miniature CLIP: regions of scenes against their captions.

Image-level captions failed in the prototype (stuff is true in nearly every crop and wins), so that a caption belongs to
a region: its cells of the dense map are averaged, as mask pooling does in prediction, and compared with the captions of
all categories.

Shape legend: B scenes, N regions, K categories, D CLIP width, g side of the dense map, S scene side.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from frozenseg.encoders import OpenClipEncoder
from frozenseg.encoders.pixels import CLIP_PIXEL_MEAN, CLIP_PIXEL_STD, normalise
from frozenseg.miniature.categories import full_vocabulary
from frozenseg.miniature.encoders import CAPTIONS, build_miniature_clip
from frozenseg.miniature.pretraining import ScenePool, learning_rate_factor, make_optimizer, train_steps

_CROP = 64
_STRIDE = 32
_NAMES = tuple(category.name for category in full_vocabulary().categories)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipPretraining:
    """num_scenes: size of the scene pool; crop_share: first part of the steps, on crops of 64 pixels only; afterwards
    every fourth step is one of crops; batch_size scenes (crops are four times as many)."""

    num_scenes: int = 4000
    num_steps: int = 4800
    batch_size: int = 16
    crop_share: float = 0.15
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    seed: int = 20


def pretrain_clip(settings: ClipPretraining, checkpoint: Path, report: Callable[[int, float], None]) -> OpenClipEncoder:
    """The trained encoder; continues from `checkpoint` when it exists."""
    torch.manual_seed(settings.seed)
    encoder = build_miniature_clip()
    _initialise(encoder)
    encoder.requires_grad_(True)
    # Made when the first step asks for it: a finished checkpoint needs none.
    pool = cache(lambda: ScenePool.make(settings.seed, settings.num_scenes))
    tokens = encoder.tokenizer([caption.format(name) for name in _NAMES for caption in CAPTIONS])
    tokens = tokens.view(len(_NAMES), len(CAPTIONS), -1)

    def loss_of(step: int, generator: torch.Generator) -> Tensor:
        crops = step < settings.crop_share * settings.num_steps or step % 4 == 3
        if crops:
            pooled, categories = _crops(encoder, pool(), settings.batch_size * 4, generator)
        else:
            pooled, categories = _regions(encoder, pool(), settings.batch_size, generator)
        return _contrast(encoder, pooled, categories, tokens, generator)

    train_steps(
        encoder,
        make_optimizer(encoder, settings.learning_rate, settings.weight_decay, ("embedding", "logit_scale")),
        loss_of,
        lambda step: learning_rate_factor(step, settings.num_steps, 50, 0.35),
        num_steps=settings.num_steps,
        seed=settings.seed,
        checkpoint=checkpoint,
        report=report,
    )
    encoder.freeze()
    return encoder


def _initialise(encoder: OpenClipEncoder) -> None:
    """Layer scale 0.5 and tokens of deviation 0.1: CLIP's own initial values are for long training."""
    with torch.no_grad():
        for name, parameter in encoder.model.named_parameters():
            if name.endswith("gamma"):
                parameter.fill_(0.5)
        encoder.model.token_embedding.weight.normal_(0, 0.1)
        encoder.model.logit_scale.fill_(math.log(1 / 0.07))


def _normalised(images: Tensor) -> Tensor:
    mean = torch.tensor(CLIP_PIXEL_MEAN)[:, None, None]
    return (images - mean) / torch.tensor(CLIP_PIXEL_STD)[:, None, None]


def _dense(encoder: OpenClipEncoder, images: Tensor) -> Tensor:
    """[B,C,g,g] float32 of images in 0..255, with bfloat16 matrix products."""
    pixels = _normalised(images).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        dense: Tensor = encoder.model.visual.trunk.forward_features(pixels)
    return dense.float()


def _crops(encoder: OpenClipEncoder, pool: ScenePool, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pooled vectors [N,C] of 64 px crops, each with the category at its centre [N]."""
    images, ids, categories = pool.batch(max(count // 4, 1), generator)
    reach = _CROP // 4
    side = ids.shape[-1]
    cut, labels = [], []
    for image, map_, names in zip(images, ids, categories, strict=True):
        for _ in range(4):
            # Choosing a segment first makes things as frequent as stuff.
            present = (names >= 0).nonzero()[:, 0]
            chosen = int(present[torch.randint(len(present), (), generator=generator)])
            points = (map_[reach : side - reach, reach : side - reach] == chosen).nonzero()
            if not len(points):
                continue
            row, column = points[torch.randint(len(points), (), generator=generator)].tolist()
            cut.append(image[:, row * 2 : row * 2 + _CROP, column * 2 : column * 2 + _CROP])
            labels.append(int(names[chosen]))
    return _dense(encoder, torch.stack(cut)).mean((-2, -1)), torch.tensor(labels)


def _regions(
    encoder: OpenClipEncoder, pool: ScenePool, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Pooled vectors [N,C] of all regions of whole scenes, with their categories [N]."""
    images, ids, categories = pool.batch(count, generator)
    dense = _dense(encoder, images)
    scene, segment = (categories >= 0).nonzero(as_tuple=True)
    masks = (ids[scene] == segment[:, None, None]).float()
    kept = masks.flatten(1).sum(1) >= 40
    masks, scene, segment = masks[kept], scene[kept], segment[kept]
    cells = region_cells(masks, dense.shape[-1])
    loose = torch.rand(len(cells), generator=generator) < 0.25
    covered = F.adaptive_avg_pool2d(masks[:, None], dense.shape[-1])[:, 0]
    cells = torch.where(loose[:, None, None], (covered > 0.2) | cells, cells)
    weights = torch.where(cells.flatten(1).any(1)[:, None, None], cells.float(), covered)
    weights = weights / weights.sum((-2, -1), keepdim=True)
    pooled = torch.einsum("nchw,nhw->nc", dense[scene], weights)
    return pooled, categories[scene, segment]


def region_cells(masks: Tensor, grid: int) -> Tensor:
    """[N,g,g] bool: the cells that mask pooling gives to masks [N,S,S] (0 or 1), seen at stride 4 first."""
    logits = F.avg_pool2d(masks[:, None] * 2 - 1, 2)
    return F.interpolate(logits, size=(grid, grid), mode="bilinear", align_corners=False)[:, 0] > 0


def _contrast(
    encoder: OpenClipEncoder, pooled: Tensor, categories: Tensor, tokens: Tensor, generator: torch.Generator
) -> Tensor:
    """Symmetric InfoNCE: each region against one caption per category, each caption present against all regions."""
    visual = encoder.model.visual
    regions = F.normalize(visual.head(visual.trunk.forward_head(pooled[:, :, None, None])), dim=-1)
    picked = torch.randint(tokens.shape[1], (len(tokens),), generator=generator)
    captions = encoder.model.encode_text(tokens[torch.arange(len(tokens)), picked], normalize=True)
    logits = encoder.model.logit_scale.exp().clamp(max=100) * regions @ captions.T
    to_text = F.cross_entropy(logits, categories)
    own = categories[None, :] == torch.arange(len(captions))[:, None]
    present = own.any(1)
    shares = logits.T.log_softmax(-1)[present]
    to_region = -(shares * own[present]).sum(-1) / own[present].sum(-1)
    return to_text + 0.5 * to_region.mean()  # type: ignore[no-any-return]


@torch.no_grad()
def region_accuracy(encoder: OpenClipEncoder, pool: ScenePool) -> Tensor:
    """[K] share of regions of each category whose nearest name is right, pooled with the true masks."""
    names = torch.stack(
        [
            F.normalize(F.normalize(encoder.encode_text([c.format(n) for c in CAPTIONS[1:]]), dim=-1).mean(0), dim=-1)
            for n in _NAMES
        ]
    )
    right, total = torch.zeros(len(_NAMES)), torch.zeros(len(_NAMES))
    for image, ids, categories in zip(pool.images, pool.segment_ids, pool.categories, strict=True):
        big = F.interpolate(image[None].float(), scale_factor=2, mode="bilinear", align_corners=False)
        dense = encoder.model.visual.trunk.forward_features(
            normalise(big, torch.tensor([big.shape[-2:]]), CLIP_PIXEL_MEAN, CLIP_PIXEL_STD)
        )
        present = (categories >= 0).nonzero()[:, 0]
        masks = (ids.long()[None] == present[:, None, None]).float()
        pooled = encoder.pool_masks(dense, F.avg_pool2d(masks[:, None] * 2 - 1, 2)[:, 0][None])
        guess = (F.normalize(pooled.embeddings[0], dim=-1) @ names.T).argmax(-1)
        total.index_add_(0, categories[present], torch.ones(len(present)))
        right.index_add_(0, categories[present], (guess == categories[present]).float())
    return right / total.clamp(min=1)
