"""Draws docs/images/{scene,result}.png with the embedded miniature model: python scripts/readme_pictures.py

The scenes are validation scenes of a seed that neither training nor evaluation uses.
"""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import frozenseg
from frozenseg.miniature import full_vocabulary
from frozenseg.miniature.dataset import encoded_sample, val_scenes
from pipelines.demo.report import LegendEntry, Picture
from pipelines.demo.results import picture_of

SEED = 30_000
SCENES = (0, 1, 2)
SIDE = 256
GAP, HEADER, LEGEND = 8, 26, 46
FOLDER = Path(__file__).resolve().parent.parent / "docs" / "images"


def main() -> None:
    vocabulary = full_vocabulary()
    segmenter = frozenseg.load("miniature", device="cpu")
    scenes = val_scenes(max(SCENES) + 1, SEED)
    samples = [encoded_sample(scenes[i], f"scene-{i}", vocabulary) for i in SCENES]
    FOLDER.mkdir(parents=True, exist_ok=True)
    Image.open(io.BytesIO(samples[0].image_bytes)).save(FOLDER / "scene.png")
    sheet([picture_of(segmenter, sample, vocabulary) for sample in samples]).save(FOLDER / "result.png", optimize=True)


def sheet(pictures: list[Picture]) -> Image.Image:
    """A row per scene: image, truth, panoptic result, semantic result, and below them the legend."""
    width = 4 * SIDE + 5 * GAP
    canvas = Image.new("RGB", (width, HEADER + len(pictures) * (SIDE + LEGEND + GAP)), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=14)
    for column, title in enumerate(("image", "truth", "panoptic result", "semantic result")):
        draw.text((GAP + column * (SIDE + GAP), 5), title, fill=(60, 60, 60), font=font)
    for row, picture in enumerate(pictures):
        top = HEADER + row * (SIDE + LEGEND + GAP)
        for column, data in enumerate((picture.image, picture.truth, picture.panoptic, picture.semantic)):
            tile = Image.open(io.BytesIO(data)).convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            canvas.paste(tile, (GAP + column * (SIDE + GAP), top))
        write_legend(draw, font, picture.legend, top + SIDE + 5, width)
    return canvas


def write_legend(
    draw: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    legend: tuple[LegendEntry, ...],
    top: int,
    width: int,
) -> None:
    """Chips and names from left to right, in as many lines as they need."""
    x, y = GAP, top
    for entry in legend:
        text = entry.name if entry.seen else f"{entry.name} (unseen)"
        length = draw.textlength(text, font=font)
        if x + 18 + length > width - GAP:
            x, y = GAP, y + 20
        draw.rounded_rectangle((x, y + 3, x + 12, y + 15), 3, fill=entry.color, outline=(120, 120, 120))
        draw.text((x + 18, y), text, fill=(25, 25, 25) if entry.seen else (179, 71, 10), font=font)
        x += 18 + length + 16


if __name__ == "__main__":
    main()
