"""How far a score would move on another draw of images: percentile bootstrap over images.

Source: Efron & Tibshirani, "An Introduction to the Bootstrap", percentile intervals.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from frozenseg.evaluation.counts import CountTable, Float


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A score and the interval that holds its resampled values with the given confidence; nan with no images."""

    value: float
    low: float
    high: float


def bootstrap_interval(
    per_image: CountTable,
    statistic: Callable[[Float], Float],
    seed: int,
    *,
    num_resamples: int = 1000,
    confidence: float = 0.95,
) -> Interval:
    """Resamples images with replacement and takes the percentiles of the statistic.

    Args:
        per_image: the numbers of every image.
        statistic: from summed numbers [..., K, C] to a score [...].
        seed: the same seed and images give the same interval, in whatever order they were counted.
    """
    value = float(statistic(per_image.totals()))
    table = per_image.by_image()
    if per_image.num_images == 0:
        return Interval(value=value, low=float("nan"), high=float("nan"))
    share = np.full(per_image.num_images, 1 / per_image.num_images)
    times = np.random.default_rng(seed).multinomial(per_image.num_images, share, size=num_resamples)
    sums = np.asarray((table.T @ times.T.astype(np.float64)).T)
    return percentile_interval(
        value, statistic(sums.reshape(num_resamples, per_image.num_categories, per_image.num_columns)), confidence
    )


def percentile_interval(value: float, resampled: Float, confidence: float) -> Interval:
    """Resamples in which the score doesn't exist (none of its categories drawn) are left out."""
    known = resampled[~np.isnan(resampled)]
    if known.size == 0:
        return Interval(value=value, low=float("nan"), high=float("nan"))
    tail = (1 - confidence) / 2
    low, high = np.quantile(known, [tail, 1 - tail])
    return Interval(value=value, low=float(low), high=float(high))
