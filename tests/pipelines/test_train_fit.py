"""What a failed fit means: a mistake of the user's is raised, a loss is told in one line."""

from __future__ import annotations

import pytest
from ray.exceptions import ActorDiedError
from ray.train import ControllerError, WorkerGroupError

from frozenseg.errors import SkippedShareError, UserInputError
from pipelines.train_fit import raise_mistakes, what_was_lost


def test_what_a_worker_raised_on_purpose_is_raised_again() -> None:
    class Wrapped(Exception):
        cause = SkippedShareError("too many")

    with pytest.raises(UserInputError, match="no such file"):
        raise_mistakes(WorkerGroupError("", {0: RuntimeError("closed"), 1: UserInputError("no such file")}))
    with pytest.raises(SkippedShareError, match="too many"):
        raise_mistakes(WorkerGroupError("", {0: Wrapped("a traceback")}))
    raise_mistakes(WorkerGroupError("", {0: RuntimeError("closed")}))
    raise_mistakes(ControllerError(RuntimeError("closed")))


def test_a_loss_is_told_in_one_line_by_the_worker_that_is_gone() -> None:
    gone = ActorDiedError()
    line = what_was_lost(WorkerGroupError("", {0: RuntimeError("Connection closed\nby peer"), 1: gone}))
    assert line.startswith("lost worker 0, 1 (ActorDiedError: ")
    assert what_was_lost(WorkerGroupError("", {2: RuntimeError("a\nb\n")})) == "lost worker 2 (RuntimeError: b)"
    assert what_was_lost(ControllerError(RuntimeError("gone"))).startswith("Training failed due to controller error")
