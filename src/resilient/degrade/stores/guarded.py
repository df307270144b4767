"""A store that may be slow or down, guarded by the library's own strategies.

A cache must not become a dependency: a store that hangs costs its limit for three calls, and is
then left alone until a probe in the background finds it well again. Reading and writing have
breakers of their own: what is full can still be read.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Protocol, final

from resilient.degrade.stores import Entry, Store
from resilient.degrade.stores.behind import Done, WriteBehind
from resilient.degrade.stores.counts import Counts
from resilient.engine import clock, settings
from resilient.engine.call import Call
from resilient.engine.callables import is_async_function
from resilient.engine.drivers import drive
from resilient.engine.isolation import ended_by, report_broken
from resilient.engine.limits import Limit, tighter
from resilient.engine.locks import new_lock
from resilient.engine.outcome import Outcome
from resilient.engine.pipeline import Pipeline
from resilient.engine.steps import Steps
from resilient.engine.workers import Workers
from resilient.errors import CallRejected, DeadlineExceeded
from resilient.strategies.breaker.breaker import CircuitBreaker
from resilient.strategies.breaker.states import CLOSED, HALF_OPEN, OPEN
from resilient.strategies.bulkhead import Bulkhead
from resilient.strategies.off_loop import OffLoop

__all__ = ["GuardedStore"]

#: The most writes that wait for a store.
MOST_WAITING = 1_000
_PROBE_EVERY = 0.5
_PROBE = "resilient:probe"


class Write(Protocol):
    """What waits to be written."""

    def entry(self) -> Entry | None:
        """Return what is served meanwhile."""
        ...

    def write(self) -> Done:
        """Write it."""
        ...


@final
class GuardedStore:
    """The methods of a store as steps, with limits and breakers around them."""

    def __init__(self, store: Store, seconds: float) -> None:
        self.store = store
        self.seconds = seconds
        self.is_async = is_async_function(store.put)
        self._loop: weakref.ref[asyncio.AbstractEventLoop] | None = None
        self.name = settings.text("name", getattr(store, "name", type(store).__name__))
        self.counts = Counts.of(self.name)
        self._reading = self._guard("reading", partial(store.get, _PROBE))
        self._writing = self._guard("writing", partial(store.put, _PROBE, b"", 1.0))
        self.behind: WriteBehind[Write] = WriteBehind(
            lambda waiting: waiting.write(),
            partial(self.counts.add, "dropped"),
            MOST_WAITING,
            stand_by=_workers(self._writing).stand_by,
        )
        self.counts.watch(self)

    @staticmethod
    def of(store: Store, seconds: float) -> GuardedStore:
        """Return the guard of `store`, the same for all caches that share it."""
        expected = "an object with the methods of a Store"
        settings.having("store", store, ("get", "put", "delete"), expected)
        key = (id(store), seconds)
        with _making:
            guarded = _guarded.get(key)
            if guarded is None:
                guarded = _guarded[key] = GuardedStore(store, seconds)
            return guarded

    def _guard(self, kind: str, probe: Callable[[], Any]) -> Pipeline:
        name = f"{self.name} cache, {kind}"

        def well() -> None:
            probe()

        async def well_async() -> None:
            await probe()

        breaker = CircuitBreaker(
            fail_max=3,
            reset_timeout=30,
            probe=well_async if self.is_async else well,
            probe_every=_PROBE_EVERY,
            probe_timeout=self.seconds,
            ramp=False,
        ).one_of_many(name, dict.fromkeys((CLOSED, OPEN, HALF_OPEN), 0))
        limit = OffLoop(self.seconds, max_abandoned=8)
        # Fewer at once than there are workers, for which a task cannot wait.
        turns = Bulkhead(limit.max_workers // 2, max_waiting=10_000)
        return Pipeline(breaker, limit, turns, name=name)

    @property
    def waiting(self) -> int:
        """How many writes have not reached the store yet."""
        return len(self.behind)

    @property
    def lost(self) -> dict[str, CircuitBreaker]:
        """What the store is not asked for at the moment, and whose circuit that is."""
        breakers = {"reading": _breaker(self._reading), "writing": _breaker(self._writing)}
        return {kind: one for kind, one in breakers.items() if one.current_state != CLOSED}

    @property
    def is_readable(self) -> bool:
        """Whether it is asked for anything at the moment."""
        return _breaker(self._reading).current_state == CLOSED

    def get(self, call: Call, name: str, within: Limit | None = None) -> Steps[Outcome]:
        """Ask for the bytes under `name`, within the store's limit and `within`."""
        get = self.store.get
        if call.is_async:
            get = getattr(self.store, "get_async", get)
        return (yield from self._ask(self._reading, call, within, get, name))

    def write(
        self, call: Call, method: Callable[..., Any], *args: Any, within: Limit | None = None
    ) -> Steps[Outcome]:
        """Change what the store holds, within its limit and `within`."""
        return (yield from self._ask(self._writing, call, within, method, *args))

    def write_now(self, method: Callable[..., Any], *args: Any) -> Done:
        """Change what the store holds, on this thread."""
        called = partial(self._on_loop, method) if self.is_async else method
        asking = Call(self._writing, called, args, {}, is_async=False)
        outcome = drive(self._writing.steps(asking))
        if isinstance(outcome.error, CallRejected):
            return Done.LATER
        if outcome.error is not None:
            report_broken("cache store", outcome.error)
            return Done.FAILED
        return Done.WRITTEN

    def note_loop(self) -> None:
        """Remember on which loop an asynchronous store is used, to write there."""
        with suppress(RuntimeError):  # no loop is running
            self._loop = weakref.ref(asyncio.get_running_loop())

    def _on_loop(self, method: Callable[..., Any], *args: Any) -> Any:
        loop = None if self._loop is None else self._loop()
        return clock.current.run_coroutine(method(*args), loop, self.seconds)

    def _ask(
        self,
        pipeline: Pipeline,
        call: Call,
        within: Limit | None,
        method: Callable[..., Any],
        *args: Any,
    ) -> Steps[Outcome]:
        if is_async_function(method):
            method = partial(_uncancelled, method)
        asking = Call(pipeline, method, args, {}, is_async=call.is_async)
        if within is not None:
            asking.limit = tighter(asking.limit, within)
        outcome = yield from pipeline.steps(asking)
        # Who was not asked, for want of a circuit or of time, has not failed.
        if outcome.error is not None and not isinstance(outcome.error, _NOT_ASKED):
            report_broken("cache store", outcome.error)
        return outcome


async def _uncancelled(method: Callable[..., Any], *args: Any) -> Any:
    """Ask a store, whose client may raise a cancellation of its own: that is no caller's."""
    try:
        return await method(*args)
    except asyncio.CancelledError as cancelled:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise ended_by("cache store", cancelled) from cancelled


def _workers(pipeline: Pipeline) -> Workers:
    return next(one for one in pipeline.strategies if isinstance(one, OffLoop)).need_workers()


def _breaker(pipeline: Pipeline) -> CircuitBreaker:
    breaker = pipeline.strategies[0]
    assert isinstance(breaker, CircuitBreaker)
    return breaker


_NOT_ASKED = (CallRejected, DeadlineExceeded)
_guarded: weakref.WeakValueDictionary[tuple[int, float], GuardedStore] = (
    weakref.WeakValueDictionary()
)
_making = new_lock()
