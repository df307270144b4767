"""Retries around a block rather than a function: ``for attempt in retrying(...)``."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from types import TracebackType
from typing import Any, final

from resilient.engine import clock
from resilient.engine import settings as checks
from resilient.engine.blocks import until_attempt
from resilient.engine.call import Call
from resilient.engine.callables import calling_place
from resilient.engine.drivers import drive, drive_async
from resilient.engine.locks import new_lock
from resilient.engine.measures import Measures
from resilient.engine.notes import put
from resilient.engine.outcome import Outcome
from resilient.engine.pipeline import Pipeline
from resilient.engine.steps import Attempt, Step, Steps
from resilient.engine.strategy import Target
from resilient.errors import InvalidUse
from resilient.strategies.retry import Retry
from resilient.strategies.retry_budget import OWN_BUDGET, RetryBudget

__all__ = ["AttemptBlock", "Retrying", "retrying"]


@final
class AttemptBlock:
    """One attempt: a ``with`` block whose error is swallowed if there is going to be another."""

    def __init__(self, loop: _Loop, number: int) -> None:
        self._loop = loop
        #: Which attempt this is, from 1 on.
        self.number = number
        self._started = clock.now()

    def __enter__(self) -> AttemptBlock:
        self._loop.enter(self.number)
        self._started = clock.now()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        return self._loop.attempted(error, self._started)


@final
class _Loop:
    """One use of a `Retrying`: its steps, as far as they have come."""

    def __init__(self, pipeline: Pipeline, *, is_async: bool) -> None:
        self._call = Call(pipeline, _nothing, (), {}, is_async=is_async)
        self._steps = pipeline.steps(self._call)
        #: What leads to the next attempt; None while there is one that has not ended.
        self._go_on: Callable[[], Step] | None = partial(next, self._steps)
        self._ended = False
        self._number = 0
        #: The attempts whose blocks have begun.
        self._entered = 0

    def next(self) -> Steps[AttemptBlock | None]:
        """Carry out what lies between two attempts; None when there is no further one."""
        if self._ended:
            return None
        go_on, self._go_on = self._go_on, None
        if go_on is None:
            raise InvalidUse("every attempt of retrying() is a block: `with attempt: ...`")
        reached = yield from until_attempt(self._steps, go_on)
        assert isinstance(reached, Attempt), "a loop ends with an attempt"
        self._number += 1
        return AttemptBlock(self, self._number)

    def enter(self, number: int) -> None:
        """Begin the block of an attempt."""
        if self._ended or number != self._number or number == self._entered:
            raise InvalidUse(
                "an attempt of retrying() is one block: take the next attempt from the loop"
            )
        self._entered = number

    def attempted(self, error: BaseException | None, started: float) -> bool:
        """Take note of an attempt; return whether its error is to be swallowed."""
        if self._ended:  # the loop was closed within the block
            return False
        try:
            if error is None or isinstance(error, Exception):
                step = self._steps.send(Outcome(None, error, started, clock.now()))
                self._go_on = lambda: step
                return True
            self._steps.throw(error)
        except StopIteration as finished:
            self._ended = True
            _raise_earlier(finished.value.error, error)
        except BaseException as raised:
            if raised is not error:
                raise
        self._ended = True
        return False

    def close(self) -> None:
        """Count a loop that was left between two attempts."""
        self._ended = True
        self._steps.close()


def _raise_earlier(earlier: Exception | None, error: BaseException | None) -> None:
    """Raise the real error of an attempt before, if the last one was rejected."""
    if earlier is None or earlier is error:
        return
    context = earlier.__context__
    try:
        raise earlier
    finally:
        put(earlier, "__context__", context)  # not the rejection, whose cause it is
        del earlier, error, context


def _nothing() -> None:
    """Stand for the block, which is called by nobody."""


class Retrying:
    """Attempts at a block; see `retrying`."""

    def __init__(self, retry: Retry, name: str) -> None:
        retry.attach(Target(_nothing, name, is_async=False))
        self._pipeline = Pipeline(retry, name=name)

    def __iter__(self) -> Iterator[AttemptBlock]:
        loop = _Loop(self._pipeline, is_async=False)
        try:
            while (attempt := drive(loop.next())) is not None:
                yield attempt
        finally:
            loop.close()

    async def __aiter__(self) -> AsyncIterator[AttemptBlock]:
        loop = _Loop(self._pipeline, is_async=True)
        try:
            while (attempt := await drive_async(loop.next())) is not None:
                yield attempt
        finally:
            loop.close()


#: The places in a program that use `retrying`, with what must outlive a single use.
_places: OrderedDict[str, tuple[RetryBudget, Measures]] = OrderedDict()
_MOST_PLACES = 1000
_lock = new_lock()


def retrying(on: Any = None, *, name: str | None = None, **settings: Any) -> Retrying:
    """Return attempts at a block, for ``for`` and ``async for``.

    Arguments:
        on: What is tried again, as for `retry`.
        name: The name in errors, logs and metrics; that of the calling function unless given.
        settings: All others, as for `retry`. Uses under one name share a budget, unless they are
            given one.

    The error of the last attempt leaves its block as it was, with a note as for `retry`; where that
    attempt was rejected, as by an open circuit, the error of the one before it does.

    Raises:
        InvalidSetting: If an argument is outside of its range.
        InvalidUse: If nothing says what is tried again, or an attempt is not used as a block.

    Example:
        >>> from resilient import retrying
        >>> failures = [ConnectionError("reset")]
        >>> for attempt in retrying(on=ConnectionError, attempts=3, wait_initial=0):
        ...     with attempt:
        ...         if failures:
        ...             raise failures.pop()
        ...         print("connected at attempt", attempt.number)
        connected at attempt 2
    """
    if settings.get("on_result") is not None:
        raise InvalidUse("a block has no value for on_result to look at: decorate a function")
    name = calling_place() if name is None else checks.text("name", name)
    if settings.get("budget", OWN_BUDGET) is not OWN_BUDGET:
        return Retrying(Retry(on, **settings), name)
    with _lock:
        place = _places.pop(name, None) or (RetryBudget(), Measures.of(name))
        _places[name] = place
        if len(_places) > _MOST_PLACES:
            _places.popitem(last=False)
    settings["budget"] = place[0]
    return Retrying(Retry(on, **settings), name)
