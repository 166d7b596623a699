"""Overlays: colours where the segments are, a legend that counts right, names that cannot break the drawing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from frozenseg.inference.overlay import draw_instances, draw_panoptic, draw_semantic
from frozenseg.inference.palette import category_colors, instance_color
from frozenseg.types import Instances, Segment, SegmentationOutput
from frozenseg.vocabulary import parse_vocabulary, published_vocabulary

VOCABULARY = parse_vocabulary("cat; dog; sky(stuff)")


def image(height: int, width: int) -> torch.Tensor:
    return torch.full((3, height, width), 100, dtype=torch.uint8)


def halves(height: int, width: int) -> SegmentationOutput:
    ids = torch.zeros(height, width, dtype=torch.int32)
    ids[: height // 2] = 1
    ids[height // 2 :, : width // 2] = 2
    segments = (
        Segment(id=1, category_id=2, is_thing=False, score=0.9, area=int((ids == 1).sum())),
        Segment(id=2, category_id=0, is_thing=True, score=0.7, area=int((ids == 2).sum())),
    )
    return SegmentationOutput(segment_ids=ids, segments=segments)


def test_segments_wear_their_colour() -> None:
    picture = np.asarray(draw_panoptic(image(700, 800), halves(700, 800), VOCABULARY)).astype(int)
    colors = category_colors(VOCABULARY)
    for (row, column), color in (((60, 60), colors[2]), ((650, 30), colors[0])):
        expected = 0.45 * 100 + 0.55 * np.asarray(color)
        assert np.abs(picture[row, column] - expected).max() <= 1
    assert (picture[349, 100:300] > 250).all() or (picture[350, 100:300] > 250).all()  # a white outline between them
    assert picture.shape[0] > 700


@pytest.mark.parametrize("size", [(1, 1), (3, 900), (32, 32), (2600, 40), (480, 640)])
def test_any_size_can_be_drawn(size: tuple[int, int]) -> None:
    picture = draw_panoptic(image(*size), halves(*size), VOCABULARY, notice="RANDOM WEIGHTS " * 8)
    assert max(picture.size) <= 3000
    labels = torch.full(size, -1)
    assert draw_semantic(image(*size), labels, VOCABULARY).size[0] > 0
    nothing = Instances(
        masks=torch.zeros(0, *size, dtype=torch.bool),
        category_ids=torch.zeros(0, dtype=torch.int64),
        scores=torch.zeros(0),
    )
    assert draw_instances(image(*size), nothing, VOCABULARY).size[0] > 0


def test_the_better_instance_is_on_top() -> None:
    masks = torch.ones(2, 700, 700, dtype=torch.bool)
    found = Instances(masks=masks, category_ids=torch.tensor([0, 1]), scores=torch.tensor([0.9, 0.8]))
    drawn = np.asarray(draw_instances(image(700, 700), found, VOCABULARY)).astype(int)
    top, below = (np.asarray(color) for color in category_colors(VOCABULARY)[:2])
    pixel = drawn[30, 30]
    assert np.abs(pixel - top).sum() < np.abs(pixel - below).sum()


def test_names_of_any_script_and_length() -> None:
    vocabulary = parse_vocabulary("猫; " + "x" * 300 + "; небо(stuff)")
    assert draw_panoptic(image(64, 64), halves(64, 64), vocabulary).width >= 640


def test_colours_stay_apart() -> None:
    many = parse_vocabulary(";".join(f"c{i}" for i in range(40)))
    colors = np.asarray(category_colors(many))
    distance = np.abs(colors[:, None] - colors[None]).sum(-1) + 1000 * np.eye(len(colors), dtype=int)
    assert distance.min() >= 12
    assert category_colors(published_vocabulary("coco-panoptic"))[0] == (220, 20, 60)
    instances = {instance_color((220, 20, 60), number) for number in range(7)}
    assert len(instances) == 7
