"""From a ModelSpec to a model: the one place where architectures and weights come together."""

from __future__ import annotations

import dataclasses
import enum
import warnings
from pathlib import Path

import torch

from frozenseg.decoder import MaskDecoder
from frozenseg.encoders import OpenClipEncoder, SamImageEncoder
from frozenseg.errors import UserInputError
from frozenseg.model.frozenseg import FrozenSeg
from frozenseg.model.load_encoders import load_clip, load_sam, seeded
from frozenseg.model.spec import ModelSpec, SamReference


class RandomWeightsWarning(UserWarning):
    """A model was built whose weights, or some of them, are random."""


class WeightsSource(enum.Enum):
    """REFERENCE: the encoders' weights are those the spec refers to. RANDOM: random ones, and every output says so."""

    REFERENCE = "reference"
    RANDOM = "random"


def build_model(
    spec: ModelSpec,
    *,
    folder: str | Path = ".",
    weights: WeightsSource = WeightsSource.REFERENCE,
    decoder_seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> FrozenSeg:
    """A model with its encoders' weights and a freshly initialised decoder.

    Args:
        spec: what to build.
        folder: where relative file names of the spec start.
        weights: RANDOM replaces every encoder reference by a random one.
        decoder_seed: of the decoder's initial values.
        device: where the model lives.
        dtype: of autocast; parameters stay float32.

    Raises:
        UserInputError: weights that cannot be had or don't fit, named.

    Warns:
        RandomWeightsWarning: an encoder is random.
    """
    if weights is WeightsSource.RANDOM:
        spec = with_random_encoders(spec)
    if spec.notice:
        warnings.warn(spec.notice, RandomWeightsWarning, stacklevel=2)
    root = Path(folder)
    clip = load_clip(spec.clip, root)
    sam = load_sam(spec.sam, root) if spec.sam is not None else None
    mask_sam = load_sam(spec.mask_sam, root) if spec.mask_sam is not None else None
    _check_numbers(spec, clip, sam)
    with seeded(decoder_seed):
        decoder = MaskDecoder(spec.decoder)
    return FrozenSeg(clip, sam, decoder, spec, compute_dtype=dtype, mask_sam=mask_sam).to(device)


def with_random_encoders(spec: ModelSpec, seed: int = 0) -> ModelSpec:
    """The same model with random encoders, equal for equal seeds."""

    def randomised(sam: SamReference | None) -> SamReference | None:
        return dataclasses.replace(sam, source="random", location=str(seed), sha256="") if sam is not None else None

    clip = dataclasses.replace(spec.clip, source="random", location=str(seed), sha256="")
    return dataclasses.replace(spec, clip=clip, sam=randomised(spec.sam), mask_sam=randomised(spec.mask_sam))


def _check_numbers(spec: ModelSpec, clip: OpenClipEncoder, sam: SamImageEncoder | None) -> None:
    """The decoder's input sizes must be its encoders' output sizes."""
    config = spec.decoder
    pairs = [
        ("clip_channels", config.clip_channels, clip.pyramid_channels),
        ("embedding_dim", config.embedding_dim, clip.embedding_dim),
        ("sam_channels", config.sam_channels, sam.out_channels if sam is not None else 0),
    ]
    for name, wanted, found in pairs:
        if wanted != found:
            raise UserInputError(f"decoder.{name} is {wanted}, but the encoders of {spec.name!r} give {found}")
