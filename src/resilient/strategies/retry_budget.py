"""How many retries a dependency can bear, over all who share it."""

from __future__ import annotations

from typing import Final, final

from resilient.engine import settings
from resilient.engine.leftovers import Leftovers
from resilient.engine.locks import new_lock
from resilient.engine.strategy import Strategy
from resilient.engine.weak import WeakList

__all__ = ["OWN_BUDGET", "RetryBudget"]

#: Stands for a budget that is made for one `Retry`.
OWN_BUDGET: Final = object()


@final
class RetryBudget:
    """How many retries a dependency can bear: a bucket that only successes fill.

    Nothing is put in with time, so in an outage it runs dry and stays dry, in every process of a
    fleet. With the defaults the load on a failing dependency is at most 1.1 times that of its
    callers, and 10 calls.

    Arguments:
        size: The retries that the bucket holds, and begins with; 1 or more.
        per_success: What each success puts in, in retries; above 0 and at most 1.

    Where the rule comes from: retry throttling in gRPC (proposal A6).
    """

    __slots__ = ("_left", "_lock", "_retries", "leftovers", "per_success", "size")

    def __init__(self, size: int = 10, per_success: float = 0.1) -> None:
        self.size = settings.count("size", size)
        self.per_success = settings.fraction("per_success", per_success)
        self._lock = new_lock()
        self._left = float(size)
        self._retries: WeakList[Strategy] = WeakList()
        #: The journals of functions that are gone, as their retries may be.
        self.leftovers = Leftovers()

    def __repr__(self) -> str:
        return f"RetryBudget({self.size}, {self.per_success:g})"

    @property
    def left(self) -> float:
        """The retries that are left."""
        self._settle()
        return self._left

    def joined(self, retry: Strategy) -> None:
        """Take note of a retry that shares this budget, and may have successes in a journal."""
        self._retries.add(retry)

    def _settle(self) -> None:
        for one in self._retries:
            one.settle()
        self.leftovers.take_up(lambda durations, _when: self.put(len(durations)))

    def put(self, successes: int = 1) -> None:
        """Put in what `successes` are worth."""
        if self._left >= self.size:
            return
        with self._lock:
            # Rounded, for ten tenths are to be one.
            filled = round(self._left + successes * self.per_success, 6)
            self._left = min(float(self.size), filled)

    def take(self) -> bool:
        """Take one retry out; return False if there is none."""
        self._settle()
        with self._lock:
            if self._left < 1:
                return False
            self._left -= 1
            return True
