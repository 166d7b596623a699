"""Metrics: incremental, mergeable over workers, with the reference evaluators' results."""

from frozenseg.data.labels import IGNORED
from frozenseg.evaluation.average_precision import (
    AveragePrecision,
    DetectedInstance,
    ImageInstances,
    PrecisionScores,
    Rle,
    TrueInstance,
    detections_of,
    encode_mask,
)
from frozenseg.evaluation.bootstrap import Interval, bootstrap_interval
from frozenseg.evaluation.counts import CountTable
from frozenseg.evaluation.panoptic_quality import CategoryQuality, PanopticQuality, PanopticScores, Quality
from frozenseg.evaluation.proposal_recall import ProposalRecall, Recall, RecallScores
from frozenseg.evaluation.semantic_iou import CategoryIoU, SemanticIoU, SemanticScores
from frozenseg.evaluation.truth import semantic_labels

__all__ = [
    "IGNORED",
    "AveragePrecision",
    "CategoryIoU",
    "CategoryQuality",
    "CountTable",
    "DetectedInstance",
    "ImageInstances",
    "Interval",
    "PanopticQuality",
    "PanopticScores",
    "PrecisionScores",
    "ProposalRecall",
    "Quality",
    "Recall",
    "RecallScores",
    "Rle",
    "SemanticIoU",
    "SemanticScores",
    "TrueInstance",
    "bootstrap_interval",
    "detections_of",
    "encode_mask",
    "semantic_labels",
]
