"""Calls that are turned away on the spot, while a circuit is open.

That is when a service is called most and has the least to spare. Where nothing has to be decided
for the single call (a circuit that is open until a known moment, a plain value in its place), the
fast lanes have their answer from here, and what there is to count and to tell is done in batches,
as for successes.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, final

from resilient.engine import clock
from resilient.engine.locks import new_lock
from resilient.engine.watching import watching

if TYPE_CHECKING:
    from resilient.engine.measures import Measures
    from resilient.engine.strategy import Strategy
    from resilient.errors import CallRejected

__all__ = ["Barrier", "Refusals", "Refuse", "Refused", "Rejecting", "StandIn", "refusals_of"]

#: A refusal is counted and told of at once, but further ones in sums, so many seconds apart.
SECONDS_BETWEEN = 0.25

#: The clock's, as a global of this module: it is read twice for each refusal.
now = clock.now


def _follow(now_from_now_on: Callable[[], float]) -> None:
    global now
    now = now_from_now_on
    for refusals in list(_timed):  # whose timers are those of another clock
        refusals.is_quiet = True


clock.followers.append(_follow)


#: Returns what a call comes to if it is made now, or None if that takes a closer look.
Refuse: TypeAlias = "Callable[[], Refused | None]"


class Barrier(Protocol):
    """What lets no call through before a certain time, by the library's clock."""

    until: float


class Refused:
    """What a call comes to that is turned away on the spot: as much of an outcome as lanes need."""

    __slots__ = ("error", "value")

    def __init__(self, error: CallRejected | None, value: Any = None) -> None:
        self.error = error
        self.value = value


class Rejecting(NamedTuple):
    """How a strategy turns calls away: until when, and with which error.

    `left` returns the seconds until a call may be let through, or None if nobody knows. That may be
    before the barrier ends; it must not hold the strategy.
    """

    barrier: Barrier
    error: Callable[[float], CallRejected]
    kind: type[CallRejected]
    left: Callable[[], float | None]


class StandIn(NamedTuple):
    """What is served in place of calls that are turned away; making it cannot fail.

    It is `value`, or what `make` returns. While `watched` returns something, each one is noted;
    `tell` is given the number of those that have not been told of yet. These functions are given
    the name of the dependency and that of the error.
    """

    tier: str
    value: Any
    make: Callable[[], Any] | None
    watched: Callable[[], object]
    note: Callable[[str, str], object]
    tell: Callable[[str, str, int], object]


@final
class Refusals:
    """The calls that one pipeline has turned away on the spot.

    It knows of no breaker and no function, as a timer keeps it for a while after they are gone.
    """

    __slots__ = (
        "__weakref__",
        "_barrier",
        "_durations",
        "_kind",
        "_left",
        "_lock",
        "_measures",
        "_stand_in",
        "_untold",
        "is_quiet",
    )

    def __init__(self, measures: Measures, rejecting: Rejecting, stand_in: StandIn | None) -> None:
        self._measures = measures
        self._barrier = rejecting.barrier
        self._kind = rejecting.kind
        self._left = rejecting.left
        self._stand_in = stand_in
        self._durations: list[float] = []
        #: Whether no refusal has been told of just now, so that the next one is told of at once.
        self.is_quiet = True
        self._untold = 0
        self._lock = new_lock()

    # As hot as the fast lanes while a dependency is down, and made in the same way.

    def raising(self, make_error: Callable[[float], CallRejected]) -> Refuse:
        """Return what turns calls away with an error."""
        barrier, durations = self._barrier, self._durations

        def refuse() -> Refused | None:
            started = now()
            if started >= barrier.until:
                return None
            error = make_error(started)
            ended = now()
            durations.append(ended - started)
            if self.is_quiet:
                self.tell()
            return Refused(error)

        return refuse

    def serving(self, stand_in: StandIn) -> Refuse:
        """Return what turns calls away with an answer."""
        _, value, make, watched, note, _ = stand_in
        barrier, durations, is_observed = self._barrier, self._durations, watching.get
        name, reason = self._measures.name, self._kind.__name__
        always = Refused(None, value)

        def refuse() -> Refused | None:
            started = now()
            if started >= barrier.until or is_observed() is not None:
                return None
            outcome = always if make is None else Refused(None, make())
            if watched() is not None:
                note(name, reason)
            ended = now()
            durations.append(ended - started)
            if self.is_quiet:
                self.tell()
            return outcome

        return refuse

    def settle(self) -> None:
        """Count what has not been counted yet."""
        if not self._durations:
            return
        with self._lock:
            size = len(self._durations)
            durations = self._durations[:size]
            del self._durations[:size]
            if durations:
                tier = None if self._stand_in is None else self._stand_in.tier
                self._measures.refused(durations, self._kind.reason, tier)
                self._untold += len(durations)

    def tell(self) -> None:
        """Count, and tell those who listen of what they have not been told."""
        self.settle()
        with self._lock:
            untold, self._untold = self._untold, 0
            self.is_quiet = not untold
        if untold:
            _timed.add(self)
            clock.current.later(SECONDS_BETWEEN, self._due)
            self._measures.tell_rejected(self._kind.reason, self._left(), untold)
            if self._stand_in is not None:
                self._stand_in.tell(self._measures.name, self._kind.__name__, untold)

    def _due(self) -> None:
        self.settle()
        # Those who listen may take long, and the thread of timers is for all.
        if not self._untold or not clock.current.background(self.tell):
            self.tell()


#: Those that have a timer.
_timed: weakref.WeakSet[Refusals] = weakref.WeakSet()


def refusals_of(
    strategies: Iterable[Strategy], measures: Measures
) -> tuple[Refusals, Refuse] | None:
    """Return how these strategies turn calls away, if that takes nothing but a look at the time."""
    stand_in: StandIn | None = None
    for strategy in strategies:  # from the outside, as a call goes
        rejecting = strategy.rejecting
        if rejecting is not None:
            refusals = Refusals(measures, rejecting, stand_in)
            if stand_in is None:
                return refusals, refusals.raising(rejecting.error)
            return refusals, refusals.serving(stand_in)
        if stand_in is None and (stand_in := strategy.stand_in) is not None:
            continue
        if not strategy.lets_refusals_pass:
            return None
    return None
