"""One Ray Train fit, and what is known when it ends before its last step."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from frozenseg.errors import FrozenSegError
from pipelines.stream import Rows, execution_options, feature_stream
from pipelines.train_worker import DATASET, WorkerPlan, train

RESIZE_INTERVAL_S = 60.0
"""How often an elastic group looks whether there is room for more workers; each change costs a restart."""


class RunLostError(FrozenSegError):
    """Workers were lost again and again, and no checkpoint was gained in between."""


def fit(plan: WorkerPlan, rows: Callable[[], Rows]) -> str | None:
    """Trains up to `plan.last_step`. `rows` is asked at every start of the worker group for what is left then.

    Ray Train is told to restart nothing after a failure: only the caller knows whether a checkpoint was gained since
    the last one, and a mistake of the user's comes back the same however often it is tried. A drained node and a
    changed size of an elastic group are no failures; Ray restarts the group for them by itself.

    Returns:
        None at the last step, else one line that says what was lost.

    Raises:
        FrozenSegError: what a worker raised on purpose: input that cannot be used, a run that diverged.
        KeyboardInterrupt: Ctrl-C, after the workers are gone.
    """
    from ray.train import DataConfig, FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    config, workers = plan.config, plan.config.workers
    resources = {"CPU": workers.cpus} | ({"GPU": workers.gpus} if workers.gpus else {})
    resources |= {workers.resource: 1.0} if workers.resource else {}
    size = (workers.min_workers, workers.num_workers) if workers.min_workers else workers.num_workers
    trainer = TorchTrainer(
        train,
        train_loop_config={"plan": plan},
        torch_config=TorchConfig(backend="nccl" if workers.gpus else "gloo"),
        # Ray Train's type hints are those of its first version, which had no elastic groups.
        scaling_config=ScalingConfig(  # type: ignore[call-arg]
            num_workers=size,  # type: ignore[arg-type]
            use_gpu=workers.gpus > 0,
            resources_per_worker=resources,
            elastic_resize_monitor_interval_s=RESIZE_INTERVAL_S,
        ),
        run_config=RunConfig(
            # Of no use after this fit: what survives is in our own checkpoints, so every fit has a name of its own.
            name=f"fit-{time.time_ns()}",
            storage_path=str(Path(config.output) / "ray"),
            failure_config=FailureConfig(max_failures=0),
        ),
        datasets={DATASET: lambda: feature_stream(plan.stream, rows())},
        dataset_config=DataConfig(execution_options=execution_options(plan.stream)),
    )
    interrupt = signal.getsignal(signal.SIGINT)
    is_main = threading.current_thread() is threading.main_thread()
    try:
        trainer.fit()
    except TrainingFailedError as error:
        raise_mistakes(error)
        return what_was_lost(error)
    except SystemExit as exit_:
        # Ray's own handler of Ctrl-C ends the process as if all were well.
        raise KeyboardInterrupt from exit_
    finally:
        if is_main:
            signal.signal(signal.SIGINT, interrupt)
    return None


def raise_mistakes(error: Any) -> None:
    """Raises the first error among a failed fit's that trying again cannot mend."""
    for failure in getattr(error, "worker_failures", {}).values():
        # Ray wraps what a task raised; the cause is what was raised.
        cause = getattr(failure, "cause", failure)
        if isinstance(cause, FrozenSegError):
            raise cause


def what_was_lost(error: Any) -> str:
    """One line: which workers, and why. One that is gone says more than one that noticed that it is."""
    from ray.exceptions import RayActorError

    failures: dict[int, Exception] = getattr(error, "worker_failures", {})
    if not failures:
        return next(iter(str(error).splitlines()), type(error).__name__)
    ranks = ", ".join(str(rank) for rank in sorted(failures))
    gone: list[Exception] = [failure for failure in failures.values() if isinstance(failure, RayActorError)]
    reason = (gone or list(failures.values()))[0]
    lines = [line.strip() for line in str(reason).splitlines() if line.strip()] or ["no reason given"]
    # Ray says first that an actor is gone, and then where; a traceback ends with what was raised.
    return f"lost worker {ranks} ({type(reason).__name__}: {lines[0 if gone else -1]})"
