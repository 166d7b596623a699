"""SAM's masks of an image from a grid of points, in the same process and with the image encoded once.

Geometry. FrozenSeg's SAM features come from the padded image squeezed to SAM's square input, aspect not kept. The same
embedding serves here: a point (x, y) of the output image is at (x valid_w / output_w, y valid_h / output_h) of the
padded image and at those times (S / padded_w, S / padded_h) of the square of side S; mask logits cover the padded image
and come back by padded size, crop, output size (`ImageGeometry`). With `padded_size` (S, S) and `valid_size` the
resized image, that is segment-anything's own aspect-keeping geometry.

Filters follow segment-anything's generator, with no crops: predicted IoU, stability, box NMS, small regions, NMS again.
In the exact mode stability and boxes are those of the masks at output size. The approximate mode takes them from the
low-resolution logits and computes image tokens in bfloat16.

Shape legend: P points, N masks, M masks returned, h w low-resolution logits, H W output pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from segment_anything.modeling import Sam
from torch import Tensor

from frozenseg.encoders.base import SamEncoder
from frozenseg.errors import UserInputError
from frozenseg.inference.geometry import ImageGeometry, MaskResizer
from frozenseg.inference.mask_measures import Measures, measure_exact, measure_low_resolution
from frozenseg.inference.sam_decoder import PointDecoder
from frozenseg.inference.small_regions import without_small_regions
from frozenseg.types import SamMasks

_TOKENS_AT_ONCE = {"cpu": 1 << 14, "cuda": 1 << 18}
"""Image tokens x points in flight: on a CPU what its cache holds, on a GPU what fills it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GridSettings:
    """Grid and filters. A threshold of 0 switches its filter off, as does nms_iou 1.

    Fields: points_per_side: the grid is points_per_side squared; min_predicted_iou: SAM's own opinion of a mask must
    be greater; min_stability: IoU of the masks at logits +-stability_offset must be at least this; nms_iou: of two
    masks whose boxes overlap more, the one with the lower predicted IoU goes; min_region_area: holes and islands
    smaller than this many output pixels are filled and removed; max_masks: the largest are kept, 0 for all; mode:
    "exact", or "approximate" (bfloat16 image tokens, filters measured at low resolution).
    """

    points_per_side: int = 32
    min_predicted_iou: float = 0.88
    min_stability: float = 0.95
    stability_offset: float = 1.0
    nms_iou: float = 0.7
    min_region_area: int = 0
    max_masks: int = 0
    mode: Literal["exact", "approximate"] = "exact"

    def __post_init__(self) -> None:
        if self.points_per_side < 1 or self.min_region_area < 0 or self.max_masks < 0:
            raise UserInputError(
                "SAM grid: expected points_per_side >= 1, min_region_area >= 0 and max_masks >= 0, found "
                f"{self.points_per_side}, {self.min_region_area} and {self.max_masks}"
            )
        if self.mode not in ("exact", "approximate"):
            raise UserInputError(f'SAM grid: expected mode "exact" or "approximate", found {self.mode!r}')


SEGMENT_ANYTHING = GridSettings()
"""segment-anything's own defaults."""

PUBLISHED = GridSettings(min_predicted_iou=0.8, min_stability=0.7, min_region_area=100, max_masks=50)
"""What the paper's OpenSeg masks were made with."""


class PromptableSam(SamEncoder, Protocol):
    """A SAM encoder that still holds SAM's prompt encoder and mask decoder."""

    @property
    def sam(self) -> Sam: ...


@dataclass(frozen=True, slots=True, eq=False)
class _Candidates:
    """Masks that passed the filters so far. logits [N,h,w]; predicted_iou [N]; measures of N masks."""

    logits: Tensor
    predicted_iou: Tensor
    measures: Measures

    def select(self, index: Tensor) -> _Candidates:
        """index [n] int64 or [N] bool."""
        return _Candidates(self.logits[index], self.predicted_iou[index], self.measures.select(index))


class SamMaskGenerator:
    """Makes masks with one SAM.

    Args:
        sam_encoder: encodes the image when a call brings no embedding, and holds the prompt encoder and mask decoder.
            It may be another SAM than the features' (the paper takes ViT-H masks beside ViT-B features).
        settings: grid and filters.
    """

    def __init__(self, sam_encoder: PromptableSam, settings: GridSettings = PUBLISHED) -> None:
        self.sam_encoder = sam_encoder
        self.settings = settings

    def __call__(self, image: Tensor) -> SamMasks:
        """Masks of an image [3,h,w] uint8 RGB that is encoded here; its own size is the output size."""
        height, width = int(image.shape[1]), int(image.shape[2])
        embedding = self.sam_encoder.encode_image(image[None], torch.tensor([[height, width]]))[0]
        return self.from_embedding(embedding, ImageGeometry.whole((height, width)))

    @torch.no_grad()
    def from_embedding(self, embedding: Tensor, geometry: ImageGeometry) -> SamMasks:
        """Masks of an image that is already encoded by this generator's SAM.

        Args:
            embedding: [C,h,w], e.g. one image of `EncoderFeatures.sam`.
            geometry: of the padded image that was squeezed to SAM's square input, and of the output.

        Returns:
            Largest first. Logits at low resolution (4 x the embedding's), covering `geometry.padded_size`; boxes in
            output pixels, xyxy, the last row and column included.
        """
        settings = self.settings
        dtype = torch.bfloat16 if settings.mode == "approximate" else torch.float32
        decoder = PointDecoder(self.sam_encoder.sam, embedding, dtype)
        low_size = (4 * decoder.grid_size[0], 4 * decoder.grid_size[1])
        resizer = MaskResizer(low_size, geometry, embedding.device)
        points = grid_points(settings.points_per_side, geometry, self.sam_encoder.input_size).to(embedding.device)
        tokens = _TOKENS_AT_ONCE["cpu" if embedding.device.type == "cpu" else "cuda"]
        at_once = max(tokens // (decoder.grid_size[0] * decoder.grid_size[1]), 1)
        batches = [self._batch(decoder, chunk, resizer) for chunk in torch.split(points, at_once)]
        found = _Candidates(
            torch.cat([b.logits for b in batches]),
            torch.cat([b.predicted_iou for b in batches]),
            Measures.concatenate([b.measures for b in batches]),
        )
        found = self._without_duplicates(found, found.predicted_iou)
        if settings.min_region_area > 0:
            found = self._cleaned(found, resizer)
        order = found.measures.area.argsort(descending=True, stable=True)
        found = found.select(order[: settings.max_masks] if settings.max_masks else order)
        return SamMasks(
            logits=found.logits,
            predicted_iou=found.predicted_iou,
            stability=found.measures.stability,
            boxes=found.measures.boxes,
        )

    def _batch(self, decoder: PointDecoder, points: Tensor, resizer: MaskResizer) -> _Candidates:
        """The masks of some points that pass predicted IoU and stability."""
        settings = self.settings
        prediction = decoder.points(points)
        wanted = torch.ones_like(prediction.predicted_iou, dtype=torch.bool)
        if settings.min_predicted_iou > 0:
            wanted = prediction.predicted_iou > settings.min_predicted_iou
        drawn = wanted.any(dim=1)
        logits = decoder.mask_logits(prediction.image_tokens[drawn], prediction.hyper[drawn])[wanted[drawn]]
        found = _Candidates(logits, prediction.predicted_iou[wanted], self._measure(logits, resizer))
        if settings.min_stability > 0:
            found = found.select(found.measures.stability >= settings.min_stability)
        return found

    def _measure(self, logits: Tensor, resizer: MaskResizer) -> Measures:
        measure = measure_exact if self.settings.mode == "exact" else measure_low_resolution
        return measure(logits, resizer, self.settings.stability_offset)

    def _without_duplicates(self, found: _Candidates, preference: Tensor) -> _Candidates:
        if self.settings.nms_iou >= 1:
            return found
        from torchvision.ops import nms  # late: its import costs seconds

        return found.select(nms(found.measures.boxes.float(), preference.float(), self.settings.nms_iou))

    def _cleaned(self, found: _Candidates, resizer: MaskResizer) -> _Candidates:
        """Small holes filled and islands removed in the logits themselves, so that every later use sees it."""
        low_height, low_width = found.logits.shape[-2:]
        row_pixels, column_pixels = resizer.geometry.pixels_per_cell((int(low_height), int(low_width)))
        min_cells = self.settings.min_region_area / (row_pixels * column_pixels)
        logits, changed = without_small_regions(found.logits, min_cells)
        if not changed.any():
            return found
        measures = found.measures.replace(changed, self._measure(logits[changed], resizer))
        # segment-anything keeps the stability of the mask before cleaning, and prefers untouched masks.
        cleaned = replace(found, logits=logits, measures=measures)
        return self._without_duplicates(cleaned, (~changed).float())


def grid_points(points_per_side: int, geometry: ImageGeometry, input_size: int) -> Tensor:
    """[points_per_side^2, 2] float32 (x, y) in pixels of SAM's square input; rows of the output image first."""
    side = (torch.arange(points_per_side, dtype=torch.float64) + 0.5) / points_per_side
    y, x = torch.meshgrid(side, side, indexing="ij")
    scale = [geometry.valid_size[i] / geometry.padded_size[i] * input_size for i in (1, 0)]
    return (torch.stack([x, y], dim=-1).view(-1, 2) * torch.tensor(scale, dtype=torch.float64)).float()
