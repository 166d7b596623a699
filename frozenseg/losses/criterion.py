"""The training loss: matching, class cross-entropy, point-sampled mask BCE and dice, deep supervision.

Shape legend: L outputs (the final one first), B images, Q queries, K categories, N targets of an image, n matched masks
of a batch, P points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from frozenseg.losses.draws import PointDraws, PointPlan
from frozenseg.losses.matcher import LossWeights, Match, assign, cost_matrix
from frozenseg.losses.points import pixel_major, sample_logits, sample_masks, sample_pixel_major
from frozenseg.types import DecoderOutput, DecoderPrediction, PanopticTarget


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Losses:
    """Unweighted terms of each output, [L] float32, final output first, and the matches they rest on ([L][B])."""

    class_: Tensor
    mask: Tensor
    dice: Tensor
    weights: LossWeights
    matches: tuple[tuple[Match, ...], ...]

    @property
    def total(self) -> Tensor:
        """Scalar: the weighted sum over terms and outputs, what is differentiated."""
        w = self.weights
        return w.class_ * self.class_.sum() + w.mask * self.mask.sum() + w.dice * self.dice.sum()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _MatchedRows:
    """Matched pairs of one output in the published order (by image, then by query)."""

    image: Tensor
    query: Tensor
    target: Tensor  # index into the concatenated targets of the batch


class Criterion:
    """`criterion(output, targets) -> Losses`. Draws its points from torch's default generator.

    Args: num_points: sampled points per mask; weights: of the terms; oversample, importance: how the loss's points are
    chosen (the `importance` share of them are the most uncertain of `oversample` times as many candidates).
    """

    def __init__(
        self,
        num_points: int = 12544,
        weights: LossWeights | None = None,
        oversample: float = 3.0,
        importance: float = 0.75,
    ) -> None:
        self.plan = PointPlan(num_points=num_points, oversample=oversample, importance=importance)
        self.weights = weights or LossWeights()

    def __call__(
        self, output: DecoderOutput, targets: Sequence[PanopticTarget], num_masks_normaliser: float | None = None
    ) -> Losses:
        """Losses of all outputs.

        Args: output: of B images; targets: B of them, masks [N,H,W] all of one size, N may be 0; num_masks_normaliser:
        what the mask terms are divided by (in a job of several workers: targets of all workers / number of workers, at
        least 1), or None for this batch's own number of targets, at least 1.
        """
        outputs = (
            DecoderPrediction(mask_logits=output.mask_logits, class_logits=output.class_logits),
            *output.auxiliary,
        )
        num_queries = output.mask_logits.shape[1]
        counts = [int(target.masks.shape[0]) for target in targets]
        num_matched = sum(min(count, num_queries) for count in counts)
        device = output.mask_logits.device
        draws = [self.plan.draw(len(targets), num_matched, device) for _ in outputs]
        matches = self._match(outputs, targets, draws)
        rows = [_matched_rows(per_image, counts) for per_image in matches]
        normaliser = max(float(sum(counts)), 1.0) if num_masks_normaliser is None else num_masks_normaliser
        categories = torch.cat([target.category_ids for target in targets])
        mask, dice = self._mask_terms(outputs, targets, draws, rows, normaliser)
        return Losses(
            class_=self._class_term(outputs, rows, categories),
            mask=mask,
            dice=dice,
            weights=self.weights,
            matches=matches,
        )

    @torch.no_grad()
    def _match(
        self, outputs: Sequence[DecoderPrediction], targets: Sequence[PanopticTarget], draws: Sequence[PointDraws]
    ) -> tuple[tuple[Match, ...], ...]:
        costs = []
        cells = [pixel_major(target.masks) for target in targets]
        for prediction, draw in zip(outputs, draws, strict=True):
            for b, target in enumerate(targets):
                points = draw.matcher[b]
                truth = sample_pixel_major(cells[b], (target.masks.shape[1], target.masks.shape[2]), points)
                class_logits, mask_logits = prediction.class_logits[b], prediction.mask_logits[b]
                costs.append(cost_matrix(class_logits, mask_logits, truth, target.category_ids, points, self.weights))
        flat = assign(costs)
        return tuple(tuple(flat[i : i + len(targets)]) for i in range(0, len(flat), len(targets)))

    def _class_term(
        self, outputs: Sequence[DecoderPrediction], rows: Sequence[_MatchedRows], categories: Tensor
    ) -> Tensor:
        """[L]: cross-entropy, void where unmatched, as the mean weighted by `no_object` for void and 1 otherwise."""
        logits = torch.stack([prediction.class_logits for prediction in outputs]).float()
        void = logits.shape[-1] - 1
        wanted = torch.full(logits.shape[:3], void, dtype=torch.int64, device=logits.device)
        for level, row in enumerate(rows):
            wanted[level, row.image, row.query] = categories[row.target]
        losses = F.cross_entropy(logits.flatten(0, 2), wanted.flatten(), reduction="none").view(logits.shape[0], -1)
        weight = torch.where(wanted == void, self.weights.no_object, 1.0).view(losses.shape)
        return (losses * weight).sum(1) / weight.sum(1)

    def _mask_terms(
        self,
        outputs: Sequence[DecoderPrediction],
        targets: Sequence[PanopticTarget],
        draws: Sequence[PointDraws],
        rows: Sequence[_MatchedRows],
        normaliser: float,
    ) -> tuple[Tensor, Tensor]:
        """Two [L]: BCE (mean over points) and dice, each summed over the matched masks and divided by `normaliser`."""
        if rows[0].query.numel() == 0:
            # Keeps the graph: every worker must take part in the backward pass.
            nothing = torch.stack([prediction.mask_logits.float().sum() * 0 for prediction in outputs])
            return nothing, nothing
        masks = torch.cat([target.masks for target in targets])
        mask_losses, dice_losses = [], []
        for prediction, draw, row in zip(outputs, draws, rows, strict=True):
            logits = prediction.mask_logits[row.image, row.query].float()
            points = self._uncertain_points(logits.detach(), draw)
            truth = sample_masks(masks, row.target, points)
            sampled = sample_logits(logits, points)
            probabilities = sampled.sigmoid()
            bce = F.binary_cross_entropy_with_logits(sampled, truth, reduction="none").mean(1)
            dice = 1 - (2 * (probabilities * truth).sum(1) + 1) / (probabilities.sum(1) + truth.sum(1) + 1)
            mask_losses.append(bce.sum() / normaliser)
            dice_losses.append(dice.sum() / normaliser)
        return torch.stack(mask_losses), torch.stack(dice_losses)

    @torch.no_grad()
    def _uncertain_points(self, logits: Tensor, draw: PointDraws) -> Tensor:
        """[n,P,2]: of the candidates the ones with the smallest |logit|, then the random rest."""
        uncertainty = sample_logits(logits, draw.oversampled).abs_()
        chosen = uncertainty.topk(self.plan.num_uncertain, dim=1, largest=False, sorted=False).indices
        uncertain = draw.oversampled.gather(1, chosen[..., None].expand(-1, -1, 2))
        return torch.cat([uncertain, draw.rest], dim=1)


def _matched_rows(matches: Sequence[Match], counts: Sequence[int]) -> _MatchedRows:
    """Concatenates one output's matches; targets become indices into the batch's concatenated targets."""
    starts = [sum(counts[:b]) for b in range(len(counts))]
    return _MatchedRows(
        image=torch.cat([torch.full_like(match.query, b) for b, match in enumerate(matches)]),
        query=torch.cat([match.query for match in matches]),
        target=torch.cat([match.target + start for match, start in zip(matches, starts, strict=True)]),
    )
