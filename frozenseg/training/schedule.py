"""Learning rate as a pure function of the step, so that a resumed run needs no state for it."""

from __future__ import annotations

from dataclasses import dataclass

from frozenseg.errors import UserInputError


@dataclass(frozen=True, slots=True, kw_only=True)
class StepDecay:
    """`base` times `factor` for every milestone reached. Source: FACTS: x0.1 at 327,778 and 355,092 of 368,750.

    Fields: base: learning rate of step 0; milestones: steps, ascending; factor: of each milestone.
    """

    base: float
    milestones: tuple[int, ...] = ()
    factor: float = 0.1

    def __post_init__(self) -> None:
        if list(self.milestones) != sorted(self.milestones):
            raise UserInputError(f"schedule milestones must ascend; found {list(self.milestones)}")

    def __call__(self, step: int) -> float:
        """The rate of the update that turns `step` finished updates into `step + 1`."""
        return self.base * self.factor ** sum(step >= milestone for milestone in self.milestones)
