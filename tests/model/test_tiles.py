"""Tiles: whatever is one segment in the image is one segment after merging, and no border shows."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from frozenseg.inference.instance_tiles import merge_instances
from frozenseg.inference.tiles import Tile, merge_panoptic, merge_semantic, owner_map, plan_tiles
from frozenseg.types import Instances, Segment, SegmentationOutput


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(20, 90), st.integers(0, 19))
def test_tiles_cover_everything_and_overlap(height: int, width: int, tile: int, overlap: int) -> None:
    tiles = plan_tiles((height, width), tile, overlap)
    covered = torch.zeros(height, width, dtype=torch.int64)
    for t in tiles:
        assert 0 < t.bottom - t.top <= tile
        assert 0 < t.right - t.left <= tile
        covered[t.top : t.bottom, t.left : t.right] += 1
    assert int(covered.min()) >= 1
    lefts = sorted({(t.left, t.right) for t in tiles})
    assert all(first[1] - second[0] >= overlap for first, second in itertools.pairwise(lefts))
    owner = owner_map((height, width), tiles)
    assert set(owner.ravel().tolist()) <= set(range(len(tiles)))


def truth() -> tuple[torch.Tensor, dict[int, tuple[int, bool]]]:
    """Three things and two stuff regions on 120 x 160, a long thing across all tile borders."""
    ids = torch.zeros(120, 160, dtype=torch.int32)
    ids[:60] = 1
    ids[70:] = 2
    ids[20:30, 5:155] = 3
    ids[80:110, 60:100] = 4
    ids[85:95, 110:130] = 5
    return ids, {1: (0, False), 2: (1, False), 3: (2, True), 4: (2, True), 5: (2, True)}


def perfect(ids: torch.Tensor, kinds: dict[int, tuple[int, bool]]) -> SegmentationOutput:
    """What a perfect model says about a tile: the truth, with ids of its own."""
    out = torch.zeros_like(ids)
    segments = []
    for new, old in enumerate(sorted((i for i in ids.unique().tolist() if i), reverse=True), start=1):
        out[ids == old] = new
        area = int((ids == old).sum())
        segments.append(
            Segment(id=new, category_id=kinds[old][0], is_thing=kinds[old][1], score=0.5 + 0.1 * (old == 3), area=area)
        )
    return SegmentationOutput(segment_ids=out, segments=tuple(segments))


@pytest.mark.parametrize(("tile", "overlap"), [(50, 20), (64, 16), (200, 10), (90, 40)])
def test_a_perfect_model_stays_perfect(tile: int, overlap: int) -> None:
    ids, kinds = truth()
    tiles = plan_tiles((120, 160), tile, overlap)
    merged = merge_panoptic((120, 160), tiles, [perfect(t.crop(ids), kinds) for t in tiles])
    pairs = torch.stack([ids.flatten(), merged.segment_ids.flatten()]).unique(dim=1)
    assert pairs.shape[1] == 6  # five segments and void, one to one
    by_id = {segment.id: segment for segment in merged.segments}
    for old, new in pairs.t().tolist():
        if old == 0:
            assert new == 0
            continue
        assert (by_id[new].category_id, by_id[new].is_thing) == kinds[old]
        assert by_id[new].area == int((ids == old).sum())
        assert by_id[new].score == pytest.approx(0.6 if old == 3 else 0.5)


def test_different_things_side_by_side_stay_two() -> None:
    ids = torch.zeros(40, 100, dtype=torch.int32)
    ids[10:30, 20:50] = 1
    ids[10:30, 50:80] = 2
    kinds = {1: (0, True), 2: (0, True)}
    tiles = plan_tiles((40, 100), 60, 20)
    merged = merge_panoptic((40, 100), tiles, [perfect(t.crop(ids), kinds) for t in tiles])
    assert len(merged.segments) == 2
    assert sorted(s.area for s in merged.segments) == [600, 600]


def test_doubtful_pixels_at_a_cut_are_not_used() -> None:
    labels = torch.zeros(30, 100, dtype=torch.int64)
    tiles = plan_tiles((30, 100), 60, 20)
    wrong = [torch.zeros(30, 60, dtype=torch.int64) for _ in tiles]
    wrong[0][:, -8:] = 1  # the first tile is wrong where the image was cut off
    wrong[1][:, :8] = 1
    assert torch.equal(merge_semantic((30, 100), tiles, wrong), labels)


def test_nothing_found_is_all_void() -> None:
    tiles = plan_tiles((30, 100), 60, 20)
    empty = SegmentationOutput(segment_ids=torch.zeros(30, 60, dtype=torch.int32), segments=())
    merged = merge_panoptic((30, 100), tiles, [empty, empty])
    assert merged.segments == ()
    assert not merged.segment_ids.any()


def objects() -> tuple[torch.Tensor, list[int]]:
    """Masks and categories on 120 x 160: a long one across all tile borders, two of its category that overlap each
    other, one of another category on the same pixels, a small one at a border."""
    masks = torch.zeros(5, 120, 160, dtype=torch.bool)
    masks[0, 20:30, 5:155] = True
    masks[1, 50:80, 50:90] = True
    masks[2, 60:100, 70:110] = True
    masks[3, 50:80, 50:90] = True
    masks[4, 110:116, 74:84] = True
    return masks, [0, 0, 0, 1, 2]


def seen_in(tile: Tile, masks: torch.Tensor, categories: list[int], scores: list[float]) -> Instances:
    """What a perfect model says about a tile, best first."""
    crops = tile.crop(masks)
    order = sorted((n for n in range(len(masks)) if crops[n].any()), key=lambda n: -scores[n])
    return Instances(
        masks=crops[order], category_ids=torch.tensor(categories)[order], scores=torch.tensor(scores)[order]
    )


@pytest.mark.parametrize(("tile", "overlap"), [(50, 20), (64, 16), (200, 10), (90, 40)])
def test_instances_that_overlap_stay_apart_and_whole(tile: int, overlap: int) -> None:
    masks, categories = objects()
    scores = [0.9, 0.8, 0.7, 0.6, 0.5]
    tiles = plan_tiles((120, 160), tile, overlap)
    merged = merge_instances((120, 160), tiles, [seen_in(t, masks, categories, scores) for t in tiles], top_k=100)
    assert merged.category_ids.tolist() == categories
    assert torch.equal(merged.masks, masks)
    torch.testing.assert_close(merged.scores, torch.tensor(scores))
    two = merge_instances((120, 160), tiles, [seen_in(t, masks, categories, scores) for t in tiles], top_k=2)
    assert torch.equal(two.masks, masks[:2])


def test_an_instance_found_twice_in_a_tile_does_not_join_others() -> None:
    """Two masks of one object in each of two tiles: each has one partner, so two stay two."""
    masks = torch.zeros(2, 40, 100, dtype=torch.bool)
    masks[0, 10:30, 20:80], masks[1, 12:30, 20:80] = True, True
    tiles = plan_tiles((40, 100), 60, 20)
    merged = merge_instances((40, 100), tiles, [seen_in(t, masks, [0, 0], [0.9, 0.4]) for t in tiles], top_k=100)
    assert torch.equal(merged.masks, masks)


def test_what_a_tile_sees_at_its_cut_edge_only_and_its_neighbour_does_not_is_left_out() -> None:
    tiles = plan_tiles((40, 100), 60, 20)
    ghost = torch.zeros(1, 40, 60, dtype=torch.bool)
    ghost[0, 10:20, 56:60] = True
    nothing = torch.zeros(0, 40, 60, dtype=torch.bool)
    results = [
        Instances(masks=ghost, category_ids=torch.tensor([0]), scores=torch.tensor([0.9])),
        Instances(masks=nothing, category_ids=torch.zeros(0, dtype=torch.int64), scores=torch.zeros(0)),
    ]
    merged = merge_instances((40, 100), tiles, results, top_k=100)
    assert merged.masks.shape == (0, 40, 100)
    assert merged.scores.dtype == torch.float32
