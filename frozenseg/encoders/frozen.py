"""Frozen means frozen: the base of every encoder, and the digest that names its weights."""

from __future__ import annotations

import hashlib
from typing import Self

import torch
from torch import Tensor, nn


def tensors_hash(module: nn.Module) -> str:
    """sha256 hex digest over names, shapes, dtypes and bytes of the parameters and persistent buffers, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}|{tuple(tensor.shape)}|{tensor.dtype}|".encode())
        digest.update(tensor.detach().reshape(-1).contiguous().view(torch.uint8).cpu().numpy().data)
    return digest.hexdigest()


class FrozenModule(nn.Module):
    """A module that never trains: no parameter asks for a gradient, and `train()` leaves it in eval mode.

    Sub-classes assign their networks and then call `freeze()`. Batch norms therefore keep their statistics, and an
    optimizer that was given the parameters by mistake finds no gradient to apply.
    """

    def __init__(self) -> None:
        super().__init__()
        self._hash: tuple[tuple[tuple[int, int], ...], str] | None = None

    def freeze(self) -> None:
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:  # noqa: ARG002
        """Stays in eval mode whatever `mode` says, so that `model.train()` on an owner cannot thaw it."""
        return super().train(False)

    @property
    def weights_hash(self) -> str:
        """sha256 hex digest of the parameters and buffers; computed again only when one of them was changed."""
        tensors: list[Tensor] = [*self.parameters(), *self.buffers()]
        # A tensor's storage address and version counter change whenever its values may have: a cheap, safe cache key.
        # Tensors made in inference mode cannot be changed outside it and count no versions.
        state = tuple((t.data_ptr(), -1 if t.is_inference() else t._version) for t in tensors)
        if self._hash is None or self._hash[0] != state:
            self._hash = (state, tensors_hash(self))
        return self._hash[1]

    @property
    def compute_dtype(self) -> torch.dtype:
        """dtype that features come out in: autocast's where it is on, else the weights'."""
        parameter = next(self.parameters())
        device_type = parameter.device.type
        if torch.is_autocast_enabled(device_type):
            return torch.get_autocast_dtype(device_type)
        return parameter.dtype

    @property
    def weights_device(self) -> torch.device:
        return next(self.parameters()).device
