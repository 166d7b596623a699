"""Where the encoders' official weights come from, and where they lie on this machine.

Only facts that are certain are stated: an empty hash means that none is published. The six hexadecimal digits in SAM's
file names begin the files' MD5, and OpenAI's addresses hold the files' SHA-256.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from frozenseg.config import suggestion
from frozenseg.errors import UserInputError

WEIGHTS_VARIABLE = "FROZENSEG_WEIGHTS"


@dataclass(frozen=True, slots=True, kw_only=True)
class OfficialWeights:
    """One downloadable file.

    Fields: name: what the command line calls it; kind; architecture: of open_clip or of SAM; tag: open_clip's
    pretrained tag, empty for SAM; file_name: under which it is kept; url; num_bytes: 0 when not known for certain;
    hash_name, hash_prefix: the published digest or its beginning; licence.
    """

    name: str
    kind: Literal["clip", "sam"]
    architecture: str
    tag: str
    file_name: str
    url: str
    num_bytes: int
    hash_name: Literal["md5", "sha256", ""]
    hash_prefix: str
    licence: str


_SAM = "https://dl.fbaipublicfiles.com/segment_anything/"
_OPENAI = "https://openaipublic.azureedge.net/clip/models/"
_HUB = "https://huggingface.co/laion/{}/resolve/main/open_clip_pytorch_model.bin"
_APACHE = "Apache-2.0"
_MIT = "MIT"


def _sam(name: str, file_name: str, num_bytes: int) -> OfficialWeights:
    return OfficialWeights(
        name=f"sam-{name.replace('_', '-')}", kind="sam", architecture=name, tag="", file_name=file_name,
        url=_SAM + file_name, num_bytes=num_bytes, hash_name="md5",
        hash_prefix=file_name.rsplit("_", 1)[1].split(".")[0], licence=_APACHE,
    )  # fmt: skip


def _openai(name: str, sha256: str) -> OfficialWeights:
    return OfficialWeights(
        name=f"clip-{name}", kind="clip", architecture=f"{name}-quickgelu", tag="openai", file_name=f"clip-{name}.pt",
        url=f"{_OPENAI}{sha256}/{name}.pt", num_bytes=0, hash_name="sha256", hash_prefix=sha256, licence=_MIT,
    )  # fmt: skip


def _laion(architecture: str, tag: str, repository: str) -> OfficialWeights:
    return OfficialWeights(
        name=f"clip-{architecture}", kind="clip", architecture=architecture, tag=tag,
        file_name=f"clip-{architecture}-{tag}.bin", url=_HUB.format(repository), num_bytes=0, hash_name="",
        hash_prefix="", licence=_MIT,
    )  # fmt: skip


OFFICIAL_WEIGHTS = (
    _laion(
        "convnext_large_d_320",
        "laion2b_s29b_b131k_ft_soup",
        "CLIP-convnext_large_d_320.laion2B-s29B-b131K-ft-soup",
    ),
    _laion(
        "convnext_base_w_320",
        "laion_aesthetic_s13b_b82k_augreg",
        "CLIP-convnext_base_w_320-laion_aesthetic-s13B-b82K-augreg",
    ),
    _laion("convnext_xxlarge", "laion2b_s34b_b82k_augreg_soup", "CLIP-convnext_xxlarge-laion2B-s34B-b82K-augreg-soup"),
    _openai("RN50", "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762"),
    _openai("RN50x64", "be1cfb55d75a9666199fb2206c106743da0f6468c9d327f3e0d0a543a9919d9c"),
    _sam("vit_b", "sam_vit_b_01ec64.pth", 375_042_383),
    _sam("vit_l", "sam_vit_l_0b3195.pth", 0),
    _sam("vit_h", "sam_vit_h_4b8939.pth", 0),
    OfficialWeights(
        name="sam-vit-t", kind="sam", architecture="vit_t", tag="", file_name="mobile_sam.pt",
        url="https://github.com/ChaoningZhang/MobileSAM/raw/master/weights/mobile_sam.pt", num_bytes=0, hash_name="",
        hash_prefix="", licence=_APACHE,
    ),
)  # fmt: skip


def official(name: str) -> OfficialWeights:
    """The file that the command line calls `name`.

    Raises:
        UserInputError: no such name; the nearest one is named.
    """
    for entry in OFFICIAL_WEIGHTS:
        if entry.name == name:
            return entry
    names = [entry.name for entry in OFFICIAL_WEIGHTS]
    raise UserInputError(f"no official weights {name!r}{suggestion(name, names) or '; known: ' + ', '.join(names)}")


def weights_folder() -> Path:
    """Where downloaded weights lie: the environment variable FROZENSEG_WEIGHTS, else a folder of the user's cache."""
    named = os.environ.get(WEIGHTS_VARIABLE)
    return Path(named) if named else Path.home() / ".cache" / "frozenseg" / "weights"


def local_clip(architecture: str, tag: str) -> Path | None:
    """The downloaded file of an open_clip model and tag, if it is there."""
    for entry in OFFICIAL_WEIGHTS:
        if entry.kind == "clip" and (entry.architecture, entry.tag) == (architecture, tag):
            path = weights_folder() / entry.file_name
            return path if path.is_file() else None
    return None


def local_sam(file_name: str) -> Path:
    """Where an official SAM file must lie.

    Raises:
        UserInputError: it isn't there; says how to get it.
    """
    path = weights_folder() / file_name
    if path.is_file():
        return path
    entry = next((entry for entry in OFFICIAL_WEIGHTS if entry.file_name == file_name), None)
    how = f"run `frozenseg weights get {entry.name}`" if entry else "no official source is known for it"
    raise UserInputError(f"the SAM weights {file_name} are not in {weights_folder()}: {how}, or set {WEIGHTS_VARIABLE}")
