"""frozenseg: open-vocabulary segmentation with frozen CLIP and SAM encoders and a light trained mask decoder.

    import frozenseg
    segmenter = frozenseg.load("miniature")
    prediction = segmenter("photo.jpg", "cat; dog,puppy; sky(stuff)")
    result = prediction.panoptic()

Importing the package is cheap: torch and everything above it is imported when a model is first loaded.
"""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from frozenseg.inference.segmenter import Segmenter

__all__ = ["__version__", "load"]

try:
    __version__ = metadata.version("frozenseg")
except metadata.PackageNotFoundError:  # a checkout that was never installed
    __version__ = "0+unknown"


def load(name_or_folder: str | Path = "miniature", device: str = "auto", dtype: str = "float32") -> Segmenter:
    """A ready segmenter.

    Args:
        name_or_folder: a model folder, or "miniature", the small model inside the package.
        device: "cpu", "cuda", "mps", or "auto" for the best one there is.
        dtype: "float32", or "bfloat16" / "float16" for mixed precision.

    Raises:
        UserInputError: no such folder, a folder of another format version, weights that cannot be had.
    """
    from frozenseg.inference.loading import load_segmenter

    return load_segmenter(name_or_folder, device=device, dtype=dtype)
