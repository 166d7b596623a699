"""What one forward pass says about one image; every kind of result is read from it.

Shape legend: Q queries, M SAM masks, K categories, h w low-resolution logits, H W pixels of the user's image.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from frozenseg.inference.geometry import ImageGeometry
from frozenseg.inference.instances import instances
from frozenseg.inference.openseg import add_sam_queries, openseg_votes
from frozenseg.inference.options import InferenceOptions
from frozenseg.inference.panoptic import panoptic
from frozenseg.inference.proposals import proposals
from frozenseg.inference.semantic import MaskVotes, query_votes, semantic, semantic_scores, semantic_with_scores
from frozenseg.types import Instances, SegmentationOutput, Vocabulary


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SamEvidence:
    """SAM's masks of an image, classified by CLIP. mask_logits [M,h,w] covering `geometry.padded_size`; clip_logits
    [M,K+1], void last (it takes no part). M may be 0."""

    mask_logits: Tensor
    clip_logits: Tensor
    geometry: ImageGeometry


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prediction:
    """The model's evidence for one image. All results are at the image's own size.

    Fields: image_id; vocabulary: category ids index it; geometry; class_scores [Q,K+1] log-probabilities, void last;
    mask_logits [Q,h,w]; seen [K] bool; options; sam: None when the options need no SAM masks; notice: to be shown with
    every result, empty for a trained model.
    """

    image_id: str
    vocabulary: Vocabulary
    geometry: ImageGeometry
    class_scores: Tensor
    mask_logits: Tensor
    seen: Tensor
    options: InferenceOptions = field(default_factory=InferenceOptions)
    sam: SamEvidence | None = None
    notice: str = ""

    def panoptic(self, min_score: float = 0.0) -> SegmentationOutput:
        """Disjoint segments; pixels of none are void (0). Segments scoring below `min_score` become void, too."""
        class_scores, mask_logits = self.class_scores, self.mask_logits
        takes_part = self.options.openseg and self.options.sam_panoptic_weight > 0.0 and not self.options.sam_only
        if takes_part and self.sam is not None:
            class_scores, mask_logits = add_sam_queries(
                class_scores,
                mask_logits,
                self.sam.clip_logits,
                self.sam.mask_logits,
                self.seen,
                self.options.sam_panoptic_weight,
                self.options.sam_min_probability,
            )
        result = panoptic(
            class_scores,
            mask_logits,
            self.geometry,
            self.vocabulary.is_thing,
            self.options.object_threshold,
            self.options.overlap_threshold,
        )
        return drop_below(result, min_score)

    def semantic(self, min_score: float = 0.0) -> Tensor:
        """[H,W] int64 category of every pixel. The published rule knows no void; with a `min_score` above 0, pixels
        whose best category scores less are -1, "none of these"."""
        if min_score <= 0.0:
            return semantic(self._votes())
        labels, scores = self.semantic_with_scores()
        return labels.masked_fill(scores < min_score, -1)

    def semantic_with_scores(self) -> tuple[Tensor, Tensor]:
        """[H,W] int64 category of every pixel, and [H,W] float32 its score there."""
        return semantic_with_scores(self._votes())

    def semantic_scores(self) -> Tensor:
        """[K,H,W] float32, dense and therefore large; `semantic` never builds it."""
        return semantic_scores(self._votes())

    def instances(self, min_score: float = 0.0) -> Instances:
        """Masks with scores, which may overlap, best first."""
        result = instances(
            self.class_scores,
            self.mask_logits,
            self.geometry,
            self.vocabulary.is_thing,
            self.options.top_k,
            self.options.things_only,
        )
        kept = result.scores >= min_score
        return Instances(masks=result.masks[kept], category_ids=result.category_ids[kept], scores=result.scores[kept])

    def proposals(self) -> Tensor:
        """[Q,H,W] bool, or [Q+M,H,W] with SAM's masks last: every mask on offer, whatever it shows."""
        masks = proposals(self.mask_logits, self.geometry)
        if self.sam is None or self.options.sam_only:
            return masks
        return torch.cat([masks, proposals(self.sam.mask_logits, self.sam.geometry)])

    def _votes(self) -> tuple[MaskVotes, ...]:
        votes = query_votes(self.class_scores, self.mask_logits, self.geometry)
        if not self.options.openseg or self.sam is None or self.options.sam_only:
            return (votes,)
        return openseg_votes(
            votes,
            self.sam.clip_logits,
            self.sam.mask_logits,
            self.sam.geometry,
            self.seen,
            self.options.epsilon,
            self.options.sam_min_probability,
        )


def drop_below(result: SegmentationOutput, min_score: float) -> SegmentationOutput:
    """Segments with a score below `min_score` become void; the ids of the others stay."""
    dropped = [segment.id for segment in result.segments if segment.score < min_score]
    if not dropped:
        return result
    gone = torch.isin(result.segment_ids, torch.tensor(dropped, dtype=torch.int32, device=result.segment_ids.device))
    return SegmentationOutput(
        segment_ids=result.segment_ids.masked_fill(gone, 0),
        segments=tuple(segment for segment in result.segments if segment.score >= min_score),
    )
