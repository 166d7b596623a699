"""d_e2e_*: the whole model in eval mode, from the resized picture to every result. About 5 GB and a CPU minute."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frozenseg.classify import VILD_TEMPLATES, class_logits, embed_vocabulary, ensemble_class_scores
from frozenseg.classify.templates import fill_templates
from frozenseg.decoder import DecoderConfig
from frozenseg.encoders import (
    ConvNextClip,
    OpenClipEncoder,
    SamImageEncoder,
    build_clip,
    build_sam,
    encode_batch,
    sam_preset,
)
from frozenseg.inference.geometry import ImageGeometry, resize_masks
from frozenseg.inference.instances import instances
from frozenseg.inference.panoptic import panoptic
from frozenseg.inference.semantic import query_votes, semantic, semantic_scores
from frozenseg.types import Batch, Category, EncoderFeatures, TextEmbeddings, Vocabulary
from tests.parity.golden import load_module
from tests.parity.levels.head import filled_decoder
from tests.parity.result import CaseResult

STRIDE = 32


def read_vocabulary(classes: list[str], num_things: int) -> Vocabulary:
    names = [[name.strip() for name in line.split(",")] for line in classes]
    return Vocabulary(
        categories=tuple(
            Category(name=n[0], synonyms=tuple(n[1:]), is_thing=k < num_things) for k, n in enumerate(names)
        )
    )


def fill_module(module: nn.Module, fill: ModuleType, prefix: str, salt: str) -> None:
    for key, value in module.state_dict().items():
        value.copy_(torch.from_numpy(fill.fill(prefix + key, tuple(value.shape), salt)))


class _Case:
    """Golden file, the modules of its folder, its picture and vocabulary, and the results so far."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fill = load_module(path.parent, "fill")
        self.golden = load_module(path.parent, "compare").Golden(path)
        self.meta: dict[str, Any] = self.golden.meta
        words = load_module(path.parent, "vocab")
        test = words.TEST[self.meta["vocab"]]
        self.vocabulary = read_vocabulary(test["classes"], test["n_things"])
        training = read_vocabulary(getattr(words, self.meta["train_vocab"]), 0)
        self.seen = self.vocabulary.seen_mask(training)
        self.results: list[CaseResult] = []

    def batch(self) -> Batch:
        """The stored picture, [H,W,3] uint8, padded to a multiple of 32."""
        picture = torch.from_numpy(self.golden.get("image_resized_uint8")).permute(2, 0, 1)
        height, width = picture.shape[1:]
        padded = F.pad(picture, (0, -width % STRIDE, 0, -height % STRIDE))
        return Batch(image_ids=("picture",), images=padded[None], valid_sizes=torch.tensor([[height, width]]))

    def geometry(self, batch: Batch) -> ImageGeometry:
        height, width = (int(side) for side in batch.valid_sizes[0])
        padded = (int(batch.images.shape[-2]), int(batch.images.shape[-1]))
        return ImageGeometry(padded_size=padded, valid_size=(height, width), output_size=tuple(self.meta["original"]))

    def add(self, name: str, error: float, tolerance: float) -> None:
        self.results.append(
            CaseResult(case=f"{self.path.stem}/{name}", error=error, tolerance=tolerance, passed=error <= tolerance)
        )

    def floats(self, name: str, value: Tensor, tolerance: float) -> None:
        self.add(name, self.golden.diff(name, value.numpy())[1], tolerance)

    def labels(self, name: str, value: Tensor, tolerance: float) -> None:
        """Share of entries that differ."""
        self.add(name, float((value.numpy() != self.golden.get(name)).mean()), tolerance)


def _build_clip(case: _Case) -> OpenClipEncoder:
    clip = build_clip(case.meta["clip"])
    fill_module(clip.model, case.fill, "backbone.clip_model.", case.meta["salt"])
    return clip


def _check_text(case: _Case, clip: OpenClipEncoder, void: Tensor) -> TextEmbeddings:
    names = [name for category in case.vocabulary.categories for name in category.names]
    prompts = [text for name in names for text in fill_templates(name, VILD_TEMPLATES)]
    case.labels("tokens_first_28_prompts", clip.tokenizer(prompts[:28]), 0.0)
    counts = torch.tensor([len(category.names) for category in case.vocabulary.categories])
    case.labels("num_templates", counts, 0.0)
    case.labels("overlap", case.seen.long(), 0.0)
    text = embed_vocabulary(clip, case.vocabulary)
    case.floats("text_classifier", torch.cat([text.rows, F.normalize(void, dim=0)[None]]), 1e-5)
    return text


def _stem_output(clip: OpenClipEncoder, batch: Batch) -> Tensor:
    """What the image tower's first part gives, seen from outside."""
    seen: list[Tensor] = []
    visual = clip.model.visual
    last = visual.trunk.stem if isinstance(clip, ConvNextClip) else visual.avgpool
    handle = last.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    clip.encode_image(batch.images, batch.valid_sizes)
    handle.remove()
    return seen[0]


def _check_features(case: _Case, clip: OpenClipEncoder, sam: SamImageEncoder, batch: Batch) -> EncoderFeatures:
    case.floats("sam_input", sam.prepare(batch.images, batch.valid_sizes), 1e-5)
    case.floats("clip/stem", _stem_output(clip, batch), 1e-4)
    features = encode_batch(clip, sam, batch)
    for name, level in zip(("res2", "res3", "res4", "res5"), features.clip_pyramid, strict=True):
        case.floats(f"clip/{name}", level, 1e-4)
    case.floats("clip/clip_vis_dense", features.clip_dense, 1e-4)
    case.floats("sam_embedding", features.sam, 1e-4)
    return features


def _check_results(case: _Case, scores: Tensor, masks: Tensor, geometry: ImageGeometry) -> None:
    """scores [Q,K+1] log-probabilities; masks [Q,H/4,W/4] logits."""
    is_thing, golden = case.vocabulary.is_thing, case.golden
    case.floats("mask_pred_final", resize_masks(masks, geometry), 1e-2)
    votes = [query_votes(scores, masks, geometry)]
    case.floats("sem_seg", semantic_scores(votes), 1e-2)
    case.labels("sem_argmax", semantic(votes), 2e-2)
    for name in golden.names():
        if not name.startswith("panoptic_seg"):
            continue
        thresholds = (case.meta["object_mask_threshold"], case.meta["overlap_threshold"])
        if "@" in name:
            object_text, overlap_text = name.split("@")[1].split("_")
            thresholds = (float(object_text), float(overlap_text))
        case.labels(name, panoptic(scores, masks, geometry, is_thing, *thresholds).segment_ids, 2e-2)
    found = instances(scores, masks, geometry, is_thing, 100, things_only=True)
    scored = golden.get("inst_scores") > 0
    count = min(len(found.scores), len(scored))
    # Whether the last of the 100 best is a thing may hang on a tie, so a count may be off by a few.
    case.add("inst_count", float(abs(len(found.scores) - len(scored))), 3.0)
    difference = np.abs(found.scores.numpy()[:count] - golden.get("inst_scores")[:count])
    case.add("inst_scores", float(difference.mean()) if count else 0.0, 1e-2)


def check(path: Path) -> list[CaseResult]:
    case = _Case(path)
    batch = case.batch()
    with torch.no_grad():
        clip, sam = _build_clip(case), build_sam(sam_preset("vit_b"))
        fill_module(sam.sam.image_encoder, case.fill, "sam.image_encoder.", case.meta["salt"])
        config = DecoderConfig(
            clip_channels=clip.pyramid_channels, embedding_dim=clip.embedding_dim, sam_memory="published"
        )
        decoder = filled_decoder(config, case.fill, "sem_seg_head.", case.meta["salt"]).eval()
        void = torch.from_numpy(case.fill.fill("void_embedding.weight", (1, clip.embedding_dim), case.meta["salt"]))[0]

        text = _check_text(case, clip, void)
        features = _check_features(case, clip, sam, batch)
        output = decoder(features, text)
        case.floats("pred_logits", output.class_logits, 1e-2)
        case.floats("pred_masks", output.mask_logits, 1e-2)

        pooled = clip.pool_masks(features.clip_dense, output.mask_logits)
        clip_logits = class_logits(pooled.embeddings, text, clip.logit_scale, void)
        case.floats("out_vocab_logits", clip_logits, 2e-2)
        non_empty = pooled.non_empty if clip.ensemble_needs_mask else None
        scores = ensemble_class_scores(output.class_logits, clip_logits[..., :-1], non_empty, case.seen)[0]
        case.floats("mask_cls_results", scores, 2e-2)
        _check_results(case, scores, output.mask_logits[0], case.geometry(batch))
    return case.results
