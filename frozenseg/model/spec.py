"""What a model is, as plain data: the content of a model folder's `config.json`. Described in docs/model-folder.md."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from frozenseg.config import from_mapping, read_json, to_json_dict
from frozenseg.decoder.config import DecoderConfig
from frozenseg.encoders import OpenClipConfig, SamArchitecture
from frozenseg.errors import FormatVersionError, MissingPathError, UserInputError
from frozenseg.types import Vocabulary

FORMAT_VERSION = 1
CONFIG_FILE = "config.json"
DECODER_FILE = "decoder.safetensors"
CLIP_FILE = "clip.safetensors"
SAM_FILE = "sam.safetensors"
CARD_FILE = "MODEL_CARD.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipReference:
    """Which CLIP, and where its weights come from.

    Fields: architecture: an open_clip model name, or the numbers of one; source: `open_clip` (location is one of its
    pretrained tags), `file` (location is a path, relative ones start at the model folder) or `random` (location is the
    seed); sha256: of the file, or of the parameters for the other sources, empty when not known; known_token_ids: the
    token rows that a reduced text tower holds, empty for a whole one.
    """

    architecture: str | OpenClipConfig
    source: Literal["open_clip", "file", "random"]
    location: str
    sha256: str = ""
    known_token_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SamReference:
    """Which SAM, and where its weights come from.

    Fields: architecture: `vit_t`, `vit_b`, `vit_l`, `vit_h`, or the numbers of one; source: `official` (location is the
    name of a released file), `file` or `random`; location and sha256 as in :class:`ClipReference`.
    """

    architecture: str | SamArchitecture
    source: Literal["official", "file", "random"]
    location: str
    sha256: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """Everything about a model except tensors.

    Fields: name; clip; sam: None for a model without SAM (FC-CLIP); mask_sam: another SAM that only makes the masks of
    the OpenSeg ensemble, None to use `sam`; decoder; training_vocabulary: decides which categories are seen, None when
    nothing is known (all are unseen); inference: defaults of the inference options, key by key; sam_grid: of the
    settings of SAM's grid of points, where they differ from the published ones; decoder_is_random: the decoder was
    never trained; notes: free text for the model card.
    """

    name: str = "frozenseg"
    clip: ClipReference
    sam: SamReference | None = None
    mask_sam: SamReference | None = None
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    training_vocabulary: Vocabulary | None = None
    inference: dict[str, Any] = field(default_factory=dict)
    sam_grid: dict[str, Any] = field(default_factory=dict)
    decoder_is_random: bool = False
    notes: str = ""

    def __post_init__(self) -> None:
        uses_sam = bool(self.decoder.query_injector_layers or self.decoder.feature_injector_layers)
        if uses_sam and self.sam is None:
            raise UserInputError("the decoder has injectors, so the model needs `sam`; found none")

    @property
    def random_parts(self) -> tuple[str, ...]:
        """Names of the parts whose weights are random; empty for a usable model."""
        sams = [self.sam, self.mask_sam]
        parts = ["CLIP encoder"] if self.clip.source == "random" else []
        parts += ["SAM encoder"] if any(sam is not None and sam.source == "random" for sam in sams) else []
        return tuple(parts + (["decoder"] if self.decoder_is_random else []))

    @property
    def notice(self) -> str:
        """One line for every output of a model with random parts, else empty."""
        if not self.random_parts:
            return ""
        return f"RANDOM WEIGHTS: the {', '.join(self.random_parts)} of {self.name!r} never learnt; results mean nothing"


def write_spec(spec: ModelSpec, folder: Path) -> None:
    """Writes `config.json` into `folder` (the caller makes the folder appear atomically)."""
    content = {"format_version": FORMAT_VERSION, **to_json_dict(spec)}
    (folder / CONFIG_FILE).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_spec(folder: str | Path) -> ModelSpec:
    """Reads `config.json` of a model folder.

    Raises:
        MissingPathError: no such folder, or no config.json in it.
        FormatVersionError: written in another format version.
        UserInputError: an unknown, missing or wrong key.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MissingPathError(f"model folder {folder} does not exist")
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise MissingPathError(f"{folder} is not a model folder: it holds no {CONFIG_FILE}")
    content = read_json(path)
    version = content.pop("format_version", None)
    if version != FORMAT_VERSION:
        raise FormatVersionError(
            f"model folder {folder}: format version {version!r}, but this frozenseg reads version {FORMAT_VERSION}"
        )
    return from_mapping(content, ModelSpec, where=str(path))
