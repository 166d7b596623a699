"""`review.html`: a contact sheet of the corpus in one file that needs nothing else, no server and no network.

Small rows with what filters need are read at once when the page opens; thumbnails lie in blocks of text, of which only
those on the page in view are looked at. Hence pages stay quick with 100,000 images.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from frozenseg.inference.palette import category_colors
from frozenseg.types import Vocabulary
from pipelines.labeling.quality import read_quality
from shards import Storage

REVIEW_NAME = "review.html"
_PAGE = Path(__file__).with_name("review_page.html")
_DATA_MARK = "<!-- data -->"


def write_review(
    storage: Storage, parts: Sequence[int], vocabulary: Vocabulary, shown: frozenset[int], notice: str
) -> None:
    """Streams the sheet; one part is in memory at a time.

    Args:
        shown: numbers of the images that it shows.
    """
    head, _, tail = _PAGE.read_text(encoding="utf-8").partition(_DATA_MARK)
    colors = ["#{:02x}{:02x}{:02x}".format(*color) for color in category_colors(vocabulary)]
    about = {"categories": [c.name for c in vocabulary.categories], "colors": colors, "notice": notice}
    with storage.writing(REVIEW_NAME) as file:
        file.write(head.encode())
        _write_data(file, "about", json.dumps(about))
        for part in parts:
            rows = read_quality(storage, part, thumbnails=True)
            rows = [row for row in rows if row["number"] in shown]
            if rows:
                _write_data(file, "rows", json.dumps([_compact(row) for row in rows], separators=(",", ":")))
                pictures = "\n".join(base64.b64encode(row["thumbnail"]).decode() for row in rows)
                _write_data(file, "pictures", pictures)
        file.write(tail.encode())


def _compact(row: dict[str, Any]) -> list[Any]:
    """[id, file name, uncertainty, [category, score in thousandths, area, category, ...]]."""
    segments = [
        value
        for segment in row["segments"]
        for value in (segment["category"], round(1000 * segment["score"]), segment["area"])
    ]
    return [row["image_id"], row["file_name"], round(row["uncertainty"], 4), segments]


def _write_data(file: BinaryIO, kind: str, text: str) -> None:
    # A file may be called </script>; within JSON the slash may be escaped, and base64 has no "<".
    safe = text.replace("</", "<\\/").replace("<!--", "<\\u0021--")
    file.write(f'<script type="text/plain" data-kind="{kind}">{safe}</script>\n'.encode())
