"""c_post_*: mask pooling, class ensemble and every result at the image's size, OpenSeg's included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from frozenseg.classify import class_logits, ensemble_class_scores
from frozenseg.encoders import OpenClipEncoder, build_clip
from frozenseg.inference.geometry import ImageGeometry, resize_masks
from frozenseg.inference.instances import instances
from frozenseg.inference.openseg import openseg_votes
from frozenseg.inference.panoptic import panoptic
from frozenseg.inference.proposals import proposals
from frozenseg.inference.semantic import query_votes, semantic, semantic_scores
from frozenseg.types import SegmentationOutput, TextEmbeddings
from tests.parity.golden import load_module
from tests.parity.result import CaseResult

FLOAT_TOLERANCE = 1e-5
MAP_TOLERANCE = 1e-3
"""Share of pixels that may differ in a label map."""


class _Case:
    """Golden file, regenerated inputs and the results so far."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.inputs = load_module(path.parent, "inputs")
        self.fill = load_module(path.parent, "fill").fill
        self.golden = load_module(path.parent, "compare").Golden(path)
        self.meta: dict[str, Any] = self.golden.meta
        m = self.meta
        (height, width), n = m["padded"], m["n_classes"]
        self.data: dict[str, Any] = self.inputs.post(
            m["seed"], m["Q"], height // 4, width // 4, height // 32, width // 32, m["C"], m["dim"], n, empty=m["empty"]
        )
        self.geometry = ImageGeometry(
            padded_size=tuple(m["padded"]), valid_size=tuple(m["image"]), output_size=tuple(m["output"])
        )
        self.is_thing = torch.zeros(n, dtype=torch.bool)
        self.is_thing[self.data["things"]] = True
        self.seen = torch.from_numpy(self.data["overlap"]).bool()
        self.results: list[CaseResult] = []

    def tensor(self, name: str) -> Tensor:
        return torch.from_numpy(self.data[name])

    def add(self, name: str, error: float, tolerance: float) -> None:
        self.results.append(
            CaseResult(case=f"{self.path.stem}/{name}", error=error, tolerance=tolerance, passed=error <= tolerance)
        )

    def floats(self, name: str, value: Tensor) -> None:
        """Mean relative difference; every figure over the whole array (mean, deviation, ...) of a digest as well."""
        self.add(name, self.golden.diff(name, value.numpy())[1], FLOAT_TOLERANCE)

    def label_map(self, name: str, value: Tensor) -> None:
        self.add(name, float((value.numpy() != self.golden.get(name)).mean()), MAP_TOLERANCE)


def _clip(case: _Case) -> OpenClipEncoder:
    """CLIP's pooling head alone: the trunk stays on the meta device, its weights take no part here."""
    clip = build_clip(case.meta["clip"], device="meta")
    prefix = ("visual.trunk.head.", "visual.head.", "visual.attnpool.", "logit_scale")
    weights = {
        key: torch.from_numpy(case.fill(case.meta["prefix"] + key, tuple(value.shape), case.meta["salt"]))
        for key, value in clip.model.state_dict().items()
        if key.startswith(prefix)
    }
    clip.model.load_state_dict(weights, strict=False, assign=True)
    if case.meta["logit_scale_override"] is not None:
        clip.model.logit_scale.data.fill_(case.meta["logit_scale_override"])
    return clip


def _class_scores(case: _Case) -> Tensor:
    """Checks pooling, CLIP's logits and Eq. 3; returns [Q,K+1] log-probabilities."""
    meta, clip = case.meta, _clip(case)
    pooled = clip.pool_masks(case.tensor("clip_feature"), case.tensor("mask_logits"))
    case.floats("pooled_clip", pooled.embeddings)
    rows_per_category = torch.tensor(case.data["num_templates"])
    text = TextEmbeddings(
        rows=case.tensor("text"), row_category=torch.arange(meta["n_classes"]).repeat_interleave(rows_per_category)
    )
    void = torch.from_numpy(case.fill("void_embedding.weight", (1, meta["dim"]), meta["salt"]))[0]
    clip_logits = class_logits(pooled.embeddings, text, clip.logit_scale, void)
    case.floats("out_vocab_logits", clip_logits)
    non_empty = pooled.non_empty if meta["ensemble_on_valid_mask"] else None
    scores = ensemble_class_scores(
        case.tensor("cls_logits"), clip_logits[..., :-1], non_empty, case.seen, meta["alpha"], meta["beta"]
    )[0]
    case.floats("mask_cls_results", scores)
    return scores


def _check_semantic(case: _Case, scores: Tensor, masks: Tensor) -> None:
    queries = query_votes(scores, masks, case.geometry)
    case.floats("sem_seg", semantic_scores([queries]))
    case.label_map("sem_argmax", semantic([queries]))
    sam_masks, sam_classes = case.tensor("sam_masks"), case.tensor("sam_cls")[0]
    low: tuple[int, int] = (int(sam_masks.shape[1]), int(sam_masks.shape[2]))
    sam_geometry = ImageGeometry(padded_size=low, valid_size=low, output_size=case.geometry.output_size)
    for name in case.golden.names():
        if not name.startswith("openseg@"):
            continue
        none_pass = name.endswith("none_pass")
        epsilon = 0.4 if none_pass else float(name.removeprefix("openseg@"))
        logits = torch.zeros_like(sam_classes) if none_pass else sam_classes
        votes = openseg_votes(queries, logits, sam_masks, sam_geometry, case.seen, epsilon)
        case.floats(name, semantic_scores(votes))
    both = torch.cat([resize_masks(masks, case.geometry), resize_masks(sam_masks, sam_geometry)])
    case.floats("recall_with_sam", both)
    offered = torch.cat([proposals(masks, case.geometry), proposals(sam_masks, sam_geometry)])
    case.add("proposals", float((offered != (both > 0)).float().mean()), 0.0)


def _check_panoptic(case: _Case, scores: Tensor, masks: Tensor) -> None:
    for name in case.golden.names():
        if not name.startswith("panoptic_seg"):
            continue
        thresholds = (case.meta["object_mask_threshold"], case.meta["overlap_threshold"])
        if "@" in name:
            object_text, overlap_text = name.split("@")[1].split("_")
            thresholds = (float(object_text), float(overlap_text))
        found = panoptic(scores, masks, case.geometry, case.is_thing, *thresholds)
        case.label_map(name, found.segment_ids)
        info_name = name.replace("panoptic_seg", "panoptic_info")
        wanted = json.loads(str(case.golden.get(info_name)))
        case.add(info_name, 0.0 if _listed(found) == wanted else 1.0, 0.0)


def _listed(found: SegmentationOutput) -> list[dict[str, Any]]:
    return [{"id": s.id, "isthing": s.is_thing, "category_id": s.category_id} for s in found.segments]


def _check_instances(case: _Case, scores: Tensor, masks: Tensor) -> None:
    meta, golden = case.meta, case.golden
    found = instances(scores, masks, case.geometry, case.is_thing, meta["topk"], things_only=meta["panoptic_on"])
    case.floats("inst_scores", found.scores)
    scored = golden.get("inst_scores") > 0  # Empty masks tie at 0, in any order.
    wrong = (found.category_ids.numpy() != golden.get("inst_classes"))[scored]
    case.add("inst_classes", float(wrong.sum()), 0.0)
    areas = found.masks.flatten(1).sum(1).numpy()
    wanted_areas = golden.get("inst_areas")
    case.add("inst_areas", float(np.abs(areas - wanted_areas)[scored].sum() / wanted_areas.sum()), MAP_TOLERANCE)
    packed = golden.get("inst_masks_first20_packbits")
    bits = np.unpackbits(packed, axis=1)[:, : found.masks[0].numel()].astype(bool)
    ours = found.masks[: len(bits)].flatten(1).numpy()
    case.add("inst_masks", float((ours != bits)[scored[: len(bits)]].mean()), MAP_TOLERANCE)


def check(path: Path) -> list[CaseResult]:
    case = _Case(path)
    with torch.no_grad():
        scores = _class_scores(case)
        masks = case.tensor("mask_logits")[0]
        case.floats("recall_seg", resize_masks(masks, case.geometry))
        _check_semantic(case, scores, masks)
        _check_panoptic(case, scores, masks)
        _check_instances(case, scores, masks)
    return case.results
