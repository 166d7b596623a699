"""The tiled panoptic result is the published loop's, segment for segment and pixel for pixel."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.baselines.panoptic import full_size_masks, panoptic_loop
from frozenseg.inference.geometry import ImageGeometry
from frozenseg.inference.panoptic import panoptic


def random_case(seed, queries, categories, low_size, sharpness):
    """Blobs of every size with noise; the last class is void."""
    g = torch.Generator().manual_seed(seed)
    rows = torch.linspace(0, 1, low_size[0])[:, None]
    columns = torch.linspace(0, 1, low_size[1])[None]
    centres, radii = torch.rand(queries, 2, 1, 1, generator=g), torch.rand(queries, 1, 1, generator=g) * 0.5
    distance = ((rows - centres[:, 0]) ** 2 + (columns - centres[:, 1]) ** 2).sqrt()
    masks = sharpness * (radii - distance) + torch.randn(queries, *low_size, generator=g)
    scores = (3 * torch.randn(queries, categories + 1, generator=g)).log_softmax(-1)
    return scores, masks, torch.rand(categories, generator=g) < 0.5


def assert_same(scores, masks, is_thing, geometry, object_threshold, overlap_threshold):
    full = full_size_masks(masks, geometry.padded_size, geometry.valid_size, geometry.output_size)
    expected = panoptic_loop(scores, full, is_thing, object_threshold, overlap_threshold)
    found = panoptic(scores, masks, geometry, is_thing, object_threshold, overlap_threshold)
    assert found.segments == expected.segments
    assert torch.equal(found.segment_ids, expected.segment_ids)
    return found


@given(
    seed=st.integers(0, 10**6),
    queries=st.integers(1, 40),
    categories=st.integers(1, 6),
    sharpness=st.sampled_from([0.0, 10.0, 60.0]),
    object_threshold=st.sampled_from([0.0, 0.4]),
    overlap_threshold=st.sampled_from([0.0, 0.3, 0.8]),
)
@settings(max_examples=40, deadline=None)
def test_equals_the_published_loop(seed, queries, categories, sharpness, object_threshold, overlap_threshold):
    scores, masks, is_thing = random_case(seed, queries, categories, (40, 48), sharpness)
    geometry = ImageGeometry(padded_size=(160, 192), valid_size=(150, 192), output_size=(150, 192))
    assert_same(scores, masks, is_thing, geometry, object_threshold, overlap_threshold)


def test_equals_the_published_loop_after_a_real_resize():
    scores, masks, is_thing = random_case(3, 60, 8, (50, 68), 40.0)
    geometry = ImageGeometry(padded_size=(200, 272), valid_size=(200, 267), output_size=(120, 160))
    found = assert_same(scores, masks, is_thing, geometry, 0.0, 0.1)
    assert len(found.segments) > 3


def confident(categories, labels):
    """One row per label; label == categories is void."""
    scores = torch.full((len(labels), categories + 1), -20.0)
    scores[range(len(labels)), labels] = 0.0
    return scores


def test_all_void_is_an_ordinary_empty_result():
    found = panoptic(
        confident(2, [2, 2]), torch.ones(2, 8, 8), ImageGeometry.whole((32, 32)), torch.tensor([True, False])
    )
    assert found.segments == ()
    assert found.segment_ids.dtype == torch.int32
    assert found.segment_ids.shape == (32, 32)
    assert not found.segment_ids.any()


def test_no_query_is_an_ordinary_empty_result():
    found = panoptic(
        torch.zeros(0, 3), torch.zeros(0, 8, 8), ImageGeometry.whole((32, 32)), torch.tensor([True, False])
    )
    assert found.segments == ()


def test_one_category_stuff_merges_and_things_do_not():
    masks = torch.full((2, 8, 8), -9.0)
    masks[0, :, :4], masks[1, :, 4:] = 9.0, 9.0
    for is_thing, expected in ((False, [(1, 32 * 32)]), (True, [(1, 512), (2, 512)])):
        found = panoptic(confident(1, [0, 0]), masks, ImageGeometry.whole((32, 32)), torch.tensor([is_thing]))
        assert [(s.id, s.area) for s in found.segments] == expected


def test_one_pixel_mask():
    masks = torch.full((2, 32, 32), -9.0)
    masks[0] = 4.0
    masks[0, 5, 7], masks[1, 5, 7] = -9.0, 9.0
    found = panoptic(confident(2, [0, 1]), masks, ImageGeometry.whole((32, 32)), torch.tensor([True, True]))
    assert [(s.category_id, s.area) for s in found.segments] == [(0, 32 * 32 - 1), (1, 1)]
    assert (found.segment_ids == 2).nonzero().tolist() == [[5, 7]]


@pytest.mark.parametrize("output_size", [(32, 32), (32, 1000), (1000, 32), (1, 1)])
def test_odd_outputs(output_size):
    scores, masks, is_thing = random_case(5, 20, 4, (8, 8), 20.0)
    geometry = ImageGeometry(padded_size=(32, 32), valid_size=(32, 32), output_size=output_size)
    found = panoptic(scores, masks, geometry, is_thing, 0.0, 0.1)
    assert tuple(found.segment_ids.shape) == output_size
    areas = torch.bincount(found.segment_ids.flatten().long(), minlength=len(found.segments) + 1)[1:]
    assert areas.tolist() == [s.area for s in found.segments]
    assert all(0.0 <= s.score <= 1.0 for s in found.segments)


def test_ties_go_to_the_first_query():
    masks = torch.full((3, 8, 8), 40.0)
    found = panoptic(confident(3, [2, 1, 0]), masks, ImageGeometry.whole((32, 32)), torch.ones(3, dtype=torch.bool))
    assert [(s.category_id, s.area) for s in found.segments] == [(2, 32 * 32)]
