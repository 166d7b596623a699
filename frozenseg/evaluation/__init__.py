"""Metrics: incremental, mergeable over workers, with the reference evaluators' results."""

from frozenseg.data.dataset import InstanceTruth, TrueInstance
from frozenseg.data.labels import IGNORED
from frozenseg.data.rle import Rle, encode_mask
from frozenseg.evaluation.average_precision import AveragePrecision, PrecisionScores
from frozenseg.evaluation.bootstrap import Interval, bootstrap_interval
from frozenseg.evaluation.cityscapes_precision import CityscapesPrecision, CityscapesScores
from frozenseg.evaluation.counts import CountTable
from frozenseg.evaluation.instances import DetectedInstance, ImageInstances, InstanceMetric, detections_of
from frozenseg.evaluation.lvis_precision import LvisPrecision, LvisScores
from frozenseg.evaluation.panoptic_quality import CategoryQuality, PanopticQuality, PanopticScores, Quality
from frozenseg.evaluation.proposal_recall import ProposalRecall, Recall, RecallScores
from frozenseg.evaluation.semantic_iou import CategoryIoU, SemanticIoU, SemanticScores
from frozenseg.evaluation.truth import semantic_labels

__all__ = [
    "IGNORED",
    "AveragePrecision",
    "CategoryIoU",
    "CategoryQuality",
    "CityscapesPrecision",
    "CityscapesScores",
    "CountTable",
    "DetectedInstance",
    "ImageInstances",
    "InstanceMetric",
    "InstanceTruth",
    "Interval",
    "LvisPrecision",
    "LvisScores",
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
