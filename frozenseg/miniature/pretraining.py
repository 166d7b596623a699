"""What both pre-trainings share: a pool of scenes in memory, batches from it, learning rate, resumable checkpoints."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from frozenseg.miniature.encoders import IMAGE_SIZE
from frozenseg.miniature.world import SCENE_SIZE, make_scene

MAX_SEGMENTS = 10


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScenePool:
    """Scenes after JPEG. images [N,3,128,128] uint8; segment_ids [N,128,128] uint8, 0 = void; categories [N,11] int64:
    category of each segment id in the full vocabulary, -1 where there is no such segment."""

    images: Tensor
    segment_ids: Tensor
    categories: Tensor

    @classmethod
    def make(cls, seed: int, count: int) -> ScenePool:
        images = torch.empty(count, 3, SCENE_SIZE, SCENE_SIZE, dtype=torch.uint8)
        segment_ids = torch.empty(count, SCENE_SIZE, SCENE_SIZE, dtype=torch.uint8)
        categories = torch.full((count, MAX_SEGMENTS + 1), -1, dtype=torch.int64)
        for index in range(count):
            scene = make_scene(seed, index)
            images[index] = torch.from_numpy(scene.photograph().copy()).permute(2, 0, 1)
            segment_ids[index] = torch.from_numpy(scene.segment_ids.astype(np.uint8))
            for segment in scene.segments:
                categories[index, segment.id] = segment.category_id
        return cls(images=images, segment_ids=segment_ids, categories=categories)

    def batch(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """`size` scenes in one of eight orientations, sometimes zoomed in.

        Returns:
            images [B,3,256,256] float in 0..255; segment_ids [B,128,128] int64; categories [B,11] int64.
        """
        picked = torch.randint(len(self.images), (size,), generator=generator)
        images, ids = self.images[picked].float(), self.segment_ids[picked].long()
        if torch.rand((), generator=generator) < 0.5:
            side = int(torch.randint(96, SCENE_SIZE, (), generator=generator))
            top, left = (int(torch.randint(0, SCENE_SIZE - side + 1, (), generator=generator)) for _ in range(2))
            images = images[:, :, top : top + side, left : left + side]
            window = ids[:, None, top : top + side, left : left + side].float()
            ids = F.interpolate(window, size=(SCENE_SIZE, SCENE_SIZE), mode="nearest")[:, 0].long()
        quarter = int(torch.randint(4, (), generator=generator))
        images, ids = images.rot90(quarter, (-2, -1)), ids.rot90(quarter, (-2, -1))
        if torch.rand((), generator=generator) < 0.5:
            images, ids = images.flip(-1), ids.flip(-1)
        images = F.interpolate(images, size=(IMAGE_SIZE, IMAGE_SIZE), mode="bilinear", align_corners=False)
        return images, ids.contiguous(), self.categories[picked]


def learning_rate_factor(step: int, num_steps: int, warmup: int, decay_from: float) -> float:
    """Linear warm-up over `warmup` steps, constant, then linear to 0 from the share `decay_from` of all steps on."""
    start = decay_from * num_steps
    return min(1.0, (step + 1) / max(warmup, 1), max(0.0, (num_steps - step) / max(num_steps - start, 1)))


def train_steps(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_of: Callable[[int, torch.Generator], Tensor],
    factor_of: Callable[[int], float],
    *,
    num_steps: int,
    seed: int,
    checkpoint: Path,
    report: Callable[[int, float], None],
    every: int = 100,
) -> None:
    """Runs `num_steps` steps, writing `checkpoint` every `every` steps; continues from it when it exists.

    The random numbers of a step depend on (seed, step) alone, so that a resumed run is the run it continues.
    """
    first = _resume(model, optimizer, checkpoint)
    base_rates = [float(group["initial_lr"]) for group in optimizer.param_groups]
    running = 0.0
    for step in range(first, num_steps):
        factor = factor_of(step)
        for group, rate in zip(optimizer.param_groups, base_rates, strict=True):
            group["lr"] = rate * factor
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        loss = loss_of(step, generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
        optimizer.step()
        running += float(loss.detach())
        if (step + 1) % every == 0 or step + 1 == num_steps:
            report(step + 1, running / ((step % every) + 1))
            running = 0.0
            _save(model, optimizer, checkpoint, step + 1)


def make_optimizer(model: nn.Module, rate: float, weight_decay: float, plain: tuple[str, ...]) -> torch.optim.AdamW:
    """AdamW without decay on vectors and on parameters whose name holds one of `plain`."""
    decayed: list[Tensor] = []
    others: list[Tensor] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (others if parameter.ndim < 2 or any(p in name for p in plain) else decayed).append(parameter)
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}], lr=rate
    )
    for group in optimizer.param_groups:
        group["initial_lr"] = rate
    return optimizer


def _save(model: nn.Module, optimizer: torch.optim.Optimizer, path: Path, step: int) -> None:
    write_state({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, path)


def write_state(state: dict[str, Any], path: Path) -> None:
    """Writes a state of tensors and numbers for `torch.load(path, weights_only=True)`, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)


def _resume(model: nn.Module, optimizer: torch.optim.Optimizer, path: Path) -> int:
    if not path.exists():
        return 0
    state: dict[str, Any] = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])
