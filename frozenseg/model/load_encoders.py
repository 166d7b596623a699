"""Encoder references -> frozen encoders with their weights."""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from frozenseg.encoders import (
    BpeTokenizer,
    OpenClipEncoder,
    SamImageEncoder,
    SubsetTokenizer,
    Tokenizer,
    build_clip,
    build_sam,
    open_clip_config,
    sam_preset,
)
from frozenseg.errors import MissingPathError, UserInputError
from frozenseg.model.official import local_clip, local_sam
from frozenseg.model.spec import ClipReference, SamReference

# The counters of TorchScript archives, no tensors of the model: OpenAI's own files hold them.
_OPENAI_COUNTERS = ("input_resolution", "context_length", "vocab_size")


def load_clip(reference: ClipReference, folder: Path) -> OpenClipEncoder:
    """The CLIP encoder that a reference means; relative files start at `folder`.

    Raises:
        UserInputError: the weights are missing, damaged, of another model, or not the ones the reference names.
    """
    architecture = reference.architecture
    config = open_clip_config(architecture) if isinstance(architecture, str) else architecture
    tokenizer: Tokenizer = BpeTokenizer(config.context_length)
    if reference.known_token_ids:
        tokenizer = SubsetTokenizer(BpeTokenizer(config.context_length), reference.known_token_ids)
    with seeded(int(reference.location) if reference.source == "random" else 0):
        encoder = build_clip(config, tokenizer)
    if reference.source == "file":
        _load_file(encoder.model, _resolve(reference.location, folder, reference.sha256), "CLIP")
    elif reference.source == "open_clip":
        load_into(encoder.model, _open_clip_state(config.name, reference.location, encoder.model), "CLIP")
        _check_parameters(encoder.weights_hash, reference.sha256, f"CLIP {config.name} {reference.location}")
    return encoder


def load_sam(reference: SamReference, folder: Path) -> SamImageEncoder:
    """The SAM encoder that a reference means. Raises as :func:`load_clip`."""
    architecture = reference.architecture
    numbers = sam_preset(architecture) if isinstance(architecture, str) else architecture
    with seeded(int(reference.location) if reference.source == "random" else 0):
        encoder = build_sam(numbers)
    if reference.source == "file":
        _load_file(encoder.sam, _resolve(reference.location, folder, reference.sha256), "SAM")
    elif reference.source == "official":
        _load_file(encoder.sam, local_sam(reference.location), "SAM")
        _check_parameters(encoder.weights_hash, reference.sha256, f"SAM {numbers.name}")
    return encoder


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors or PyTorch file; nothing of it is ever executed.

    Raises:
        MissingPathError, UserInputError: no such file; damaged, or something other than tensors by name.
    """
    if not path.is_file():
        raise MissingPathError(f"weights file {path} does not exist")
    try:
        if path.suffix == ".safetensors":
            tensors: object = safetensors.torch.load_file(path)
        elif _is_torchscript(path):
            tensors = _torchscript_tensors(path)
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, safetensors.SafetensorError, KeyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserInputError(f"weights file {path} cannot be read: {reason}") from error
    if isinstance(tensors, Mapping) and isinstance(tensors.get("state_dict"), Mapping):
        tensors = tensors["state_dict"]
    if not isinstance(tensors, Mapping) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise UserInputError(f"weights file {path}: expected tensors by name, found something else")
    return dict(tensors)


def load_into(module: nn.Module, tensors: Mapping[str, Tensor], what: str, *, assign: bool = False) -> None:
    """Copies tensors into `module`, half precision to its own; every name must fit. `assign` takes them over instead.

    Raises:
        UserInputError: missing, unknown or wrongly shaped tensors, the first ones named.
    """
    own = module.state_dict()
    problems = [f"{name} is missing" for name in own if name not in tensors]
    problems += [f"{name} is unknown" for name in tensors if name not in own]
    problems += [
        f"{name} has shape {tuple(tensors[name].shape)}, expected {tuple(own[name].shape)}"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserInputError(f"the {what} weights don't fit the model: {'; '.join(problems[:3])}{more}")
    converted = {name: tensor.to(own[name].dtype) for name, tensor in tensors.items()}
    module.load_state_dict(converted, assign=assign)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draws inside come from `seed` and leave the caller's generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def file_sha256(path: Path) -> str:
    """sha256 hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _resolve(location: str, folder: Path, sha256: str) -> Path:
    path = folder / location  # an absolute location stays what it is
    if not path.is_file():
        raise MissingPathError(f"weights file {path} does not exist")
    if sha256 and file_sha256(path) != sha256:
        raise UserInputError(f"weights file {path}: its sha256 is not the one that the model names ({sha256[:12]}...)")
    return path


def _load_file(module: nn.Module, path: Path, what: str) -> None:
    load_into(module, read_tensors(path), f"{what} ({path.name})")


def _check_parameters(found: str, expected: str, what: str) -> None:
    if expected and found != expected:
        raise UserInputError(
            f"the weights of {what} are not those the model was trained with: sha256 of the parameters "
            f"{found[:12]}..., expected {expected[:12]}..."
        )


def _open_clip_state(name: str, tag: str, model: nn.Module) -> dict[str, Tensor]:
    """The tensors of an open_clip tag: from our weights folder, else from open_clip's own download."""
    from open_clip.factory import convert_state_dict
    from open_clip.pretrained import download_pretrained, get_pretrained_cfg

    path = local_clip(name, tag)
    if path is None:
        config = get_pretrained_cfg(name, tag)
        if not config:
            raise UserInputError(f"open_clip knows no weights {tag!r} for {name!r}")
        try:
            path = Path(download_pretrained(config))
        except Exception as error:  # the hub's client raises a dozen unrelated classes when offline
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserInputError(
                f"the CLIP weights {name}/{tag} could not be downloaded ({reason}): offline? "
                "see `frozenseg weights list` and `frozenseg weights get --help`"
            ) from error
    return dict(convert_state_dict(model, read_tensors(path)))


def _is_torchscript(path: Path) -> bool:
    """OpenAI's own files are TorchScript archives, which hold code beside the tensors."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def _torchscript_tensors(path: Path) -> dict[str, Tensor]:
    state = torch.jit.load(str(path), map_location="cpu").state_dict()  # type: ignore[no-untyped-call]
    return {name: tensor for name, tensor in state.items() if name not in _OPENAI_COUNTERS}
