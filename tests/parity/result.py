"""One line of the parity table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """A quantity of a case: its error, the tolerance it must stay within, and whether it does."""

    case: str
    error: float
    tolerance: float
    passed: bool
