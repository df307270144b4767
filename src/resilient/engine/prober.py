"""A function of the user's that is asked in the background, again and again: is all well?

A breaker asks while its circuit is not closed, and health asks always.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, final

from resilient.engine import clock
from resilient.engine.drivers import drive
from resilient.engine.isolation import ended_by, nobody_waits_for
from resilient.engine.limits import Limit
from resilient.engine.locks import new_lock
from resilient.engine.outcome import Outcome
from resilient.engine.steps import Invoke, Steps
from resilient.engine.workers import Workers

__all__ = ["Prober", "is_well"]

#: How many probes may hang at once before no further one is made.
MOST_HUNG = 3


def is_well(outcome: Outcome) -> bool:
    """Whether a probe has said yes: it has not raised, and has not returned False."""
    return outcome.ok and outcome.value is not False


@final
class Prober:
    """Calls `probe` every so many seconds until it is told to stop.

    The next call is made only when the last has ended or used up its limit, and `report`, a method
    that takes its outcome, has been called.
    """

    def __init__(
        self,
        name: str,
        probe: Callable[[], Any],
        every: float,
        limit: float,
        report: Callable[[Outcome], None],
    ) -> None:
        self._name = name
        self._probe = probe
        self._every = every
        self._seconds = limit
        # Kept weakly: who asks and is not used any more is not kept for the sake of its probes.
        self._report = weakref.WeakMethod(report)
        self._workers = Workers(max_workers=MOST_HUNG, max_abandoned=MOST_HUNG)
        self._loop: weakref.ref[asyncio.AbstractEventLoop] | None = None
        self._timer: clock.Timer | None = None
        # Not whether there is a timer: one that is due at once may run before it is noted.
        self._is_on = False
        self._next = 0.0
        # Counted up by every start: a probe of an earlier round must not go on in a later one.
        self._round = 0
        self._lock = new_lock()
        _probers.add(self)

    def follow(self, is_wanted: Callable[[], bool]) -> None:
        """Probe if that is wanted now, else stop.

        It is asked under a lock: of several threads that tell of one change each, the last one sees
        what all of them came to.
        """
        with self._lock:
            if is_wanted():
                self.start()
            else:
                self.stop()

    def start(self, *, at_once: bool = False) -> None:
        """Begin to probe; harmless if it has begun."""
        self.note_loop()
        if not self._is_on:
            self._is_on = True
            self._round += 1
            self._schedule(self._round, 0.0 if at_once else self._every)

    def note_loop(self) -> None:
        """Take the loop that runs here, if any, for asynchronous probes, unless one is at work."""
        known = None if self._loop is None else self._loop()
        if known is None or not known.is_running():
            with suppress(RuntimeError):  # no loop is running
                self._loop = weakref.ref(asyncio.get_running_loop())

    def next_in(self) -> float:
        """Return the seconds until the next probe is made, 0 while one is."""
        return max(0.0, self._next - clock.now())

    def _start_again(self) -> None:
        # A probe that was under way at a fork does not come back in the child.
        if self._is_on:
            self.stop()
            self.start()

    def stop(self) -> None:
        """Stop probing."""
        self._is_on = False
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _schedule(self, this_round: int, seconds: float) -> None:
        self._next = clock.now() + seconds
        self._timer = clock.current.later(seconds, partial(self._due, this_round))

    def _due(self, this_round: int) -> None:
        if not clock.current.background(partial(self._run, this_round)):
            self._schedule(this_round, self._every)

    def _is_current(self, this_round: int) -> bool:
        return self._is_on and this_round == self._round

    def _run(self, this_round: int) -> None:
        if not self._is_current(this_round):
            return
        outcome = self._asked()
        report = self._report()
        if report is None or not self._is_current(this_round):
            return
        report(outcome)
        if self._is_current(this_round):
            self._schedule(this_round, self._every)

    def _asked(self) -> Outcome:
        started = clock.now()
        try:
            return drive(self._steps())
        except BaseException as interruption:
            if not nobody_waits_for(interruption):
                raise
            # The next probe is to be made all the same.
            return Outcome(None, ended_by(self._name, interruption), started, clock.now())

    def _steps(self) -> Steps[Outcome]:
        limit = Limit(clock.now() + self._seconds, self._seconds, self._name, self)
        outcome: Outcome = yield Invoke(self._call, limit=limit, workers=self._workers)
        return outcome

    def _call(self) -> Any:
        result = self._probe()
        if not inspect.iscoroutine(result):
            return result
        loop = None if self._loop is None else self._loop()
        return clock.current.run_coroutine(result, loop, self._seconds)


_probers: weakref.WeakSet[Prober] = weakref.WeakSet()


def _start_all_again() -> None:
    for prober in list(_probers):
        prober._start_again()


os.register_at_fork(after_in_child=_start_all_again)
