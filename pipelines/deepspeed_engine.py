"""DeepSpeed behind the library's Engine protocol: ZeRO 0 to 3, state saved whole and by name.

The state does not go through DeepSpeed's own checkpoints: those belong to a number of workers and a ZeRO stage, while
`EngineState` belongs to neither, so a run goes on at any other of both, or with the plain engine.
"""

from __future__ import annotations

import logging
import math
import os
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from frozenseg.training import Collectives, EngineState, OptimizerSettings, parameter_groups
from frozenseg.types import DecoderOutput, DecoderPrediction, EncoderFeatures, TextEmbeddings

ZeroStage = Literal[0, 1, 2, 3]
MOMENTS = ("exp_avg", "exp_avg_sq")


def import_deepspeed() -> Any:
    """DeepSpeed, told to use the CPU where there is no GPU, and not to compile anything.

    On a CPU it would build an extension for shared-memory communication on first use: that needs a compiler, takes a
    minute, and a build that is killed leaves a lock behind on which every later run waits for ever. gloo does without.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    return deepspeed


class _Gathered(nn.Module):
    """The decoder as ZeRO 3 can take it: one "leaf", gathered whole, because its modules read each other's parameters.

    The output is a tuple of mask and class logits, final first: ZeRO 3 gathers the parameters again for the backward
    pass at hooks on a module's output tensors, which it only finds in tuples and dicts. It reduces and frees a leaf's
    gradients when the gradient of the leaf's input is there. Frozen features need none, so that would be at once,
    before any gradient: `anchor`, a zero that asks for its gradient, is the input that autograd comes to last.
    """

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, features: EncoderFeatures, text: TextEmbeddings, anchor: Tensor) -> tuple[Tensor, ...]:
        output: DecoderOutput = self.decoder(features, text)
        rest = (tensor for p in output.auxiliary for tensor in (p.mask_logits, p.class_logits))
        return output.mask_logits, output.class_logits + anchor * 0, *rest


class DeepSpeedEngine(Collectives):
    """Needs torch.distributed to be up, with one worker too.

    Args: module: takes (features, text); settings: of AdamW; micro_batch_size: images per worker and micro-batch, which
    DeepSpeed only checks its arithmetic with; zero_stage: what is partitioned (1: optimizer state, 2: gradients too,
    3: parameters too); autocast, accumulation: as for `TorchEngine`.
    """

    def __init__(
        self,
        module: nn.Module,
        settings: OptimizerSettings,
        *,
        micro_batch_size: int,
        zero_stage: ZeroStage = 1,
        device: torch.device | str = "cpu",
        autocast: torch.dtype | None = None,
        accumulation: int = 1,
    ) -> None:
        super().__init__(torch.device(device))
        deepspeed = import_deepspeed()
        groups = parameter_groups(module, settings.weight_decay)
        self._trained = {name: p for group in groups for name, p in group.parameters.items()}
        self._autocast, self._zero_stage = autocast, zero_stage
        self._shapes = {name: parameter.shape for name, parameter in self._trained.items()}
        for parameter in self._trained.values():
            if parameter.dim() == 0:  # DeepSpeed sends parameters as bytes, which a scalar has no view of
                parameter.data = parameter.data.reshape(1)
        # An instance of torch's AdamW: by name, DeepSpeed compiles a fused one first, which takes a minute.
        optimizer = torch.optim.AdamW(
            [{"params": list(g.parameters.values()), "weight_decay": g.weight_decay} for g in groups],
            lr=settings.learning_rate,
            betas=settings.betas,
            eps=settings.epsilon,
        )
        config = {
            "train_micro_batch_size_per_gpu": micro_batch_size,
            "gradient_accumulation_steps": accumulation,
            "gradient_clipping": settings.clip_norm,
            "zero_optimization": {"stage": zero_stage},
            "zero_allow_untested_optimizer": True,
            "steps_per_print": 10**9,
        }
        self._module = module.train()
        model = _Gathered(module) if zero_stage == 3 else module
        if zero_stage == 3:
            deepspeed.utils.set_z3_leaf_modules(model, [_Gathered])
        self._engine, *_ = deepspeed.initialize(
            model=model, optimizer=optimizer, config=config, dist_init_required=False
        )
        self._clip_norm = settings.clip_norm
        self._num_updates = 0

    def forward(self, features: EncoderFeatures, text: TextEmbeddings) -> DecoderOutput:
        with torch.autocast(self.device.type, self._autocast, enabled=self._autocast is not None):
            if self._zero_stage < 3:
                whole: DecoderOutput = self._engine(features.to(self.device), text)
                return whole
            anchor = torch.zeros((), device=self.device, requires_grad=True)
            tensors: tuple[Tensor, ...] = self._engine(features.to(self.device), text, anchor)
        first, *auxiliary = (
            DecoderPrediction(mask_logits=masks, class_logits=classes)
            for masks, classes in zip(tensors[::2], tensors[1::2], strict=True)
        )
        return DecoderOutput(mask_logits=first.mask_logits, class_logits=first.class_logits, auxiliary=tuple(auxiliary))

    def backward(self, loss: Tensor, *, last: bool) -> None:
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss)
        if not last:
            self._engine.step()  # not at a boundary: only counts

    def step(self, learning_rate: float) -> float:
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        norm = self._plain_norm() if self._zero_stage == 0 else None
        if norm is not None and not math.isfinite(norm):
            self._engine.optimizer.zero_grad()  # stages 1 to 3 skip such an update by themselves
            return norm
        self._engine.set_gradient_accumulation_boundary(True)
        self._engine.step()
        norm = float(self._engine.get_global_grad_norm()) if norm is None else norm
        self._num_updates += math.isfinite(norm)
        return norm

    def _plain_norm(self) -> float:
        """Stage 0 averages the gradients before `step`, and reports no norm of its own."""
        gradients = [parameter.grad for parameter in self._trained.values() if parameter.grad is not None]
        return float(torch.nn.utils.get_total_norm(gradients))

    def zero_loss(self) -> Tensor:
        return torch.stack([parameter.sum() for parameter in self._trained.values()]).sum() * 0

    def save(self) -> EngineState:
        if self._num_updates:
            self._link_moments()
        # Every parameter of the decoder trains; buffers, which nothing partitions, come from the module.
        parameters = {name: self._full(name, None) for name in self._trained}
        buffers = {name: value.detach().cpu().clone() for name, value in self._module.named_buffers()}
        kept = set(self._module.state_dict()) if self._zero_stage < 3 else set(parameters) | set(buffers)
        moments: dict[str, dict[str, Tensor]] = {
            key: {name: self._full(name, key) for name in self._trained} for key in MOMENTS
        }
        return EngineState(
            parameters={name: value for name, value in (parameters | buffers).items() if name in kept},
            first_moments=moments["exp_avg"],
            second_moments=moments["exp_avg_sq"],
            num_updates=self._num_updates,
        )

    def _full(self, name: str, key: str | None) -> Tensor:
        """A parameter (key None) or its moment, whole, float32, in memory of its own."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        parameter, shape = self._trained[name], self._shapes[name]
        if key is not None and self._num_updates == 0:
            return torch.zeros(shape)
        if self._zero_stage == 0:
            value = parameter if key is None else self._engine.optimizer.state[parameter][key]
        elif key is None:
            value = safe_get_full_fp32_param(parameter)
        else:
            value = safe_get_full_optimizer_state(parameter, key)
        return value.detach().float().cpu().reshape(shape).clone()

    def load(self, state: EngineState) -> None:
        self._load_module(state)
        self._make_moments(state.num_updates)
        sources = {"exp_avg": state.first_moments, "exp_avg_sq": state.second_moments}
        for name, parameter in self._trained.items():
            self._set_full(parameter, None, state.parameters[name])
            for key in MOMENTS if state.num_updates else ():
                self._set_full(parameter, key, sources[key][name])
        self._num_updates = state.num_updates

    def _load_module(self, state: EngineState) -> None:
        module = self._module
        if self._zero_stage < 3:
            own = module.state_dict()
            module.load_state_dict({name: value.view_as(own[name]) for name, value in state.parameters.items()})
            return
        deepspeed = import_deepspeed()
        with deepspeed.zero.GatheredParameters(list(module.parameters()), modifier_rank=0), torch.no_grad():
            if self.rank == 0:
                for name, parameter in module.named_parameters():
                    parameter.copy_(state.parameters[name].view_as(parameter))

    def _make_moments(self, num_updates: int) -> None:
        """AdamW makes its state in the first update; a loaded one needs it before."""
        if num_updates == 0:
            return
        zero = self._engine.optimizer
        if self._zero_stage == 0:
            flat, base = list(self._trained.values()), zero
        elif self._zero_stage == 3:
            flat, base = zero.fp32_partitioned_groups_flat, zero.optimizer
        else:
            flat, base = zero.single_partition_of_fp32_groups, zero.optimizer
        for tensor in flat:
            moments = {key: torch.zeros_like(tensor) for key in MOMENTS}
            base.state[tensor] = {"step": torch.tensor(float(num_updates)), **moments}
        self._link_moments()

    def _link_moments(self) -> None:
        """Stages 1 and 2 find a parameter's part of the flat moments through links, which DeepSpeed makes once, before
        the first update, when AdamW has no moments yet: made again, they point to what is there now."""
        if self._zero_stage in (1, 2):
            self._engine.optimizer._hp_optimizer_states_linked = False
            self._engine.optimizer._lazy_init_hp_params_optimizer_state()

    def _set_full(self, parameter: nn.Parameter, key: str | None, value: Tensor) -> None:
        from deepspeed import utils

        value = value.to(self.device)
        if self._zero_stage == 0:
            if key is not None:
                self._engine.optimizer.state[parameter][key].copy_(value.reshape(parameter.shape))
        elif self._zero_stage == 3:
            part = self._own_part(parameter, value)
            if key is None:
                utils.safe_set_local_fp32_param(parameter, part)
            else:
                utils.safe_set_local_optimizer_state(parameter, part, key)
        elif key is None:
            utils.safe_set_full_fp32_param(parameter, value.reshape(parameter.shape))
        else:
            utils.safe_set_full_optimizer_state(parameter, value.reshape(parameter.shape), key)

    def _own_part(self, parameter: nn.Parameter, value: Tensor) -> Tensor:
        """This worker's part of a whole value at stage 3. DeepSpeed's own setter of whole values stumbles over those
        that the workers don't divide evenly, whose last part is filled up."""
        length = parameter.ds_tensor.numel()  # type: ignore[attr-defined]
        filled = torch.nn.functional.pad(value.flatten(), (0, length * self.world_size - value.numel()))
        return filled.narrow(0, length * self.rank, length)


def ensure_process_group() -> None:
    """A process group of one, for a run outside of Ray Train and torchrun. Does nothing where there is one."""
    if dist.is_initialized():
        return
    if "RANK" in os.environ:
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    else:
        os.environ.setdefault("LOCAL_RANK", "0")
        store = dist.HashStore()  # type: ignore[attr-defined]
        dist.init_process_group("gloo", store=store, rank=0, world_size=1)
