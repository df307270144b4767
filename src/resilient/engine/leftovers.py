"""Journals of pipelines that are gone, which somebody still has to be told of.

`breaker(function)(argument)` makes a pipeline for one call. What is in its journal when it goes
must not be lost; but it goes at any moment, maybe within a lock of ours, where nothing may be
decided. So it is only put down here, and taken up by whoever settles next.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import final

from resilient.engine.locks import new_lock

__all__ = ["Leftovers"]

#: So many are put down at the most before they are taken up without anybody asking.
MOST = 256
_taking = new_lock()


@final
class Leftovers:
    """Durations of successes, with the time at which they were over at the latest."""

    __slots__ = ("_journals",)

    def __init__(self) -> None:
        self._journals: list[tuple[list[float], float]] = []

    @property
    def are_many(self) -> bool:
        """Whether it is time to take them up."""
        return len(self._journals) >= MOST

    def put(self, durations: list[float], when: float) -> None:
        """Put a journal down; safe at any moment, as it is one operation on a list."""
        self._journals.append((durations, when))

    def take_up(self, absorb: Callable[[list[float], float], object]) -> None:
        """Tell `absorb` of each journal, once."""
        if not self._journals:
            return
        with _taking:
            journals = self._journals[:]
            del self._journals[: len(journals)]
            for durations, when in journals:
                absorb(durations, when)
