"""SAM masks from a grid of points against segment-anything's automatic mask generator, after encoding.

    python -m benchmarks.sam_masks [--size vit_b|miniature] [--points 16] [--model FOLDER --image PICTURE] [--filters]

One process, one thread, the same embedding, interleaved; times are CPU times of the process. By default weights are
random and every filter is off, so that all masks are made and only speed and agreement count. The baseline's own set-up
is used unchanged apart from handing it the embedding; its masks are uncompressed run lengths, its cheapest output.
On a 32x32 grid the baseline of ViT-B and the comparison of 3,072 masks with 3,072 take minutes: --points sets the grid,
the work per point stays the same.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.modeling import Sam
from segment_anything.utils.amg import rle_to_mask
from torch import Tensor

from frozenseg.encoders import SamArchitecture, VitSam, build_sam
from frozenseg.inference.geometry import ImageGeometry, resize_masks
from frozenseg.inference.sam_masks import SEGMENT_ANYTHING, GridSettings, SamMaskGenerator

PIXELS_AT_ONCE = 1 << 16
MASKS_AT_ONCE = 64

SIZES = {
    # The image encoder takes no part after encoding: a thin trunk, and the released models' prompt and mask decoders.
    "vit_b": SamArchitecture(name="vit_b-decoder", dim=64, depth=1, heads=2, global_attn_indexes=(0,)),
    "miniature": SamArchitecture(
        name="miniature",
        img_size=256,
        patch_size=8,
        dim=48,
        depth=1,
        heads=2,
        global_attn_indexes=(0,),
        out_channels=64,
        decoder_mlp_dim=256,
        iou_head_dim=64,
    ),
}


def random_sam(architecture: SamArchitecture) -> VitSam:
    """Random weights, scaled so that masks have edges: with the initial ones every logit is nearly 0."""
    torch.manual_seed(0)
    encoder = build_sam(architecture)
    with torch.no_grad():
        for parameter in encoder.sam.mask_decoder.parameters():
            parameter.mul_(2.0) if parameter.ndim > 1 else parameter.add_(0.1 * torch.randn_like(parameter))
    assert isinstance(encoder, VitSam)
    return encoder


def hand_over(generator: SamAutomaticMaskGenerator, embedding: Tensor, side: int, input_side: int) -> None:
    """The predictor finds the image encoded already."""

    def set_image(image: Any, image_format: str = "RGB") -> None:  # noqa: ARG001
        predictor = generator.predictor
        predictor.original_size, predictor.input_size = (side, side), (input_side, input_side)
        predictor.features, predictor.is_image_set = embedding[None], True

    generator.predictor.set_image = set_image


def baseline(sam: Sam, settings: GridSettings) -> SamAutomaticMaskGenerator:
    return SamAutomaticMaskGenerator(
        sam,
        points_per_side=settings.points_per_side,
        pred_iou_thresh=settings.min_predicted_iou,
        stability_score_thresh=settings.min_stability,
        box_nms_thresh=settings.nms_iou,
        output_mode="uncompressed_rle",
    )


def not_empty(records: list[dict[str, Any]], side: int) -> Tensor:
    """The baseline's masks [N,P] bool that have a pixel. Takes the records away: as lists of numbers they are huge."""
    kept = [record["area"] > 0 for record in records]
    masks = torch.empty(sum(kept), side * side, dtype=torch.bool)
    row = len(masks)
    for is_kept in reversed(kept):
        record = records.pop()
        if is_kept:
            row -= 1
            masks[row] = torch.from_numpy(rle_to_mask(record["segmentation"])).flatten()
    return masks


def agreement(theirs: Tensor, found: Tensor, side: int) -> Tensor:
    """Best IoU with any of ours, for every mask of the baseline."""
    # A few at a time: 3,072 masks of 1024 x 1024 are 13 GB before they are compared with 0.
    geometry = ImageGeometry.whole((side, side))
    ours = torch.empty(len(found), side * side, dtype=torch.bool)
    for start in range(0, len(found), MASKS_AT_ONCE):
        chunk = slice(start, start + MASKS_AT_ONCE)
        torch.gt(resize_masks(found[chunk], geometry).flatten(1), 0, out=ours[chunk])
    inside = torch.zeros(len(theirs), len(ours))
    areas = torch.zeros(len(theirs), 1), torch.zeros(1, len(ours))
    for start in range(0, side * side, PIXELS_AT_ONCE):
        left, right = (masks[:, start : start + PIXELS_AT_ONCE].float() for masks in (theirs, ours))
        inside += left @ right.t()
        areas[0].add_(left.sum(1)[:, None])
        areas[1].add_(right.sum(1)[None])
    return (inside / (areas[0] + areas[1] - inside)).nan_to_num(0.0).amax(1)


def timed(make: Any) -> tuple[Any, float]:
    start = time.process_time()
    result = make()
    return result, time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", choices=SIZES, default="miniature")
    parser.add_argument("--points", type=int, default=16)
    parser.add_argument("--image-side", type=int, default=0, help="output pixels; SAM's input side by default")
    parser.add_argument("--model", type=Path, help="a model folder: its trained SAM and a real picture's embedding")
    parser.add_argument("--image", type=Path, help="with --model: the picture")
    parser.add_argument("--filters", action="store_true", help="segment-anything's own filters instead of none")
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.model:
        encoder, embedding = trained(arguments.model, arguments.image)
    else:
        encoder = random_sam(SIZES[arguments.size])
        grid = encoder.sam.prompt_encoder.image_embedding_size
        embedding = torch.randn(encoder.out_channels, *grid, generator=torch.Generator().manual_seed(1))
    input_side = encoder.input_size
    side = arguments.image_side or input_side
    settings = replace(SEGMENT_ANYTHING, points_per_side=arguments.points)
    if not arguments.filters:
        settings = replace(settings, min_predicted_iou=0.0, min_stability=0.0, nms_iou=1.0)
    generator = baseline(encoder.sam, settings)
    hand_over(generator, embedding, side, input_side)
    blank, geometry = np.zeros((side, side, 3), dtype=np.uint8), ImageGeometry.whole((side, side))
    times: dict[str, list[float]] = {"baseline": [], "exact": [], "approximate": []}
    masks: dict[str, Tensor] = {}
    expected: list[dict[str, Any]] = []
    for _ in range(arguments.repeats):
        expected, seconds = timed(lambda: generator.generate(blank))
        times["baseline"].append(seconds)
        for mode in ("exact", "approximate"):
            ours = SamMaskGenerator(encoder, replace(settings, mode=mode))
            result, seconds = timed(lambda ours=ours: ours.from_embedding(embedding, geometry))
            times[mode].append(seconds)
            masks[mode] = result.logits
    slowest = min(times["baseline"])
    print(
        f"{arguments.points}x{arguments.points} points, output {side}: baseline {len(expected)} masks, {slowest:.2f} s"
    )
    print("times: " + ", ".join(f"{name} {min(taken):.2f} s" for name, taken in times.items()), flush=True)
    theirs = not_empty(expected, side)
    for mode, threshold in (("exact", 0.98), ("approximate", 0.9)):
        best, seconds = agreement(theirs, masks[mode], side), min(times[mode])
        share = (best >= threshold).float().mean()
        print(
            f"{mode:12s} {len(masks[mode])} masks, {seconds:.2f} s, {slowest / seconds:.1f}x; "
            f"found at IoU >= {threshold}: {100 * share:.1f} % (lowest {best.min():.3f}, mean {best.mean():.4f})"
        )


def trained(folder: Path, picture: Path | None) -> tuple[Any, Tensor]:
    """The SAM of a model folder and its embedding of a picture squeezed to a square."""
    from PIL import Image

    import frozenseg

    if picture is None:
        raise SystemExit("--model needs --image")
    segmenter = frozenseg.load(str(folder), device="cpu")
    encoder = segmenter.model.sam
    side = encoder.input_size
    image = torch.from_numpy(np.asarray(Image.open(picture).convert("RGB").resize((side, side))).copy())
    sizes = torch.tensor([[side, side]])
    return encoder, encoder.encode_image(image.permute(2, 0, 1)[None], sizes)[0].float()


if __name__ == "__main__":
    main()
