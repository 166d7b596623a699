"""Where a run's numbers and pictures go: TensorBoard always, MLflow and W&B when asked."""

from __future__ import annotations

import importlib
import json
import secrets
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frozenseg.errors import UserInputError
from frozenseg.training import Writer
from pipelines.train_config import TrainConfig

RECORD_NAME = "trackers.json"


def open_writers(config: TrainConfig, first_step: int) -> list[Writer]:
    """The writers of a run that goes on from `first_step`. A run that goes on, goes on in the same MLflow and W&B run.

    Raises:
        UserInputError: a tracker that is asked for and not installed.
    """
    from torch.utils.tensorboard import SummaryWriter

    output = Path(config.output).absolute()
    writers: list[Writer] = [SummaryWriter(str(output / "tensorboard"), purge_step=first_step)]
    if config.tracking.mlflow is not None:
        writers.append(MlflowWriter(config.tracking.mlflow, config.name, output))
    if config.tracking.wandb is not None:
        writers.append(WandbWriter(config.tracking.wandb, config.name, output))
    return writers


class MlflowWriter:
    """A run of the experiment that has the config's name. Its id is kept in the output folder."""

    def __init__(self, address: str, name: str, output: Path) -> None:
        mlflow = _import("mlflow")
        self._client: Any = mlflow.MlflowClient(tracking_uri=address)
        self._run_id = _recorded(output, "mlflow")
        if self._run_id is None:
            experiment = self._client.get_experiment_by_name(name)
            experiment_id = experiment.experiment_id if experiment is not None else self._client.create_experiment(name)
            self._run_id = str(self._client.create_run(experiment_id, run_name=output.name).info.run_id)
            _record(output, "mlflow", self._run_id)

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        self._client.log_metric(self._run_id, tag, scalar_value, step=global_step)

    def add_image(self, tag: str, img_tensor: NDArray[np.uint8], global_step: int, *, dataformats: str) -> None:
        assert dataformats == "HWC"
        self._client.log_image(self._run_id, img_tensor, f"{tag}-{global_step:08d}.png")

    def close(self) -> None:
        self._client.set_terminated(self._run_id)


class WandbWriter:
    """A run of the project that has the config's name. Its id is kept in the output folder."""

    def __init__(self, mode: str, name: str, output: Path) -> None:
        self._wandb: Any = _import("wandb")
        run_id = _recorded(output, "wandb") or secrets.token_hex(8)
        _record(output, "wandb", run_id)
        self._run = self._wandb.init(project=name, id=run_id, resume="allow", mode=mode, dir=str(output))
        # W&B's own step never goes back, a run that goes on from a checkpoint does.
        self._run.define_metric("*", step_metric="step")

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        self._run.log({tag: scalar_value, "step": global_step})

    def add_image(self, tag: str, img_tensor: NDArray[np.uint8], global_step: int, *, dataformats: str) -> None:
        assert dataformats == "HWC"
        self._run.log({tag: self._wandb.Image(img_tensor), "step": global_step})

    def close(self) -> None:
        self._run.finish()


def check_installed(config: TrainConfig) -> None:
    """Raises UserInputError for a tracker that is asked for and not installed."""
    for name, wanted in (("mlflow", config.tracking.mlflow), ("wandb", config.tracking.wandb)):
        if wanted is not None:
            _import(name)


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserInputError(
            f"tracking.{name} is set, but the package {name} is not installed: pip install 'frozenseg[tracking]'"
        ) from error


def _records(output: Path) -> dict[str, str]:
    path = output / RECORD_NAME
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def _recorded(output: Path, tracker: str) -> str | None:
    return _records(output).get(tracker)


def _record(output: Path, tracker: str, run_id: str) -> None:
    path = output / RECORD_NAME
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(_records(output) | {tracker: run_id}) + "\n", encoding="utf-8")
    temporary.replace(path)
