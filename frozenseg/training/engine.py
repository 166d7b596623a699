"""What the loop asks of an engine, and the plain PyTorch one (one process, or several under torch.distributed)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from frozenseg.training.parameters import parameter_groups
from frozenseg.types import DecoderOutput, EncoderFeatures, TextEmbeddings


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerSettings:
    """AdamW. Source of the defaults: FACTS, "Hyper-parameters", and parity/README, "Optimiser of e_train".

    Fields: learning_rate: of step 0; weight_decay: none on norms and embeddings; clip_norm: of the gradient of the
    whole model, 0 for none; betas, epsilon: AdamW's own.
    """

    learning_rate: float = 1e-4
    weight_decay: float = 0.05
    clip_norm: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EngineState:
    """All that an engine must remember, by parameter name, float32 on the CPU, whole: no trace of the number of workers
    or of the engine, so that any engine goes on from any other's.

    Fields: parameters; first_moments, second_moments: AdamW's, of the trainable parameters, zero before the first
    update; num_updates: AdamW's count of updates.
    """

    parameters: dict[str, Tensor]
    first_moments: dict[str, Tensor]
    second_moments: dict[str, Tensor]
    num_updates: int


class Engine(Protocol):
    """Runs a decoder: forward, backward, update, moving its state. All workers call every method at once."""

    @property
    def rank(self) -> int: ...
    @property
    def world_size(self) -> int: ...
    @property
    def device(self) -> torch.device: ...

    def forward(self, features: EncoderFeatures, text: TextEmbeddings) -> DecoderOutput: ...

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Adds this micro-batch's gradient; `last` says that `step` comes next, and workers average."""
        ...

    def step(self, learning_rate: float) -> float:
        """Clips, updates, forgets the gradient. Returns the norm of the gradient before clipping."""
        ...

    def zero_loss(self) -> Tensor:
        """A zero that every trainable parameter takes part in: the backward pass of a worker with nothing to say."""
        ...

    def save(self) -> EngineState:
        """The whole state, on every worker."""
        ...

    def load(self, state: EngineState) -> None: ...

    def sum_over_workers(self, values: Tensor) -> Tensor:
        """values [n] float64 on the CPU, summed over all workers."""
        ...

    def gather(self, value: Any) -> list[Any]:
        """Every worker's value, by rank."""
        ...


class Collectives:
    """The part of an engine that only needs torch.distributed, or nothing in a single process."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._distributed = dist.is_available() and dist.is_initialized()

    @property
    def rank(self) -> int:
        return dist.get_rank() if self._distributed else 0

    @property
    def world_size(self) -> int:
        return dist.get_world_size() if self._distributed else 1

    @property
    def device(self) -> torch.device:
        return self._device

    def sum_over_workers(self, values: Tensor) -> Tensor:
        if not self._distributed:
            return values
        moved = values.to(self._device)
        dist.all_reduce(moved)
        return moved.cpu()

    def gather(self, value: Any) -> list[Any]:
        if not self._distributed:
            return [value]
        gathered: list[Any] = [None] * self.world_size
        dist.all_gather_object(gathered, value)
        return gathered


class TorchEngine(Collectives):
    """AdamW on one process, or on several with averaged gradients when torch.distributed is up (torchrun, Ray Train).

    Args: module: takes (features, text); settings: of the optimizer; autocast: dtype of mixed precision, None for
    float32 throughout; accumulation: micro-batches per update, which the gradient is the mean of.
    """

    def __init__(
        self,
        module: nn.Module,
        settings: OptimizerSettings,
        *,
        device: torch.device | str = "cpu",
        autocast: torch.dtype | None = None,
        accumulation: int = 1,
    ) -> None:
        super().__init__(torch.device(device))
        self.module = module.to(self._device).train()
        self._settings = settings
        self._autocast = autocast
        self._accumulation = accumulation
        groups = parameter_groups(module, settings.weight_decay)
        self._trained = {name: p for group in groups for name, p in group.parameters.items()}
        self.optimizer = torch.optim.AdamW(
            [{"params": list(g.parameters.values()), "weight_decay": g.weight_decay} for g in groups],
            lr=settings.learning_rate,
            betas=settings.betas,
            eps=settings.epsilon,
        )
        self._num_updates = 0
        if self.world_size > 1:
            for value in (*module.parameters(), *module.buffers()):
                dist.broadcast(value.data, src=0)

    def forward(self, features: EncoderFeatures, text: TextEmbeddings) -> DecoderOutput:
        with torch.autocast(self._device.type, self._autocast, enabled=self._autocast is not None):
            output: DecoderOutput = self.module(features.to(self._device), text)
        return output

    def backward(self, loss: Tensor, *, last: bool) -> None:
        torch.autograd.backward(loss / self._accumulation)
        if last and self.world_size > 1:
            self._average_gradients()

    def _average_gradients(self) -> None:
        """One flat reduction: the decoder is small, and hooks per parameter would buy nothing."""
        for parameter in self._trained.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in self._trained.values() if parameter.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.world_size
        for gradient, part in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def step(self, learning_rate: float) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        limit = self._settings.clip_norm or float("inf")
        norm = float(torch.nn.utils.clip_grad_norm_(self._trained.values(), limit))
        if torch.isfinite(torch.tensor(norm)):
            self.optimizer.step()
            self._num_updates += 1
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def zero_loss(self) -> Tensor:
        return torch.stack([parameter.sum() for parameter in self._trained.values()]).sum() * 0

    def save(self) -> EngineState:
        moments = {
            key: {name: self._moment(parameter, key) for name, parameter in self._trained.items()}
            for key in ("exp_avg", "exp_avg_sq")
        }
        return EngineState(
            parameters={name: value.detach().float().cpu().clone() for name, value in self.module.state_dict().items()},
            first_moments=moments["exp_avg"],
            second_moments=moments["exp_avg_sq"],
            num_updates=self._num_updates,
        )

    def _moment(self, parameter: nn.Parameter, key: str) -> Tensor:
        state = self.optimizer.state.get(parameter, {})
        value = state.get(key)
        return torch.zeros_like(parameter, device="cpu") if value is None else value.detach().float().cpu().clone()

    def load(self, state: EngineState) -> None:
        self.module.load_state_dict(state.parameters)
        for name, parameter in self._trained.items():
            self.optimizer.state[parameter] = {
                "step": torch.tensor(float(state.num_updates)),
                # clone: the optimizer updates its moments in place, and the caller's are not its own
                "exp_avg": state.first_moments[name].to(parameter).clone(),
                "exp_avg_sq": state.second_moments[name].to(parameter).clone(),
            }
        self._num_updates = state.num_updates
