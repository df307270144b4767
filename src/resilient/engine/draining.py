"""Ending without losing anything: no new work, and time for what is in flight.

A unit of work is what somebody waits for from outside: a request, a message of a queue. Calls that
a unit makes are part of it, and go on while the process is draining.
"""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from contextvars import ContextVar, Token
from functools import partial, wraps
from types import CoroutineType, TracebackType
from typing import Any, ParamSpec, TypeVar, cast, final

from resilient.engine import clock, settings, signals
from resilient.engine.callables import code_of, is_async_function, makes_a_block, plain_name
from resilient.engine.drivers import drive, drive_async
from resilient.engine.locks import new_lock
from resilient.engine.reported import Reading, Reported
from resilient.engine.steps import Steps, Wait
from resilient.engine.waiting import Waiter
from resilient.errors import Draining, InvalidUse

__all__ = ["Drain", "drain", "draining", "unit_of_work"]

P = ParamSpec("P")
R = TypeVar("R")


@final
class _Work:
    """One unit in flight, until the last of those who are within it has left."""

    __slots__ = ("__weakref__", "within")

    def __init__(self) -> None:
        self.within = 0


@final
class _InFlight(Reported):
    """What the process is doing for others, and who waits for the end of it."""

    __slots__ = ("_lock", "_waiting", "_works", "draining", "rejected")

    def __init__(self) -> None:
        self._lock = new_lock()
        self.draining = False
        self.rejected = 0
        self._forget()
        os.register_at_fork(after_in_child=self._forget)
        self.report()

    def _forget(self) -> None:
        # Whoever is at work in the parent is not in a forked child, which nobody has told to drain.
        self.draining = False
        self._works: set[_Work] = set()
        self._waiting: dict[Waiter, _Work | None] = {}

    def enter(self, outer: _Work | None) -> _Work:
        """Return the unit that is entered: `outer`, if that is still in flight, else a new one."""
        with self._lock:
            if outer is not None and outer in self._works:
                outer.within += 1
                return outer
            if self.draining:
                self.rejected += 1
                raise Draining
            work = _Work()
            work.within = 1
            self._works.add(work)
            return work

    def leave(self, work: _Work) -> None:
        with self._lock:
            work.within -= 1
            if work.within:
                return
            self._works.discard(work)
            ended = [one for one, own in self._waiting.items() if not self.left(own)]
        for waiter in ended:
            waiter.wake()

    def left(self, own: _Work | None = None) -> int:
        """Return how many units are in flight, but for one's own."""
        return len(self._works) - (own in self._works)

    def wait(self, waiter: Waiter, own: _Work | None) -> None:
        """Wake `waiter` when all units but its own have ended."""
        with self._lock:
            self._waiting[waiter] = own
            has_ended = not self.left(own)
        if has_ended:
            waiter.wake()

    def stop_waiting(self, waiter: Waiter) -> None:
        with self._lock:
            self._waiting.pop(waiter, None)

    def resume(self) -> None:
        """Take new work again."""
        self.draining = False

    def readings(self) -> Iterable[Reading]:
        """Return how much is in flight, and whether more is taken."""
        help_ = "Units of work that have begun and not ended: requests, messages"
        yield Reading("requests_in_flight", help_, "gauge", {}, self.left())
        help_ = "1 while the process takes no new work"
        yield Reading("draining", help_, "gauge", {}, int(self.draining))
        help_ = "Units of work that were not begun, as the process was draining"
        yield Reading("requests_rejected", help_, "counter", {}, self.rejected)


_in_flight = _InFlight()
_current: ContextVar[_Work | None] = ContextVar("resilient_unit_of_work", default=None)


@final
class unit_of_work:  # noqa: N801 - used like contextlib.suppress
    """A request, a message, a job: something that is finished before the process ends.

    For a ``with`` or ``async with`` block, and as decorator of a function, plain or asynchronous.
    The middlewares enter one for each request. What is within a unit already, tasks that it has
    started included, enters no second one, and is let in while the process is draining.

    Raises:
        Draining: When entering while the process is draining.
        InvalidUse: When decorating a generator, whose work is not done when it returns.

    Example:
        >>> from resilient import unit_of_work
        >>> with unit_of_work():
        ...     answer = "finished before the process ends"
        >>> @unit_of_work()
        ... def consume(message: str) -> str:
        ...     return f"done: {message}"
        >>> consume("m1")
        'done: m1'
    """

    __slots__ = ("_token", "_work")

    def __enter__(self) -> None:
        self._work = _in_flight.enter(_current.get())
        self._token: Token[_Work | None] = _current.set(self._work)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # A response that is streamed may be closed in another context than it was begun in.
        with suppress(ValueError):
            _current.reset(self._token)
        _in_flight.leave(self._work)

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, traceback)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Return `function`, of which each call is a unit of work."""
        if isinstance(function, classmethod | staticmethod):
            return cast("Callable[P, R]", type(function)(self(function.__func__)))
        settings.function("function", function)
        inner = code_of(function)
        if inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner):
            raise InvalidUse(
                f"{plain_name(function)} is a generator, which has done nothing yet when it "
                "returns: use `with unit_of_work():` within it"
            )
        if makes_a_block(function):
            raise InvalidUse(
                f"{plain_name(function)} makes a context manager, which has done nothing yet when "
                "it is returned: use `with unit_of_work():` within it"
            )
        if is_async_function(function):

            @wraps(function)
            async def within_async(*args: P.args, **kwargs: P.kwargs) -> Any:
                with unit_of_work():
                    return await cast("Any", function(*args, **kwargs))

            return cast("Callable[P, R]", within_async)

        @wraps(function)
        def within(*args: P.args, **kwargs: P.kwargs) -> R:
            with unit_of_work():
                value = function(*args, **kwargs)
            return cast("R", _awaited(value)) if type(value) is CoroutineType else value

        return within


async def _awaited(coroutine: Any) -> Any:
    """Be the unit of what a plain function has returned, and has not begun yet."""
    try:
        with unit_of_work():
            return await coroutine
    finally:
        coroutine.close()


@final
class Drain:
    """The end of what is in flight: awaited, or waited for.

    Attributes:
        timeout: The seconds from its beginning after which nobody waits any more.
    """

    __slots__ = ("_began", "timeout")

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._began = clock.now()

    def __repr__(self) -> str:
        return f"<Drain: {self.left} in flight>"

    @property
    def left(self) -> int:
        """How many units of work are in flight, but for the one that asks."""
        return _in_flight.left(_current.get())

    def __await__(self) -> Generator[Any, Any, bool]:
        return drive_async(self._steps()).__await__()

    def wait(self) -> bool:
        """Block this thread until nothing is in flight; return False if that is not in time.

        Raises:
            InvalidUse: If an event loop is running on this thread.
        """
        if asyncio._get_running_loop() is not None:
            raise InvalidUse(
                "wait() would block the event loop, and with it what is in flight: "
                "`await drain(...)` in a coroutine"
            )
        return drive(self._steps())

    def resume(self) -> None:
        """Take new work again, from now on."""
        _in_flight.resume()

    def _steps(self) -> Steps[bool]:
        waiter = Waiter()
        _in_flight.wait(waiter, _current.get())
        try:
            yield Wait(waiter, self._began + self.timeout)
        finally:
            _in_flight.stop_waiting(waiter)
        left = self.left
        seconds = round(clock.now() - self._began, 3)
        signals.emit("resilient.drain_ended", left=left, duration_seconds=seconds)
        return not left


def drain(timeout: float = 25) -> Drain:
    """Take no new work from now on, and let what is in flight end.

    From this call on, also without waiting, `/health/ready` is 503 and new units of work are
    rejected. Await what it returns, or `wait()` for it where there is no event loop; that gives
    True if all units have ended, and False if `timeout` was over before. Called again it changes
    nothing, and waits as well. A unit that waits does not wait for itself.

    Arguments:
        timeout: Seconds from now, 0 or more, for what is in flight. Stay below the time after
            which the process is killed: 30 s in Kubernetes unless set otherwise.

    Raises:
        InvalidSetting: If `timeout` is no number of seconds.

    Example:
        >>> from resilient import drain
        >>> drained = drain(timeout=5)
        >>> drained.wait()
        True
        >>> drained.resume()

    Where the rule comes from: the termination of pods in Kubernetes, and gunicorn's
    `graceful_timeout`.
    """
    begun = Drain(settings.seconds("timeout", timeout))
    if not _in_flight.draining:
        _in_flight.draining = True
        clock.current.later(0, partial(_tell, _in_flight.left(), begun.timeout))
    return begun


def _tell(left: int, timeout: float) -> None:
    # Not where drain() is called: that may be in a signal handler, which may have come in the midst
    # of a line that is being logged, with the lock of the logger held.
    signals.emit("resilient.drain_started", left=left, timeout_seconds=timeout)


def draining() -> bool:
    """Return whether the process takes no new work.

    For loops that fetch their work: ask before fetching what could not be begun.

    Example:
        >>> from resilient import draining
        >>> draining()
        False
    """
    return _in_flight.draining
