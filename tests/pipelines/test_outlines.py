"""Masks as polygons: exact without thinning, near with it, holes and parts kept."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.path import Path as Polygon
from numpy.typing import NDArray

from pipelines.labeling.outlines import Ring, cut_open, joined, outlines


def filled(ring: Ring, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels whose centre lies within, by the winding rule; a little beside the centre, where no bridge passes."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    centres = np.stack([x.ravel() + 0.5021, y.ravel() + 0.5043], axis=1)
    return Polygon(np.concatenate([ring, ring[:1]]), closed=True).contains_points(centres).reshape(shape)


def disc(shape: tuple[int, int], centre: tuple[float, float], radius: float) -> NDArray[np.bool_]:
    y, x = np.mgrid[: shape[0], : shape[1]]
    return np.asarray((x - centre[0]) ** 2 + (y - centre[1]) ** 2 <= radius**2)


def rings_and_islands() -> NDArray[np.bool_]:
    """A ring with an island in its hole, and a disc with two holes beside it."""
    shape = (80, 120)
    mask = disc(shape, (35, 40), 30) & ~disc(shape, (35, 40), 20) | disc(shape, (33, 42), 8)
    return mask | disc(shape, (95, 40), 20) & ~disc(shape, (88, 40), 5) & ~disc(shape, (102, 36), 6)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_noise_comes_back_to_the_pixel(seed: int, share: float) -> None:
    mask = np.random.default_rng(seed).random((13, 17)) < share
    parts = outlines(mask)
    whole = np.zeros_like(mask)
    for part in parts:
        inside = filled(cut_open(part), mask.shape)
        assert not (whole & inside).any()
        whole |= inside
    assert (whole == mask).all()
    if parts:
        assert (filled(joined(parts), mask.shape) == mask).all()


def test_holes_and_islands_find_their_place() -> None:
    mask = rings_and_islands()
    parts = outlines(mask)
    assert [len(part.holes) for part in parts] == [1, 2, 0]
    assert (filled(joined(parts), mask.shape) == mask).all()


def test_pixels_that_touch_by_a_corner_are_two_parts() -> None:
    assert len(outlines(np.array([[True, False], [False, True]]))) == 2
    assert len(outlines(np.array([[True, True], [False, True]]))) == 1


def test_thinning_leaves_few_corners_near_the_mask() -> None:
    mask = rings_and_islands()
    exact, thin = outlines(mask), outlines(mask, 1.0)
    assert [len(part.holes) for part in thin] == [1, 2, 0]
    assert sum(len(part.outer) for part in thin) < 0.4 * sum(len(part.outer) for part in exact)
    back = filled(joined(thin), mask.shape)
    assert (back & mask).sum() / (back | mask).sum() > 0.93


def test_an_empty_mask_has_no_part_and_one_pixel_is_a_square() -> None:
    assert outlines(np.zeros((3, 3), dtype=bool)) == []
    mask = np.zeros((3, 4), dtype=bool)
    mask[1, 2] = True
    [part] = outlines(mask, 2.0)
    assert sorted(map(tuple, part.outer.tolist())) == [(2, 1), (2, 2), (3, 1), (3, 2)]
