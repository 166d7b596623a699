"""Builds SAM encoders from numbers. Nothing here reads weights or touches the network."""

from __future__ import annotations

import torch

from frozenseg.encoders.sam import SamArchitecture, SamImageEncoder, VitSam, assemble_sam, build_vit
from frozenseg.encoders.tiny_vit import STRIDE, TinyVit, TinyVitSam
from frozenseg.errors import UserInputError


def build_sam(architecture: SamArchitecture, *, device: torch.device | str = "cpu") -> SamImageEncoder:
    """A frozen SAM encoder with random weights; load real ones with `encoder.sam.load_state_dict`.

    Args:
        architecture: its numbers, e.g. `sam_preset("vit_b")`.
        device: where the parameters are made; `"meta"` makes none.

    Raises:
        UserInputError: a `tiny_vit` whose patch size isn't the 16 that its strides amount to.
    """
    if architecture.trunk == "tiny_vit" and architecture.patch_size != STRIDE:
        raise UserInputError(
            f"SAM {architecture.name}: a tiny_vit has patch_size {STRIDE}; found {architecture.patch_size}"
        )
    with torch.device(device):
        if architecture.trunk == "tiny_vit":
            trunk = TinyVit(architecture.img_size, architecture.out_channels)
            return TinyVitSam(assemble_sam(trunk, architecture), architecture)
        return VitSam(assemble_sam(build_vit(architecture), architecture), architecture)
