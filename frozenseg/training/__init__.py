"""The training loop, its engines, hooks and checkpoints."""

from frozenseg.training.checkpoint import Checkpoint, CheckpointStore, DamagedCheckpointError, restore_random_state
from frozenseg.training.engine import Collectives, Engine, EngineState, OptimizerSettings, TorchEngine
from frozenseg.training.hooks import AlertHook, JsonLinesHook, ProgressHook, ScalarsHook, Writer
from frozenseg.training.loop import DivergedError, Hook, LoopSettings, StepReport, run
from frozenseg.training.parameters import ParameterGroup, parameter_groups
from frozenseg.training.schedule import StepDecay
from frozenseg.training.state import Consumption, LoopState

__all__ = [
    "AlertHook",
    "Checkpoint",
    "CheckpointStore",
    "Collectives",
    "Consumption",
    "DamagedCheckpointError",
    "DivergedError",
    "Engine",
    "EngineState",
    "Hook",
    "JsonLinesHook",
    "LoopSettings",
    "LoopState",
    "OptimizerSettings",
    "ParameterGroup",
    "ProgressHook",
    "ScalarsHook",
    "StepDecay",
    "StepReport",
    "TorchEngine",
    "Writer",
    "parameter_groups",
    "restore_random_state",
    "run",
]
