"""The three states, and what there is to say of a change from one to another."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CLOSED", "HALF_OPEN", "OPEN", "Change"]

CLOSED = "closed"
OPEN = "open"
HALF_OPEN = "half-open"


@dataclass(frozen=True, slots=True)
class Change:
    """A change of state, with what there is to say about it.

    `reason` is what made it; `since_first_failure` the seconds since the first failure of the
    outage; `detected_after` how many of them had passed when the circuit opened; `period` the
    seconds for which it is going to be open; `failures` of `calls` the ones that opened it.
    """

    old: str
    new: str
    reason: str
    since_first_failure: float | None = None
    detected_after: float | None = None
    period: float | None = None
    failures: int | None = None
    calls: int | None = None
