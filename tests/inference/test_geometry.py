"""Windows of a resized mask are the published two-step resize, bit for bit."""

from __future__ import annotations

import pytest
import torch

from frozenseg.errors import UserInputError
from frozenseg.inference.geometry import ImageGeometry, MaskResizer, resize_masks, tile_windows

GEOMETRIES = {
    "stride 4 alone": ((60, 80), ImageGeometry.whole((240, 320))),
    "shrunk, with padding": (
        (50, 68),
        ImageGeometry(padded_size=(200, 272), valid_size=(200, 267), output_size=(120, 160)),
    ),
    "enlarged": ((16, 24), ImageGeometry(padded_size=(64, 96), valid_size=(60, 90), output_size=(135, 203))),
    "long": ((8, 64), ImageGeometry(padded_size=(32, 256), valid_size=(30, 250), output_size=(40, 333))),
    "SAM's square": ((64, 64), ImageGeometry(padded_size=(96, 160), valid_size=(90, 151), output_size=(180, 302))),
}


@pytest.mark.parametrize(("low_size", "geometry"), GEOMETRIES.values(), ids=GEOMETRIES)
@pytest.mark.parametrize("tile", [(64, 64), (7, 400)])
def test_windows_are_the_full_resize(low_size, geometry, tile):
    logits = 5 * torch.randn(6, *low_size, generator=torch.Generator().manual_seed(0))
    expected = resize_masks(logits, geometry)
    resizer = MaskResizer(low_size, geometry, logits.device)
    covered = torch.zeros(geometry.output_size, dtype=torch.int64)
    for window in tile_windows(geometry.output_size, tile):
        pixels = (slice(window.top, window.bottom), slice(window.left, window.right))
        covered[pixels] += 1
        torch.testing.assert_close(resizer.window(logits, window), expected[:, *pixels], rtol=0, atol=2e-6)
    assert (covered == 1).all()


def test_a_selection_picks_rows():
    logits = torch.randn(5, 8, 8, generator=torch.Generator().manual_seed(1))
    geometry = ImageGeometry.whole((32, 32))
    resizer = MaskResizer((8, 8), geometry, logits.device)
    window = next(tile_windows((32, 32), (16, 16)))
    picked = resizer.window(logits, window, torch.tensor([3, 1]))
    assert torch.equal(picked, resizer.window(logits, window)[[3, 1]])


def test_what_a_window_reads_bounds_it():
    """Panoptic pruning rests on this: no output pixel leaves the range of the logits under its tile."""
    low_size, geometry = GEOMETRIES["shrunk, with padding"]
    logits = torch.randn(4, *low_size, generator=torch.Generator().manual_seed(2))
    resizer = MaskResizer(low_size, geometry, logits.device)
    for window in tile_windows(geometry.output_size, (32, 32)):
        low = resizer.low_window(window)
        read = logits[:, low.top : low.bottom, low.left : low.right].flatten(1)
        values = resizer.window(logits, window).flatten(1)
        assert (values.amax(1) <= read.amax(1) + 1e-5).all()
        assert (values.amin(1) >= read.amin(1) - 1e-5).all()


@pytest.mark.parametrize(
    ("padded", "valid", "output"),
    [((32, 32), (40, 32), (40, 32)), ((32, 32), (0, 32), (1, 1)), ((32, 32), (32, 32), (32, 0))],
)
def test_impossible_sizes_are_named(padded, valid, output):
    with pytest.raises(UserInputError, match="valid_size within padded_size"):
        ImageGeometry(padded_size=padded, valid_size=valid, output_size=output)
