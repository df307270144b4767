"""A clock that passes only when it is told to, so that tests are exact and take no time.

Synchronous code runs in virtual time as it is: a pause moves the clock, and a call that lasts
longer than its limit is left at that very moment, as a worker thread would be. For asyncio,
`VirtualTime.run` uses an event loop whose clock is this one: it jumps to whatever is due next.
"""

from __future__ import annotations

import asyncio
import math
import selectors
import threading
import time
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from heapq import heappop, heappush
from itertools import count
from types import TracebackType
from typing import Any, TypeVar, final

from resilient.engine import clock, settings
from resilient.engine.limits import ambient
from resilient.engine.outcome import Outcome
from resilient.engine.steps import Invoke
from resilient.engine.waiting import Waiter
from resilient.engine.workers import Workers

__all__ = ["VirtualLoop", "VirtualTime"]

T = TypeVar("T")


class _LeftBehind(BaseException):
    """Ends a call that its caller has abandoned, in place of the worker that would run on."""


@final
class _VirtualTimer:
    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        """Forget the callback."""
        self.callback = None


class _OfThread(threading.local):
    """The limits that calls of one thread are under: another thread's end none of this one's."""

    def __init__(self) -> None:
        self.limits: list[float] = []


@final
class VirtualTime:
    """A clock for tests; the library's own within a ``with`` block.

    Example:
        >>> from resilient import retry
        >>> from resilient.testing import VirtualTime
        >>> @retry(on=ConnectionError, attempts=3, wait=lambda state: 60)
        ... def fetch() -> None:
        ...     raise ConnectionError("down")
        >>> with VirtualTime() as virtual:
        ...     began = virtual.now()
        ...     try:
        ...         fetch()
        ...     except ConnectionError:
        ...         print("failed after", virtual.now() - began, "virtual seconds")
        failed after 120.0 virtual seconds
    """

    def __init__(self, start: float | None = None) -> None:
        # From a whole number after the machine's own time: clocks must not go back, and sums of
        # seconds should stay exact.
        self._now = float(math.ceil(time.monotonic())) if start is None else start
        self._due: list[tuple[float, int, _VirtualTimer]] = []
        self._order = count()
        self._own = _OfThread()
        self._replaced: clock.Clock = clock.current

    def __enter__(self) -> VirtualTime:
        self._replaced = clock.install(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        clock.install(self._replaced)

    def now(self) -> float:
        """Return the virtual time in seconds."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass, with all that is due on the way."""
        self._move_to(self._now + settings.seconds("seconds", seconds))

    def sleep(self, seconds: float) -> None:
        """Let `seconds` pass: for functions under test that are to take long."""
        self.advance(max(0.0, seconds))

    def _move_to(self, moment: float) -> None:
        limit = min(self._own.limits, default=math.inf)
        stop = min(moment, limit)
        while self._due and self._due[0][0] <= stop:
            due, _, timer = heappop(self._due)
            self._now = max(self._now, due)
            if timer.callback is not None:
                timer.callback()
        self._now = max(self._now, stop)
        if moment >= limit:
            raise _LeftBehind

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run the coroutine `main` on an event loop in virtual time, and return its result."""
        with asyncio.Runner(loop_factory=lambda: VirtualLoop(self)) as runner:
            return runner.run(main)

    async def run_limited_async(self, workers: Workers, step: Invoke) -> Outcome:
        """Call a function for a task as `run_limited` does."""
        return self.run_limited(workers, step)

    def run_limited(self, workers: Workers, step: Invoke) -> Outcome:
        """Call a function as on a worker, and leave it behind at the end of its limit."""
        assert step.limit is not None
        started = self._now
        context = copy_context()
        limit = step.limit.for_one_call()
        context.run(ambient.set, limit)
        outer, self._own.limits = self._own.limits, [*self._own.limits, step.limit.expires]
        try:
            value = context.run(step.function, *step.args, **step.kwargs)
        except Exception as error:
            return Outcome.failed(error, started)
        except _LeftBehind:
            if self._now < step.limit.expires or any(one <= self._now for one in outer):
                raise
            return Outcome(None, step.limit.overrun(), started, self._now)
        finally:
            self._own.limits = outer
        limit.ended = True
        return Outcome(value, None, started, self._now)

    def begin(
        self, workers: Workers, step: Invoke, ended: Callable[[Outcome | BaseException], object]
    ) -> Callable[[], bool]:
        """Call a function at once: what would run side by side takes turns, and adds its times."""
        started = self._now
        try:
            if step.limit is None:
                value = copy_context().run(step.function, *step.args, **step.kwargs)
                outcome = Outcome(value, None, started, self._now)
            else:
                outcome = self.run_limited(workers, step)
        except Exception as error:
            outcome = Outcome.failed(error, started)
        except BaseException as interruption:
            ended(interruption)
            raise
        ended(outcome)
        return lambda: False

    def later(self, seconds: float, callback: Callable[[], object]) -> _VirtualTimer:
        """Call `callback` when `seconds` have passed."""
        timer = _VirtualTimer(callback)
        heappush(self._due, (self._now + seconds, next(self._order), timer))
        return timer

    def next_due(self) -> float | None:
        """Return when the next callback is due, or None if there is none."""
        while self._due and self._due[0][2].callback is None:
            heappop(self._due)
        return self._due[0][0] if self._due else None

    def background(self, function: Callable[[], object]) -> bool:
        """Call `function` at once."""
        outer, self._own.limits = self._own.limits, []
        try:
            function()
        finally:
            self._own.limits = outer
        return True

    def run_coroutine(
        self,
        coroutine: Coroutine[Any, Any, Any],
        loop: asyncio.AbstractEventLoop | None,
        seconds: float,
    ) -> Any:
        """Run `coroutine` to its end, on a thread of its own."""
        outcome: list[Any] = []

        def run() -> None:
            try:
                outcome.append((asyncio.run(coroutine), None))
            except BaseException as error:
                outcome.append((None, error))

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        value, error = outcome[0]
        if error is not None:
            raise error
        return value

    def acquire(self, lock: threading.Lock, seconds: float | None) -> bool:
        """Take `lock`, after `seconds` if it is not free before."""
        if lock.acquire(blocking=False):
            return True
        if seconds is None:
            raise RuntimeError("this would wait for ever in virtual time: nothing else runs")
        self.advance(seconds)
        return lock.acquire(blocking=False)

    def wait(self, waiter: Waiter, until: float | None) -> bool:
        """Let time pass from one callback to the next until `waiter` is woken."""
        while not waiter.woken:
            due = self.next_due()
            if due is None or (until is not None and due > until):
                if until is None:
                    raise RuntimeError("this would wait for ever in virtual time: nothing is due")
                self._move_to(until)
                break
            self._move_to(due)
        return waiter.woken

    async def sleep_async(self, seconds: float) -> None:
        """Let `seconds` pass for the current task."""
        if isinstance(asyncio.get_running_loop(), VirtualLoop):
            await asyncio.sleep(seconds)
        else:
            self.advance(max(0.0, seconds))
            await asyncio.sleep(0)

    async def wait_async(self, waiter: Waiter, until: float | None) -> bool:
        """Suspend the current task until `waiter` is woken."""
        if isinstance(asyncio.get_running_loop(), VirtualLoop):
            return await clock.system.wait_async(waiter, until)
        for _ in range(1000):
            if waiter.woken:
                return True
            await asyncio.sleep(0)
        if until is None:
            raise RuntimeError("nobody wakes this task; run it by VirtualTime.run")
        self._move_to(until)
        return waiter.woken


@final
class _VirtualSelector(selectors.DefaultSelector):
    """Waits for files without waiting for time: that jumps to the end of the wait instead."""

    def __init__(self, virtual: VirtualTime) -> None:
        super().__init__()
        self._virtual = virtual

    def select(self, timeout: float | None = None) -> Any:
        """Return what is ready, else let the time pass."""
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        due = self._virtual.next_due()
        until = None if timeout is None else self._virtual.now() + timeout
        if until is None and due is None:
            return super().select(0.05)  # something may come from a thread
        if until is None or (due is not None and due < until):
            until = due
        assert until is not None
        self._virtual._move_to(until)
        return ready


@final
class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time."""

    def __init__(self, virtual: VirtualTime) -> None:
        super().__init__(_VirtualSelector(virtual))
        self._virtual = virtual

    def time(self) -> float:
        """Return the virtual time."""
        return self._virtual.now()

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Wait for the executor's threads for as long as they take, which is real time."""
        await super().shutdown_default_executor()
