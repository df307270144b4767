"""When an outage began, which is known only when the circuit opens."""

from __future__ import annotations

from collections import deque
from typing import final

__all__ = ["Onset"]

#: The most failures that are looked at; older ones are stray.
MOST = 1000


@final
class Onset:
    """The failures that the next trip may be made of, and the calls between them."""

    __slots__ = ("_calls", "_failures")

    def __init__(self) -> None:
        self._calls = 0
        #: How many calls there were before each, and its time.
        self._failures: deque[tuple[int, float]] | None = None

    def passed(self, calls: int = 1) -> None:
        """Take note of calls that speak for the dependency."""
        self._calls += calls

    def failed(self, now: float) -> None:
        """Take note of a call that speaks against it."""
        if self._failures is None:  # made when it is needed: most dependencies are well
            self._failures = deque(maxlen=MOST)
        self._failures.append((self._calls, now))
        self._calls += 1

    def first(self, least: float, now: float) -> float:
        """Return the time of the first failure since which at least `least` of the calls failed.

        That is when the run of failures began that has opened the circuit `now`: older ones were
        stray.
        """
        failures = self._failures or ()
        for index, (before, time) in enumerate(failures):
            if len(failures) - index >= least * (self._calls - before):
                return time
        return now

    def forget(self) -> None:
        """Begin anew: the circuit has closed."""
        self._failures = None
