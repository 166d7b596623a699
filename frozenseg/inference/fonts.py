"""A font that has every character to be drawn: Pillow's own for most names, else one that the machine has."""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from PIL import ImageFont

logger = logging.getLogger(__name__)
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
FONT_VARIABLE = "FROZENSEG_FONT"
"""Environment variable: path of a font file that is tried first."""
_NO_CHARACTER = "\U0010fffe"
"""A code point that is no character: every font draws its sign for a missing one."""
_SUFFIXES = (".ttf", ".otf", ".ttc")


def font_for(texts: Iterable[str], size: int) -> Font:
    """The first font that can write all the texts, `size` pixels high.

    Where none can, the one that lacks the fewest characters; a warning names them once.
    """
    characters = frozenset(character for text in texts for character in text if not character.isspace())
    path = _font_path(characters)
    return ImageFont.load_default(size=size) if path is None else ImageFont.truetype(path, size)


@functools.lru_cache(maxsize=64)
def _font_path(characters: frozenset[str]) -> str | None:
    """None for Pillow's own font."""
    fewest, chosen = len(_lacking(ImageFont.load_default(size=16), characters)), None
    own = os.environ.get(FONT_VARIABLE)
    for path in ([Path(own)] if own else []) + (system_fonts() if fewest else []):
        if not fewest:
            break
        try:
            lacking = len(_lacking(ImageFont.truetype(str(path), 16), characters))
        except OSError:  # not a font that Pillow reads
            continue
        if lacking < fewest:
            fewest, chosen = lacking, str(path)
    if fewest:
        font = ImageFont.load_default(size=16) if chosen is None else ImageFont.truetype(chosen, 16)
        missing = "".join(sorted(_lacking(font, characters)))
        logger.warning(
            "no font of this machine has the characters %s: they are drawn as boxes; %s names a font file to use",
            missing,
            FONT_VARIABLE,
        )
    return chosen


def system_fonts() -> list[Path]:
    """Font files where the operating system keeps them, in a fixed order, upright regular ones first."""
    home = Path.home()
    folders = {
        "darwin": [home / "Library/Fonts", Path("/Library/Fonts"), Path("/System/Library/Fonts")],
        "win32": [Path(os.environ.get("WINDIR", "C:/Windows")) / "Fonts"],
    }.get(sys.platform, [home / ".local/share/fonts", home / ".fonts", Path("/usr/share/fonts")])
    found = [path for folder in folders if folder.is_dir() for path in folder.rglob("*")]
    return sorted(
        (path for path in found if path.suffix.lower() in _SUFFIXES),
        key=lambda path: (any(style in path.stem for style in ("Bold", "Italic", "Oblique")), path),
    )


def _lacking(font: Font, characters: frozenset[str]) -> set[str]:
    """Characters that the font draws as it draws what is no character."""
    box = _drawn(font, _NO_CHARACTER)
    return {character for character in characters if _drawn(font, character) == box}


def _drawn(font: Font, character: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(character)
    return mask.size, bytes(mask)
