"""Which parameters decay. Source: FACTS, "Hyper-parameters": decay 0.05, 0 for norms and embeddings."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

_NO_DECAY = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm2d, nn.Embedding)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ParameterGroup:
    """Trainable parameters by name that share a weight decay."""

    parameters: dict[str, nn.Parameter]
    weight_decay: float


def parameter_groups(module: nn.Module, weight_decay: float) -> tuple[ParameterGroup, ...]:
    """Two groups at most: parameters that decay, and those of norm layers and nn.Embedding, which don't.

    Parameters that don't train are left out; one shared by two modules counts once. Names are the module's own.
    """
    decayed: dict[str, nn.Parameter] = {}
    undecayed: dict[str, nn.Parameter] = {}
    seen: set[int] = set()
    for prefix, child in module.named_modules():
        for name, parameter in child.named_parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            group = undecayed if isinstance(child, _NO_DECAY) else decayed
            group[f"{prefix}.{name}" if prefix else name] = parameter
    groups = (
        ParameterGroup(parameters=decayed, weight_decay=weight_decay),
        ParameterGroup(parameters=undecayed, weight_decay=0.0),
    )
    return tuple(group for group in groups if group.parameters)
