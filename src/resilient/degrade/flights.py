"""One call for many callers that want the same."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable
from contextvars import ContextVar
from types import TracebackType
from typing import final

from resilient.degrade.stores.snapshot import IMMUTABLE, snapshot
from resilient.engine.call import Served
from resilient.engine.isolation import isolated
from resilient.engine.locks import new_lock
from resilient.engine.outcome import Outcome
from resilient.engine.waiting import Waiter
from resilient.engine.weak import WeakGroup

__all__ = ["Flight", "Flights"]

_taking = new_lock()

#: The flights that the current context is carrying out, to which it must not wait.
carrying: ContextVar[tuple[Flight, ...]] = ContextVar("resilient_flights", default=())


@final
class Flight:
    """One call in progress, and those who wait for what it comes to."""

    __slots__ = (
        "_taken",
        "_traceback",
        "cancel",
        "due",
        "interruption",
        "landed",
        "outcome",
        "served",
        "waiters",
    )

    def __init__(self) -> None:
        self.waiters: list[Waiter] = []
        self.outcome: Outcome | None = None
        self.landed = False
        #: Whether what arrived is to be called for again soon.
        self.due = False
        #: What ended the call that is no outcome, and is for the one who began it.
        self.interruption: BaseException | None = None
        #: What a fallback further in has served instead of an answer.
        self.served: Served | None = None
        self._taken = False
        self.cancel: Callable[[], object] | None = None
        self._traceback: TracebackType | None = None

    def land(self, outcome: Outcome | None) -> None:
        """Take note of what the call came to; None if it ended without any outcome."""
        self.outcome = outcome
        self.landed = True
        if outcome is not None and outcome.error is not None:
            self._traceback = outcome.error.__traceback__

    def arrived(self) -> Outcome | None:
        """Return what the call came to, for one of those who wait.

        Each has the error as it was raised, without the frames of who had it before, and all but
        one a copy of a value that can change; what cannot be copied is shared.
        """
        outcome = self.outcome
        if outcome is None:
            return None
        if outcome.error is not None:
            outcome.error.with_traceback(self._traceback)
            return outcome
        if type(outcome.value) in IMMUTABLE:
            return outcome
        with _taking:
            is_first, self._taken = not self._taken, True
        if is_first:
            return outcome
        value = isolated("cache copy", outcome.value, snapshot, outcome.value)
        return Outcome(value, None, outcome.started, outcome.ended)


@final
class Flights:
    """The calls in progress, by key; there are never more than there are callers."""

    __slots__ = ("__weakref__", "_by_key", "_lock")

    def __init__(self) -> None:
        self._lock = new_lock()
        self._by_key: dict[Hashable, Flight] = {}
        _all_flights.add(self)

    def forget(self) -> None:
        """Forget the calls that the threads of the parent carry out, in a forked child."""
        self._by_key = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def join(self, key: Hashable) -> tuple[Flight, Waiter, bool]:
        """Return the flight for `key`, a place on it, and whether this caller has to begin it."""
        waiter = Waiter()
        with self._lock:
            flight = self._by_key.get(key)
            begins = flight is None
            if flight is None:
                flight = self._by_key[key] = Flight()
            flight.waiters.append(waiter)
        return flight, waiter, begins

    def is_mine(self, key: Hashable) -> bool:
        """Whether the current context is part of the flight for `key`, and must not wait for it."""
        return self._by_key.get(key) in carrying.get() if self._by_key else False

    def land(self, key: Hashable, flight: Flight, outcome: Outcome | None) -> None:
        """Give `outcome` to all who wait; None if the call ended without any."""
        with self._lock:
            if self._by_key.get(key) is flight:
                del self._by_key[key]
            flight.land(outcome)
            waiters, flight.waiters = flight.waiters, []
        for waiter in waiters:
            waiter.wake()

    def leave(self, key: Hashable, flight: Flight, waiter: Waiter) -> None:
        """Take one who waits off the flight, and end it if that was the last."""
        with self._lock:
            if waiter in flight.waiters:
                flight.waiters.remove(waiter)
            if flight.waiters or flight.landed:
                return
            if self._by_key.get(key) is flight:
                del self._by_key[key]
        if flight.cancel is not None:
            flight.cancel()


_all_flights: WeakGroup[Flights] = WeakGroup()


def _forget_all() -> None:
    for flights in _all_flights:
        flights.forget()


os.register_at_fork(after_in_child=_forget_all)
