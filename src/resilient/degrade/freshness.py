"""Answers that need no call, and one call for all who miss.

Who misses takes a place on a flight (`flights`), which one of them begins: it looks into the store
for all, takes the call from other processes where they share the store, makes it, and lands.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from typing import Any, cast, final

from resilient.degrade.cached import Cached
from resilient.degrade.flights import Flight, carrying
from resilient.degrade.stores import Entry
from resilient.engine import clock
from resilient.engine.call import Call
from resilient.engine.drivers import drive
from resilient.engine.key import Key
from resilient.engine.limits import Limit, ambient
from resilient.engine.outcome import Outcome
from resilient.engine.steps import Detach, Proceed, Sleep, Steps, Wait
from resilient.errors import CallTimeout

__all__ = ["Freshness"]

#: Seconds between two looks for what another process is calling for: at first, and at most.
_FIRST_LOOK = 0.01
_LOOK = 0.1
_MOST_REFRESHES = 8


@final
class Freshness:
    """What a cache does before a call; `obtain` makes the call and keeps what it comes to."""

    def __init__(self, cache: Cached, obtain: Callable[[Call, Proceed], Steps[Outcome]]) -> None:
        self._cache = cache
        self._shelf = cache.shelf
        self._obtain = obtain
        self._refreshing: set[object] = set()

    def steps(self, call: Call, proceed: Proceed) -> Steps[Outcome]:
        """Answer `call` from the cache, from another's call, or by making it for all who wait."""
        cache = self._cache
        key = cache.key_of(call.args, call.kwargs)
        if key is None or cache.flights.is_mine(key):
            return (yield from self._obtain(call, proceed))
        while True:
            known = cache.negatives.find(key)
            if known is not None:
                return known
            entry = self._shelf.at_hand(key)
            if entry is not None and entry.age <= cache.freshness(key):
                if self._is_due(key, entry):
                    yield from self._refresh(key, call, proceed)
                return _served(entry)
            flight, waiter, begins = cache.flights.join(key)
            try:
                if begins:
                    flight.cancel = yield Detach(self._carried(key, flight, call, proceed))
                if not waiter.woken:
                    yield Wait(waiter, None if call.limit is None else call.limit.expires)
            finally:
                cache.flights.leave(key, flight, waiter)
            outcome = flight.arrived()
            call.served = flight.served
            if begins and flight.due:
                yield from self._refresh(key, call, proceed)
            if begins and flight.interruption is not None:
                interruption, flight.interruption = flight.interruption, None
                try:
                    raise interruption
                finally:
                    del interruption
            if outcome is not None:
                return outcome
            if call.limit is not None and call.limit.expired:
                now = clock.now()
                return Outcome(None, call.limit.overrun(), call.started, now)

    def _is_due(self, key: Key, entry: Entry) -> bool:
        ahead = self._cache.refresh_ahead
        return ahead > 0 and entry.age > self._cache.freshness(key) - ahead

    def _carried(
        self,
        key: Key,
        flight: Flight,
        call: Call,
        proceed: Proceed,
        *,
        in_background: bool = False,
    ) -> Steps[None]:
        """Find or make the answer for everybody, under nobody's limit where that can be."""
        outcome: Outcome | None = None
        token = carrying.set((*carrying.get(), flight))
        limit, limit_token = call.limit, None
        shared = copy.copy(call)  # the one who called may leave, and has limits of its own
        if call.is_async or in_background:  # in a task of its own, which who waits may outlive
            shared.limit = None
            limit_token = ambient.set(None)
        within = self._within(call)
        try:
            if not in_background:
                outcome = yield from self._found(key, flight, shared, within)
            if outcome is None:
                outcome = yield from self._called_for(
                    key, shared, proceed, within, waits=not in_background
                )
        except BaseException as interruption:
            if call.is_async:  # on a thread, it leaves through the one who called
                flight.interruption = interruption
            raise
        finally:
            call.attempts, call.retries = shared.attempts, shared.retries
            call.looked = shared.looked
            flight.served = shared.served
            for variable, one in ((carrying, token), (ambient, limit_token)):
                if one is not None:
                    cast("Any", variable).reset(one)
            if outcome is not None:
                self._cache.negatives.note(key, outcome)
                if _ended_by(limit, outcome.error) and shared.limit is not None:
                    outcome = None  # those who wait have more time than the one who called
            self._cache.flights.land(key, flight, outcome)

    def _found(self, key: Key, flight: Flight, call: Call, within: Limit) -> Steps[Outcome | None]:
        entry = yield from self._shelf.find(call, key, self._cache.freshness(key), within)
        if entry is None:
            return None
        flight.due = self._is_due(key, entry)
        return _served(entry)

    def _within(self, call: Call) -> Limit:
        """Return the limit on all that one call asks of a store before it is made."""
        seconds = self._shelf.seconds
        return Limit(clock.now() + seconds, seconds, f"{call.name}: cached", self._cache)

    def _called_for(
        self, key: Key, call: Call, proceed: Proceed, within: Limit, *, waits: bool
    ) -> Steps[Outcome | None]:
        """Make the call, unless another process is making it: then wait for what that stores.

        Nobody waits for a second one: the first has failed, and so may all the others, in turn.
        """
        fresh_for, pause, waited_for = self._cache.freshness(key), _FIRST_LOOK, ""
        if not waits:  # what is fresh, but not for long, is what is to be replaced
            fresh_for -= self._cache.refresh_ahead
        while True:
            claim = yield from self._shelf.claim(call, key, within)
            if claim is None:  # there is nobody to share with, or nobody can say
                return (yield from self._obtain(call, proceed))
            if not claim.is_ours:
                if not waits:
                    return None
                if call.limit is not None:
                    pause = min(pause, max(0.0, call.limit.expires - clock.now()))
                yield Sleep(pause)
                if call.limit is not None and call.limit.expired:
                    now = clock.now()
                    return Outcome(None, call.limit.overrun(), call.started, now)
                pause = min(pause * 1.5, _LOOK)
                within = self._within(call)
            try:
                # It may have been stored since somebody looked.
                entry = yield from self._shelf.find(call, key, fresh_for, within)
                if entry is not None:
                    return _served(entry)
                if claim.is_ours or (waited_for and claim.token != waited_for):
                    return (yield from self._obtain(call, proceed))
                waited_for = claim.token
            finally:
                if claim.is_ours:
                    self._shelf.release(key, claim.token)

    def _refresh(self, key: Key, call: Call, proceed: Proceed) -> Steps[None]:
        """Call for an answer that will not be fresh for long, behind the call that it serves."""
        flights = self._cache.flights
        flight, waiter, begins = flights.join(key)
        if not begins:
            flights.leave(key, flight, waiter)
            return
        # The place on the flight is kept: nobody waits, and it is not to end for that.
        steps = self._carried(key, flight, copy.copy(call), proceed, in_background=True)
        if call.is_async:
            yield Detach(steps)
        elif not self._behind(partial(copy_context().run, partial(drive, steps))):
            flights.land(key, flight, None)

    def _behind(self, refresh: Callable[[], object]) -> bool:
        if len(self._refreshing) >= _MOST_REFRESHES:
            return False
        mark = object()
        self._refreshing.add(mark)

        def run() -> None:
            try:
                refresh()
            finally:
                self._refreshing.discard(mark)

        if clock.current.background(run):
            return True
        self._refreshing.discard(mark)
        return False


def _served(entry: Entry) -> Outcome:
    now = clock.now()
    return Outcome(entry.value, None, now, now)


def _ended_by(limit: Limit | None, error: Exception | None) -> bool:
    return limit is not None and isinstance(error, CallTimeout) and error.owner is limit.owner
