"""Single points on scenes, the masks that a SAM makes of them, and how good those are.

Shape legend: P points of a scene, M = 4 masks of a point (one plain, three alternatives), S = 128.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam
from torch import Tensor

from frozenseg.encoders import SamImageEncoder
from frozenseg.miniature.encoders import IMAGE_SIZE
from frozenseg.miniature.pretraining import ScenePool
from frozenseg.miniature.world import SCENE_SIZE

_MIN_POINT_AREA = 30


def sample_points(map_: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """`count` points in segments drawn evenly, so that small things count as much as stuff.

    Returns:
        points [P,2] xy in pixels of the 256 px input; truth [P,S,S] float, 0 or 1.
    """
    areas = torch.bincount(map_.flatten(), minlength=2)
    areas[0] = 0
    present = (areas >= _MIN_POINT_AREA).nonzero()[:, 0]
    chosen = present[torch.randint(len(present), (count,), generator=generator)]
    masks = map_[None] == chosen[:, None, None]
    position = torch.multinomial(masks.flatten(1).float(), 1, generator=generator)[:, 0]
    xy = torch.stack((position % SCENE_SIZE, position // SCENE_SIZE), dim=-1).float()
    return (xy + torch.rand(count, 2, generator=generator)) * (IMAGE_SIZE / SCENE_SIZE), masks.float()


def predict_masks(sam: Sam, embedding: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """All four masks of each point: logits [P,4,S,S] and predicted IoU [P,4]. embedding [1,C,h,w]; points [P,2]."""
    labels = torch.ones(len(points), 1, dtype=torch.int64)
    sparse, dense = sam.prompt_encoder((points[:, None], labels), None, None)
    logits, predicted_iou = sam.mask_decoder.predict_masks(embedding, sam.prompt_encoder.get_dense_pe(), sparse, dense)
    return logits, predicted_iou


def actual_iou(logits: Tensor, truth: Tensor) -> Tensor:
    """[...]: IoU of logits > 0 with truth, both [...,S,S]."""
    inside, wanted = logits > 0, truth > 0.5
    union = (inside | wanted).sum((-2, -1)).clamp(min=1)
    return (inside & wanted).sum((-2, -1)) / union


@torch.no_grad()
def point_quality(encoder: SamImageEncoder, pool: ScenePool, points_per_segment: int = 1) -> dict[str, float]:
    """Masks from random points of each segment: mean IoU of the mask the model itself likes best and of the best of
    three, share of best-of-three above 0.75, error of predicted IoU, and the share that passes segment-anything's
    filters (predicted IoU 0.88, stability 0.95)."""
    generator = torch.Generator().manual_seed(0)
    sums: dict[str, list[Tensor]] = {}
    for image, ids in zip(pool.images, pool.segment_ids, strict=True):
        big = F.interpolate(image[None].float(), scale_factor=2, mode="bilinear", align_corners=False)
        embedding = encoder.encode_image(big, torch.tensor([big.shape[-2:]]))
        segments = int((torch.bincount(ids.long().flatten())[1:] > 0).sum())
        points, truth = sample_points(ids.long(), points_per_segment * segments, generator)
        logits, predicted = predict_masks(encoder.sam, embedding, points)
        logits, predicted = logits[:, 1:], predicted[:, 1:]
        iou = actual_iou(logits, truth[:, None].expand_as(logits))
        liked = predicted.argmax(1, keepdim=True)
        best = iou.max(1).values
        stable = (logits > 1).sum((-2, -1)) / (logits > -1).sum((-2, -1)).clamp(min=1)
        passing = ((predicted > 0.88) & (stable > 0.95)).any(1)
        found = {
            "liked_iou": iou.gather(1, liked)[:, 0],
            "best_iou": best,
            "best_above_75": (best > 0.75).float(),
            "iou_error": (predicted - iou).abs().mean(1),
            "passing": passing.float(),
            "stability": stable.gather(1, liked)[:, 0],
        }
        for name, values in found.items():
            sums.setdefault(name, []).append(values)
    return {name: float(torch.cat(values).mean()) for name, values in sums.items()}
