"""Semantic, instance and proposal results, OpenSeg's votes and the modes in which SAM's masks act as queries."""

from __future__ import annotations

import pytest
import torch

from frozenseg.errors import UserInputError
from frozenseg.inference import semantic as semantic_module
from frozenseg.inference.geometry import ImageGeometry, resize_masks
from frozenseg.inference.instances import instances
from frozenseg.inference.openseg import add_sam_queries, openseg_votes, sam_class_scores, sam_unseen_probabilities
from frozenseg.inference.options import InferenceOptions
from frozenseg.inference.panoptic import panoptic
from frozenseg.inference.proposals import proposals
from frozenseg.inference.semantic import query_votes, semantic, semantic_scores

GEOMETRY = ImageGeometry(padded_size=(64, 96), valid_size=(60, 90), output_size=(75, 110))
SAM_GEOMETRY = GEOMETRY


@pytest.fixture
def case():
    g = torch.Generator().manual_seed(0)
    scores = (2 * torch.randn(12, 6, generator=g)).log_softmax(-1)
    return scores, 4 * torch.randn(12, 16, 24, generator=g)


@pytest.fixture
def sam():
    g = torch.Generator().manual_seed(1)
    return 4 * torch.randn(4, 6, generator=g), 6 * torch.randn(4, 32, 32, generator=g)


def test_semantic_is_the_dense_sum(case, monkeypatch):
    scores, masks = case
    dense = torch.einsum("qk,qhw->khw", scores.exp()[:, :-1], resize_masks(masks, GEOMETRY).sigmoid())
    monkeypatch.setattr(semantic_module, "_TILE_BYTES", 40_000)  # Several bands.
    votes = [query_votes(scores, masks, GEOMETRY)]
    torch.testing.assert_close(semantic_scores(votes), dense, rtol=1e-5, atol=1e-6)
    labels = semantic(votes)
    assert labels.dtype == torch.int64
    assert torch.equal(labels, dense.argmax(0))


def test_openseg_touches_unseen_categories_only(case, sam):
    scores, masks = case
    clip_logits, sam_masks = sam
    clip_logits[:2, 3] += 20.0
    seen = torch.tensor([True, True, False, False, False])
    queries = query_votes(scores, masks, GEOMETRY)
    plain = semantic_scores([queries])
    votes = openseg_votes(queries, clip_logits, sam_masks, SAM_GEOMETRY, seen, epsilon=0.3)
    mixed = semantic_scores(votes)
    torch.testing.assert_close(mixed[:2], plain[:2])
    probabilities = clip_logits.softmax(-1)[:, 2:-1]
    kept = probabilities.amax(1) > 0.5
    assert 2 <= kept.sum() < 4
    sam_part = torch.einsum("mk,mhw->khw", probabilities[kept], resize_masks(sam_masks[kept], SAM_GEOMETRY).sigmoid())
    torch.testing.assert_close(mixed[2:], 0.7 * plain[2:] + 0.3 * sam_part, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(0, 32, 32), (0, 0, 0)])
def test_openseg_without_sam_masks_still_scales(case, shape):
    scores, masks = case
    seen = torch.tensor([True, True, False, False, False])
    queries = query_votes(scores, masks, GEOMETRY)
    plain = semantic_scores([queries])
    mixed = semantic_scores(openseg_votes(queries, torch.zeros(0, 6), torch.zeros(shape), SAM_GEOMETRY, seen))
    torch.testing.assert_close(mixed[2:], 0.8 * plain[2:])
    torch.testing.assert_close(mixed[:2], plain[:2])


def test_openseg_with_every_category_seen_changes_nothing(case, sam):
    scores, masks = case
    queries = query_votes(scores, masks, GEOMETRY)
    seen = torch.ones(5, dtype=torch.bool)
    assert not sam_unseen_probabilities(sam[0], seen).any()
    mixed = semantic_scores(openseg_votes(queries, *sam, SAM_GEOMETRY, seen))
    torch.testing.assert_close(mixed, semantic_scores([queries]))


def test_instances_by_hand(case):
    scores, masks = case
    is_thing = torch.tensor([True, False, True, False, True])
    found = instances(scores, masks, GEOMETRY, is_thing, top_k=7)
    full, probabilities = resize_masks(masks, GEOMETRY), scores.exp()[:, :-1]
    expected = []
    for pair in probabilities.flatten().topk(7).indices.tolist():
        query, category = divmod(pair, 5)
        inside = full[query] > 0
        mean = (full[query].sigmoid() * inside).sum() / (inside.sum() + 1e-6)
        if is_thing[category]:
            expected.append((float(probabilities[query, category] * mean), category, inside))
    expected.sort(key=lambda entry: -entry[0])
    assert found.category_ids.tolist() == [category for _, category, _ in expected]
    torch.testing.assert_close(found.scores, torch.tensor([score for score, _, _ in expected]))
    assert torch.equal(found.masks, torch.stack([mask for _, _, mask in expected]))
    everything = instances(scores, masks, GEOMETRY, is_thing, top_k=7, things_only=False)
    assert len(everything.scores) == 7


def test_instances_of_nothing(case):
    scores, masks = case
    nothing = instances(scores, masks, GEOMETRY, torch.zeros(5, dtype=torch.bool))
    assert nothing.masks.shape == (0, 75, 110)
    assert nothing.scores.shape == (0,)
    empty_masks = instances(scores, -masks.abs() - 1, GEOMETRY, torch.ones(5, dtype=torch.bool))
    assert not empty_masks.scores.any()
    assert not empty_masks.masks.any()


def test_proposals(case):
    _, masks = case
    assert torch.equal(proposals(masks, GEOMETRY), resize_masks(masks, GEOMETRY) > 0)
    assert proposals(masks[:0], GEOMETRY).shape == (0, 75, 110)


def test_sam_only_classifies_sam_masks(sam):
    clip_logits, sam_masks = sam
    clip_logits = 5 * clip_logits
    scores = sam_class_scores(clip_logits)
    torch.testing.assert_close(scores[:, :-1].exp(), clip_logits[:, :-1].softmax(-1), rtol=1e-4, atol=1e-6)
    assert (scores[:, -1] < -15).all()
    found = panoptic(scores, sam_masks, SAM_GEOMETRY, torch.ones(5, dtype=torch.bool), 0.0, 0.0)
    assert {s.category_id for s in found.segments} <= set(clip_logits[:, :-1].argmax(1).tolist())
    assert len(found.segments) >= 2
    nothing = panoptic(sam_class_scores(clip_logits[:0]), sam_masks[:0], SAM_GEOMETRY, torch.ones(5, dtype=torch.bool))
    assert nothing.segments == ()


def test_sam_masks_in_the_panoptic_contest(case, sam):
    scores, masks = case
    clip_logits, sam_masks = sam
    clip_logits[1, 4] += 20.0
    seen = torch.tensor([True, True, True, True, False])
    off = add_sam_queries(scores, masks, clip_logits, sam_masks, seen, 0.0)
    assert off[0] is scores
    joined, joined_masks = add_sam_queries(scores, masks, clip_logits, sam_masks, seen, 0.6)
    added = len(joined) - len(scores)
    assert 1 <= added < 4
    assert joined_masks.shape == (12 + added, 16, 24)
    torch.testing.assert_close(joined[12:].exp().sum(-1), torch.ones(added), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(joined[12:, 4].exp().amax(), torch.tensor(0.6), rtol=1e-3, atol=0)
    assert (joined[12:, :4] < -15).all()


@pytest.mark.parametrize(
    "bad",
    [
        {"alpha": 1.5},
        {"epsilon": -0.1},
        {"top_k": 0},
        {"sam_panoptic_weight": -1.0},
        {"shortest_side": 2000},
        {"beta": float("nan")},
    ],
)
def test_options_name_what_is_wrong(bad):
    with pytest.raises(UserInputError, match=next(iter(bad))):
        InferenceOptions(**bad)


def test_options_say_when_sam_masks_are_needed():
    assert not InferenceOptions().needs_sam_masks
    assert InferenceOptions(openseg=True).needs_sam_masks
    assert InferenceOptions(sam_only=True).needs_sam_masks
    assert not InferenceOptions(sam_panoptic_weight=0.5).needs_sam_masks
