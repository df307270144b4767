"""Health checks in the background while a circuit is not closed.

They notice the return of a dependency within about a second, not when its next period ends, and
without a caller that has to try it.
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
from resilient.engine.limits import Limit
from resilient.engine.outcome import Outcome
from resilient.engine.steps import Invoke, Steps
from resilient.engine.workers import Workers

__all__ = ["Prober"]

#: How many probes may hang at once before no further one is made.
MOST_HUNG = 3


@final
class Prober:
    """Calls `probe` every so many seconds until it is told to stop."""

    def __init__(
        self, probe: Callable[[], Any], every: float, limit: float, report: Callable[[bool], None]
    ) -> None:
        self._probe = probe
        self._every = every
        self._seconds = limit
        # Kept weakly: a breaker that nobody uses any more is not kept for the sake of its probes.
        self._report = weakref.WeakMethod(report)
        self._workers = Workers(max_workers=MOST_HUNG, max_abandoned=MOST_HUNG)
        self._loop: weakref.ref[asyncio.AbstractEventLoop] | None = None
        self._timer: clock.Timer | None = None
        self._next = 0.0
        # Counted up by every start: a probe of an earlier round must not go on in a later one.
        self._round = 0
        _probers.add(self)

    def start(self) -> None:
        """Begin to probe; harmless if it has begun."""
        with suppress(RuntimeError):  # no loop is running
            self._loop = weakref.ref(asyncio.get_running_loop())
        if self._timer is None:
            self._round += 1
            self._schedule(self._round)

    def next_in(self) -> float:
        """Return the seconds until the next probe is made, 0 while one is."""
        return max(0.0, self._next - clock.now())

    def _start_again(self) -> None:
        # A probe that was under way at a fork does not come back in the child.
        if self._timer is not None:
            self.stop()
            self.start()

    def stop(self) -> None:
        """Stop probing."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _schedule(self, this_round: int) -> None:
        self._next = clock.now() + self._every
        self._timer = clock.current.later(self._every, partial(self._due, this_round))

    def _due(self, this_round: int) -> None:
        if not clock.current.background(partial(self._run, this_round)):
            self._schedule(this_round)

    def _is_current(self, this_round: int) -> bool:
        return self._timer is not None and this_round == self._round

    def _run(self, this_round: int) -> None:
        if not self._is_current(this_round):
            return
        outcome = drive(self._steps())
        report = self._report()
        if report is None or not self._is_current(this_round):
            return
        report(outcome.ok and outcome.value is not False)
        if self._is_current(this_round):
            self._schedule(this_round)

    def _steps(self) -> Steps[Outcome]:
        limit = Limit(clock.now() + self._seconds, self._seconds, "probe", self)
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
