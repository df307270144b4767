"""At most so many calls at once, so that one slow dependency does not take all threads or tasks."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import final

from resilient.engine import clock, settings
from resilient.engine.call import Call
from resilient.engine.limits import Limit
from resilient.engine.locks import new_lock
from resilient.engine.outcome import Outcome
from resilient.engine.steps import Proceed, Steps, Wait
from resilient.engine.strategy import Strategy
from resilient.engine.waiting import Waiter
from resilient.errors import BulkheadFull

__all__ = ["Bulkhead", "bulkhead"]


#: There is memory for each place, whether or not it is taken.
MOST_PLACES = 1_000_000


class Bulkhead(Strategy):
    """A limit on calls at the same time, one for the process: over all threads and event loops.

    Arguments:
        max_concurrent: The most calls at once; 1 to 1,000,000.
        max_waiting: The most callers that wait for one of them to end; 0 for none.
        max_wait: The most seconds for which one waits; None for as long as the call has.

    Raises:
        BulkheadFull: When a call is rejected.
        InvalidSetting: If an argument is outside of its range.

    Example:
        >>> from resilient import bulkhead
        >>> @bulkhead(20, max_waiting=100, max_wait=0.5)
        ... def query() -> str:
        ...     return "one of at most twenty"
        >>> query()
        'one of at most twenty'

    Where the rule comes from: "Release It!" by Michael Nygard. Those who wait are served in the
    order in which they came.
    """

    rejection = BulkheadFull

    def __init__(
        self, max_concurrent: int, max_waiting: int = 0, max_wait: float | None = None
    ) -> None:
        super().__init__()
        self.max_concurrent = settings.count("max_concurrent", max_concurrent, most=MOST_PLACES)
        self.max_waiting = settings.count("max_waiting", max_waiting, least=0)
        self.max_wait = None if max_wait is None else settings.seconds("max_wait", max_wait)
        self._permits = _Permits(self.max_concurrent)

    def __repr__(self) -> str:
        return f"Bulkhead({self.max_concurrent}, max_waiting={self.max_waiting})"

    @property
    def in_flight(self) -> int:
        """How many calls are running."""
        return self.max_concurrent - len(self._permits.free)

    @property
    def waiting(self) -> int:
        """How many callers are waiting."""
        return len(self._permits.queue)

    @property
    def take(self) -> Callable[[], bool]:
        """Take a permit, if one is free."""
        return self._permits.take

    @property
    def give(self) -> Callable[[], object]:
        """Give a permit back, or to the one who has waited longest."""
        return self._permits.give

    def steps(self, call: Call, proceed: Proceed) -> Steps[Outcome]:
        """Hold a permit while the call runs; of a stream, until it ends."""
        permits = self._permits
        if call.resumed is None and not permits.take():
            taken = yield from self._wait(call.limit)
            if not taken:
                call.pipeline.measures.rejected(BulkheadFull.reason)
                now = clock.now()
                return Outcome(
                    None, BulkheadFull(call.name, self.max_concurrent, self.max_waiting), now, now
                )
        try:
            outcome = yield from proceed(call)
        except BaseException:
            permits.give()
            raise
        if call.until_end is not None and outcome.error is None:
            call.until_end.append(lambda _: permits.give())
        else:
            permits.give()
        return outcome

    def _wait(self, limit: Limit | None) -> Steps[bool]:
        waiter = Waiter()
        placed = self._permits.take_or_queue(waiter, self.max_waiting)
        if placed is not None:
            return placed
        until = None if self.max_wait is None else clock.now() + self.max_wait
        if limit is not None:
            until = limit.expires if until is None else min(until, limit.expires)
        try:
            yield Wait(waiter, until)
        except BaseException:
            if self._permits.leave(waiter):
                self._permits.give()
            raise
        return self._permits.leave(waiter)


@final
class _Permits:
    """What is free, and who waits for it.

    Taking and giving are one list operation each, which is atomic, as long as nobody waits.
    """

    __slots__ = ("__weakref__", "_lock", "free", "queue", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.refill()
        _all_permits.add(self)

    def refill(self) -> None:
        self._lock = new_lock()
        self.free = [None] * self.size
        self.queue: list[Waiter] = []

    def take(self) -> bool:
        try:
            self.free.pop()
        except IndexError:
            return False
        return True

    def give(self) -> None:
        if len(self.free) >= self.size:
            return  # of a call that was in flight when its process was forked: none is missing here
        self.free.append(None)
        if self.queue:
            self._hand_over()

    def _hand_over(self) -> None:
        with self._lock:
            while self.queue and self.take():
                self.queue.pop(0).wake()

    def take_or_queue(self, waiter: Waiter, most: int) -> bool | None:
        """Return whether a permit was taken, or None if `waiter` has a place in the queue now."""
        with self._lock:
            if not self.queue and self.take():
                return True
            if len(self.queue) >= most:
                return False
            self.queue.append(waiter)
        # A permit may have come back between the look and the place in the queue.
        self._hand_over()
        return None

    def leave(self, waiter: Waiter) -> bool:
        """Return whether `waiter` was handed a permit; if not, take it out of the queue."""
        with self._lock:
            if waiter in self.queue:
                self.queue.remove(waiter)
                return False
            return True


_all_permits: weakref.WeakSet[_Permits] = weakref.WeakSet()


def _refill_all() -> None:
    # The calls that held permits in the parent do not run in the child.
    for permits in list(_all_permits):
        permits.refill()


os.register_at_fork(after_in_child=_refill_all)

bulkhead = Bulkhead
