"""Hungarian matching and the point-sampled losses with deep supervision."""

from frozenseg.losses.criterion import Criterion, Losses
from frozenseg.losses.draws import PointPlan
from frozenseg.losses.matcher import LossWeights, Match

__all__ = ["Criterion", "LossWeights", "Losses", "Match", "PointPlan"]
