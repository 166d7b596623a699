"""Our mask generator against segment-anything's own: same prompts, same weights, same filters."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from segment_anything import SamAutomaticMaskGenerator

from frozenseg.encoders import SamArchitecture, build_sam
from frozenseg.errors import UserInputError
from frozenseg.inference.geometry import ImageGeometry, MaskResizer, resize_masks
from frozenseg.inference.mask_measures import measure_exact, measure_low_resolution
from frozenseg.inference.sam_decoder import PointDecoder
from frozenseg.inference.sam_masks import PUBLISHED, SEGMENT_ANYTHING, GridSettings, SamMaskGenerator, grid_points
from frozenseg.inference.small_regions import without_small_regions

SIDE = 128
ALL = GridSettings(points_per_side=6, min_predicted_iou=0, min_stability=0, nms_iou=1)


@pytest.fixture(scope="module")
def encoder():
    """A miniature SAM whose random weights are scaled so that masks have edges."""
    torch.manual_seed(0)
    architecture = SamArchitecture(
        name="miniature",
        img_size=SIDE,
        patch_size=8,
        dim=32,
        depth=1,
        heads=2,
        global_attn_indexes=(0,),
        out_channels=64,
        decoder_mlp_dim=128,
        iou_head_dim=64,
    )
    encoder = build_sam(architecture)
    with torch.no_grad():
        for parameter in encoder.sam.mask_decoder.parameters():
            if parameter.ndim > 1:
                parameter.mul_(2.5)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return encoder


@pytest.fixture(scope="module")
def image():
    return (255 * torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))).byte()


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_decoder_equals_segment_anything(depth):
    torch.manual_seed(depth)
    architecture = SamArchitecture(
        name="x", img_size=64, dim=16, depth=1, heads=1, out_channels=32, decoder_depth=depth, decoder_heads=4
    )
    sam = build_sam(architecture).sam
    with torch.no_grad():
        for parameter in sam.mask_decoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    embedding, points = torch.randn(32, 4, 4), 64 * torch.rand(5, 2)
    with torch.no_grad():
        sparse, dense = sam.prompt_encoder(points=(points[:, None], torch.ones(5, 1)), boxes=None, masks=None)
        masks, predicted_iou = sam.mask_decoder(
            image_embeddings=embedding[None],
            image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
        )
        decoder = PointDecoder(sam, embedding)
        found = decoder.points(points)
        logits = decoder.mask_logits(found.image_tokens, found.hyper)
    torch.testing.assert_close(logits, masks, rtol=1e-4, atol=1e-4 * float(masks.abs().max()))
    torch.testing.assert_close(found.predicted_iou, predicted_iou, rtol=1e-4, atol=1e-4)


def best_iou(theirs, ours):
    a, b = theirs.flatten(1).float(), ours.flatten(1).float()
    inside = a @ b.t()
    return (inside / (a.sum(1)[:, None] + b.sum(1)[None] - inside)).nan_to_num(0.0).max(dim=1)


@pytest.mark.parametrize(("mode", "threshold", "share"), [("exact", 0.98, 1.0), ("approximate", 0.9, 0.98)])
def test_every_mask_of_segment_anything_is_found(encoder, image, mode, threshold, share):
    generator = SamAutomaticMaskGenerator(
        encoder.sam, points_per_side=6, pred_iou_thresh=0, stability_score_thresh=0, box_nms_thresh=1.0
    )
    expected = generator.generate(image.permute(1, 2, 0).numpy())
    found = SamMaskGenerator(encoder, replace(ALL, mode=mode))(image)
    assert len(found.logits) == len(expected) == 6 * 6 * 3
    ours = resize_masks(found.logits, ImageGeometry.whole((SIDE, SIDE))) > 0
    theirs = torch.from_numpy(np.stack([record["segmentation"] for record in expected]))
    best, index = best_iou(theirs, ours)
    assert (best[theirs.flatten(1).any(1)] >= threshold).float().mean() >= share
    areas = ours.flatten(1).sum(1)
    if mode == "exact":
        assert (areas[:-1] >= areas[1:]).all()
        boxes = torch.tensor([record["bbox"] for record in expected])
        boxes[:, 2:] += boxes[:, :2]
        assert (boxes == found.boxes[index]).all(1).float().mean() > 0.98
        stability = torch.tensor([record["stability_score"] for record in expected])
        assert ((stability - found.stability[index]).abs() < 1e-4).float().mean() > 0.98


def test_filters_keep_what_segment_anything_keeps(encoder, image):
    everything = SamMaskGenerator(encoder, ALL)(image)
    settings = replace(
        ALL,
        min_predicted_iou=float(everything.predicted_iou.median()),
        min_stability=float(everything.stability.median()),
        nms_iou=0.8,
    )
    generator = SamAutomaticMaskGenerator(
        encoder.sam,
        points_per_side=6,
        pred_iou_thresh=settings.min_predicted_iou,
        stability_score_thresh=settings.min_stability,
        box_nms_thresh=settings.nms_iou,
    )
    expected = generator.generate(image.permute(1, 2, 0).numpy())
    found = SamMaskGenerator(encoder, settings)(image)
    assert len(found.logits) == len(expected)
    assert sorted(round(record["predicted_iou"], 3) for record in expected) == pytest.approx(
        sorted(found.predicted_iou.tolist()), abs=2e-3
    )
    fewer = SamMaskGenerator(encoder, replace(settings, max_masks=2))(image)
    assert torch.equal(fewer.logits, found.logits[:2])


@pytest.mark.parametrize("mode", ["exact", "approximate"])
def test_nothing_passes(encoder, image, mode):
    found = SamMaskGenerator(encoder, replace(PUBLISHED, points_per_side=2, min_predicted_iou=1e6, mode=mode))(image)
    assert found.logits.shape == (0, 64, 64)
    assert found.boxes.shape == (0, 4)
    assert found.predicted_iou.shape == found.stability.shape == (0,)


@pytest.mark.parametrize("size", [(32, 32), (32, 400), (90, 64)])
def test_any_aspect(encoder, size):
    image = (255 * torch.rand(3, *size, generator=torch.Generator().manual_seed(3))).byte()
    settings = GridSettings(points_per_side=2, min_predicted_iou=0, min_stability=0, min_region_area=20)
    found = SamMaskGenerator(encoder, settings)(image)
    assert len(found.logits) > 0
    limits = torch.tensor([size[1], size[0], size[1], size[0]])
    assert ((found.boxes >= 0) & (found.boxes < limits)).all()


def test_points_follow_the_squeezed_padded_image():
    """A 40x120 image, enlarged to 80x240, padded to 96x256: the grid's last point is a pixel of the image's corner."""
    geometry = ImageGeometry(padded_size=(96, 256), valid_size=(80, 240), output_size=(40, 120))
    points = grid_points(20, geometry, 1024)
    assert points.shape == (400, 2)
    assert points[0].tolist() == pytest.approx([0.025 * 240 / 256 * 1024, 0.025 * 80 / 96 * 1024])
    assert points[-1].tolist() == pytest.approx([0.975 * 240 / 256 * 1024, 0.975 * 80 / 96 * 1024])
    assert points[1, 1] == points[0, 1]


def test_a_box_comes_back_where_it_was():
    """Logits of a box drawn on the square input come back undisplaced (the released code moved it)."""
    geometry = ImageGeometry(padded_size=(800, 1216), valid_size=(800, 1200), output_size=(400, 600))
    logits = torch.full((1, 256, 256), -8.0)
    top, bottom, left, right = (
        64,
        128,
        32,
        96,
    )  # Cells; x 1216/256 and y 800/256 padded pixels, half that in the output.
    logits[0, top:bottom, left:right] = 8.0
    resizer = MaskResizer((256, 256), geometry, logits.device)
    expected = [left * 1216 / 512, top * 800 / 512, right * 1216 / 512 - 1, bottom * 800 / 512 - 1]
    for measure in (measure_exact, measure_low_resolution):
        found = measure(logits, resizer, 1.0)
        assert (found.boxes[0] - torch.tensor(expected)).abs().max() <= 1.5
        assert int(found.area[0]) == pytest.approx((right - left) * (bottom - top) * 1216 * 800 / 512**2, rel=0.03)
        assert float(found.stability[0]) > 0.9


def test_measures_of_a_one_pixel_and_of_an_empty_mask():
    logits = torch.full((2, 16, 16), -9.0)
    logits[0, 5, 7] = 9.0
    found = measure_exact(logits, MaskResizer((16, 16), ImageGeometry.whole((16, 16)), logits.device), 1.0)
    assert found.area.tolist() == [1, 0]
    assert found.boxes.tolist() == [[7, 5, 7, 5], [0, 0, 0, 0]]
    assert found.stability.tolist() == [1.0, 0.0]


def test_small_regions():
    mask = torch.zeros(2, 20, 20)
    mask[0, 2:12, 2:12] = 1
    mask[0, 5, 5] = 0  # A hole of one cell.
    mask[0, 15:17, 15:17] = 1  # An island of four.
    mask[1, 3, 3] = 1  # Only small islands: the largest stays.
    mask[1, 10, 10:12] = 1
    cleaned, changed = without_small_regions(mask * 8 - 4, 5)
    expected = torch.zeros(2, 20, 20)
    expected[0, 2:12, 2:12] = 1
    expected[1, 10, 10:12] = 1
    assert torch.equal(cleaned > 0, expected > 0)
    assert changed.tolist() == [True, True]
    untouched, changed = without_small_regions(mask * 8 - 4, 1)
    assert torch.equal(untouched, mask * 8 - 4)
    assert not changed.any()


def test_presets_are_the_published_numbers():
    assert (SEGMENT_ANYTHING.min_predicted_iou, SEGMENT_ANYTHING.min_stability, SEGMENT_ANYTHING.nms_iou) == (
        0.88,
        0.95,
        0.7,
    )
    assert (PUBLISHED.min_predicted_iou, PUBLISHED.min_stability, PUBLISHED.nms_iou) == (0.8, 0.7, 0.7)
    assert (PUBLISHED.points_per_side, PUBLISHED.min_region_area, PUBLISHED.max_masks) == (32, 100, 50)


@pytest.mark.parametrize("bad", [{"points_per_side": 0}, {"max_masks": -1}, {"mode": "fast"}])
def test_settings_name_what_is_wrong(bad):
    with pytest.raises(UserInputError, match=str(next(iter(bad)))):
        GridSettings(**bad)
