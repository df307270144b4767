"""What time it is and how time passes: the one place that a test replaces.

All of the library reads `now()` from this module, never a clock of its own, and never the wall
clock: stepping the system time must not open or close anything.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol

from resilient.engine.isolation import ended_by, isolated, report_broken

if TYPE_CHECKING:
    from resilient.engine.outcome import Outcome
    from resilient.engine.steps import Invoke
    from resilient.engine.waiting import Waiter
    from resilient.engine.workers import Workers

__all__ = [
    "LONGEST",
    "Clock",
    "SystemClock",
    "Timer",
    "begin_thread",
    "current",
    "followers",
    "install",
    "now",
]

#: The most seconds that anything waits at once: platforms count no further, and nobody lives to it.
LONGEST = min(1e9, threading.TIMEOUT_MAX)


class Timer(Protocol):
    """A callback that is due some time from now."""

    def cancel(self) -> None:
        """Forget the callback; harmless when it has already run."""


class Clock(Protocol):
    """A source of monotonic time in seconds, and the ways to let it pass."""

    def now(self) -> float:
        """Return seconds on a clock that never goes back."""
        ...

    def later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        """Call `callback` in the background, `seconds` from now."""
        ...

    def sleep(self, seconds: float, /) -> None:
        """Let `seconds` pass for the calling thread."""
        ...

    def acquire(self, lock: threading.Lock, seconds: float | None) -> bool:
        """Wait at most `seconds` for `lock`; None waits for as long as it takes."""
        ...

    def wait(self, waiter: Waiter, until: float | None) -> bool:
        """Block the calling thread until `waiter` is woken, and return whether it was in time."""
        ...

    def run_limited(self, workers: Workers, step: Invoke) -> Outcome:
        """Call a function where it can be abandoned at the end of its limit."""
        ...

    async def run_limited_async(self, workers: Workers, step: Invoke) -> Outcome:
        """Call a blocking function for a task, off its loop."""
        ...

    def begin(
        self, workers: Workers, step: Invoke, ended: Callable[[Outcome | BaseException], object]
    ) -> Callable[[], bool]:
        """Call a function without waiting; tell `ended` its end, and return what abandons it."""
        ...

    def background(self, function: Callable[[], object]) -> bool:
        """Call `function`, which may take long, without waiting; return False if that fails."""
        ...

    def run_coroutine(
        self,
        coroutine: Coroutine[Any, Any, Any],
        loop: asyncio.AbstractEventLoop | None,
        seconds: float,
    ) -> Any:
        """Run `coroutine` for at most `seconds`, on `loop` if that still runs, and return."""
        ...

    def sleep_async(self, seconds: float) -> Coroutine[Any, Any, None]:
        """Let `seconds` pass for the current task."""
        ...

    async def wait_async(self, waiter: Waiter, until: float | None) -> bool:
        """Suspend the current task until `waiter` is woken, and return whether it was in time."""
        ...


def begin_thread(function: Callable[[], object], name: str) -> None:
    """Begin a daemon thread, or raise RuntimeError if there is none to give."""
    if sys.is_finalizing():
        # Python 3.11 would wait for the thread to begin, for ever; later ones say the same.
        raise RuntimeError("no thread can begin any more: the process is ending")
    threading.Thread(target=function, name=name, daemon=True).start()


class SystemTimer:
    """A callback in the system clock's queue."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        """Forget the callback."""
        self.callback = None


class SystemClock:
    """The machine's monotonic clock, and one daemon thread for what is due later.

    The thread starts with the first callback and ends when nothing is due any more. Callbacks must
    be short: what takes long is handed to a worker by the callback.
    """

    now = staticmethod(time.monotonic)

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._due: list[tuple[float, int, SystemTimer]] = []
        self._order = count()
        self._running = False
        os.register_at_fork(after_in_child=self._start_again)

    def _start_again(self) -> None:
        # A forked child has inherited what is due, but not the thread that sees to it.
        self._changed = threading.Condition()
        self._running = bool(self._due)
        if self._running:
            self._start()

    def _start(self) -> None:
        try:
            begin_thread(self._run, "resilient-timers")
        except (
            RuntimeError
        ):  # the platform has no thread to give now; the next callback tries again
            self._running = False

    def acquire(self, lock: threading.Lock, seconds: float | None) -> bool:
        """Wait for `lock`, in pieces that the platform's longest wait allows."""
        if seconds is None:
            return lock.acquire()
        return lock.acquire(timeout=min(max(seconds, 0.0), LONGEST))

    def sleep(self, seconds: float, /) -> None:
        """Sleep; not at all for no time, which costs more than most calls."""
        if seconds > 0:
            time.sleep(min(seconds, LONGEST))

    def wait(self, waiter: Waiter, until: float | None) -> bool:
        """Block on a lock that the waking releases."""
        woken = threading.Lock()
        woken.acquire()
        waiter.notify(woken.release)
        self.acquire(woken, None if until is None else until - self.now())
        return waiter.woken

    def run_limited(self, workers: Workers, step: Invoke) -> Outcome:
        """Call the function on one of `workers`."""
        assert step.limit is not None
        return workers.run(step, step.limit)

    async def run_limited_async(self, workers: Workers, step: Invoke) -> Outcome:
        """Call the function on one of `workers`."""
        return await workers.run_async(step)

    def begin(
        self, workers: Workers, step: Invoke, ended: Callable[[Outcome | BaseException], object]
    ) -> Callable[[], bool]:
        """Call the function on one of `workers`."""
        return workers.begin(step, ended)

    def background(self, function: Callable[[], object]) -> bool:
        """Call `function` on a daemon thread, unless the platform has none to give now."""
        try:
            begin_thread(function, "resilient-background")
        except RuntimeError:
            return False
        return True

    def run_coroutine(
        self,
        coroutine: Coroutine[Any, Any, Any],
        loop: asyncio.AbstractEventLoop | None,
        seconds: float,
    ) -> Any:
        """Run `coroutine` on `loop`, whose clients it may share, else on a loop of its own."""
        limited = asyncio.wait_for(coroutine, seconds)
        if loop is not None and loop.is_running():
            future = asyncio.run_coroutine_threadsafe(limited, loop)
            try:
                return future.result(min(seconds + 1, LONGEST))
            finally:
                future.cancel()
                # A loop that is blocked, or ends first, never comes to it.
                if inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
                    coroutine.close()
        return asyncio.run(limited)

    def sleep_async(self, seconds: float) -> Coroutine[Any, Any, None]:
        """Sleep on the running loop."""
        return asyncio.sleep(seconds)

    async def wait_async(self, waiter: Waiter, until: float | None) -> bool:
        """Await a future that the waking resolves, from whatever thread."""
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not woken.done():
                woken.set_result(None)

        def wake_from_anywhere() -> None:
            with suppress(RuntimeError):  # the loop is closed, and its tasks with it
                loop.call_soon_threadsafe(wake)

        waiter.notify(wake_from_anywhere)
        # By the clock in use, which need not be this one: a virtual one has its tasks wait here.
        timer = None if until is None else loop.call_later(until - now(), wake)
        try:
            await woken
        finally:
            if timer is not None:
                timer.cancel()
        return waiter.woken

    def later(self, seconds: float, callback: Callable[[], object]) -> SystemTimer:
        """Call `callback` on the background thread, `seconds` from now."""
        timer = SystemTimer(callback)
        with self._changed:
            heappush(self._due, (time.monotonic() + seconds, next(self._order), timer))
            if not self._running:
                self._running = True
                self._start()
            else:
                self._changed.notify()
        return timer

    def _run(self) -> None:
        while True:
            with self._changed:
                while self._due and self._due[0][2].callback is None:
                    heappop(self._due)
                if not self._due:
                    self._running = False
                    return
                if current is not self:
                    # A test has put another clock in place; what this one owes is no part of it.
                    self._changed.wait(0.05)
                    continue
                wait = self._due[0][0] - time.monotonic()
                if wait > 0:
                    self._changed.wait(min(wait, LONGEST))
                    continue
                callback = heappop(self._due)[2].callback
            if callback is not None:
                try:
                    isolated("timer", None, callback)
                except BaseException as interruption:  # which ends no other timer
                    report_broken("timer", ended_by("timer", interruption))


system = SystemClock()
current: Clock = system
now: Callable[[], float] = system.now
#: Called with each new `now`, for those who keep it closer at hand than here.
followers: list[Callable[[Callable[[], float]], object]] = []


def install(clock: Clock) -> Clock:
    """Make `clock` the library's clock and return the one that it replaces."""
    global current, now
    replaced, current, now = current, clock, clock.now
    for follow in followers:
        follow(now)
    return replaced
