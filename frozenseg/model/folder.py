"""Model folders: written whole or not at all, read back to an equal model. The format: docs/model-folder.md."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import safetensors.torch
import torch
from torch import nn

from frozenseg.errors import MissingPathError, UserInputError
from frozenseg.model.build import build_model
from frozenseg.model.card import model_card
from frozenseg.model.frozenseg import FrozenSeg
from frozenseg.model.load_encoders import file_sha256, load_into, read_tensors
from frozenseg.model.spec import (
    CARD_FILE,
    CLIP_FILE,
    CONFIG_FILE,
    DECODER_FILE,
    SAM_FILE,
    ClipReference,
    SamReference,
    read_spec,
    write_spec,
)

MASK_SAM_FILE = "mask_sam.safetensors"
Reference = TypeVar("Reference", ClipReference, SamReference)


def save_model(
    model: FrozenSeg, folder: str | Path, *, embed_encoders: bool = False, half: bool = False, notes: str = ""
) -> None:
    """Writes a model folder; an existing model folder of that name is replaced in one step.

    Args:
        model: its decoder's weights are stored in float32.
        folder: written beside its place first and renamed, so that it is never seen half-written.
        embed_encoders: store the encoders' weights too. Encoders whose reference is a file relative to another folder
            are always stored, because the reference would point nowhere.
        half: store embedded encoders in float16; they are loaded to float32, and the model that is read back has
            float16's values.
        notes: free text for the model card, kept in the spec.

    Raises:
        UserInputError: `folder` exists and is no model folder.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / CONFIG_FILE).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserInputError(f"{folder} exists and is no model folder; it is left as it is")
    spec = dataclasses.replace(model.spec, notes=notes) if notes else model.spec
    with _appears_whole(folder) as new:
        writer = _EncoderWriter(folder=new, embed=embed_encoders, half=half)
        spec = dataclasses.replace(
            spec,
            clip=writer.write(spec.clip, model.clip.model, CLIP_FILE),
            sam=writer.write(spec.sam, model.sam.sam, SAM_FILE) if spec.sam and model.sam else None,
            mask_sam=writer.write(spec.mask_sam, model.mask_sam.sam, MASK_SAM_FILE)
            if spec.mask_sam and model.mask_sam
            else None,
        )
        _write_tensors(model.decoder, new / DECODER_FILE, half=False)
        write_spec(spec, new)
        (new / CARD_FILE).write_text(model_card(spec, model), encoding="utf-8")


def load_model(folder: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> FrozenSeg:
    """Reads a model folder back; the model is in eval mode.

    Args:
        folder: written by :func:`save_model`.
        device: where the model lives.
        dtype: of autocast; parameters stay float32.

    Raises:
        MissingPathError, FormatVersionError, UserInputError: what is missing, of another version or wrong, named.
    """
    folder = Path(folder)
    spec = read_spec(folder)
    weights = folder / DECODER_FILE
    if not weights.is_file():
        raise MissingPathError(f"model folder {folder}: {DECODER_FILE} is missing")
    tensors = read_tensors(weights)
    model = build_model(spec, folder=folder, dtype=dtype)
    load_into(model.decoder, tensors, f"decoder ({weights})")
    return model.to(device).eval()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _EncoderWriter:
    """Stores an encoder in the new folder where that is asked for or needed, and says how it is then referred to."""

    folder: Path
    embed: bool
    half: bool

    def write(self, reference: Reference, module: nn.Module, file_name: str) -> Reference:
        is_relative_file = reference.source == "file" and not Path(reference.location).is_absolute()
        if not is_relative_file and (not self.embed or reference.source == "random"):
            return reference
        path = self.folder / file_name
        _write_tensors(module, path, self.half)
        return dataclasses.replace(reference, source="file", location=file_name, sha256=file_sha256(path))


def _write_tensors(module: nn.Module, path: Path, half: bool) -> None:
    tensors: dict[str, torch.Tensor] = {}
    storages: set[int] = set()
    for name, tensor in module.state_dict().items():
        dtype = torch.float16 if half and tensor.is_floating_point() else tensor.dtype
        stored = tensor.detach().to("cpu", dtype).contiguous()
        if stored.untyped_storage().data_ptr() in storages:
            stored = stored.clone()  # the file format refuses two names with one storage
        storages.add(stored.untyped_storage().data_ptr())
        tensors[name] = stored
    safetensors.torch.save_file(tensors, path)


@contextmanager
def _appears_whole(folder: Path) -> Iterator[Path]:
    """A new sibling folder that takes the place of `folder` when the block succeeds and vanishes when it fails."""
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield new
        new.chmod(0o755)
        for path in new.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        if folder.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
            os.replace(folder, old / "model")
            os.replace(new, folder)
            shutil.rmtree(old)
        else:
            os.replace(new, folder)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
