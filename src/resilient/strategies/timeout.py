"""Time limits: `timeout` takes a call away from its caller, `deadline` tells it what is left."""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from resilient.engine import clock, settings, signals
from resilient.engine.call import Call
from resilient.engine.limits import Limit, remaining, tighter
from resilient.engine.outcome import Outcome
from resilient.engine.steps import Proceed, Steps
from resilient.engine.strategy import Strategy, Target
from resilient.engine.timers import Cuts
from resilient.engine.workers import Workers
from resilient.errors import CallTimeout, InvalidUse, WorkersSaturated

__all__ = ["Deadline", "Timeout", "deadline", "timeout"]


class Timeout(Strategy):
    """A hard time limit: the caller has control back when it comes.

    An asynchronous call is cancelled, as `asyncio.timeout` does it. A synchronous one runs on a
    worker thread, with the caller's context variables, and is abandoned there: a thread cannot be
    stopped. While `max_abandoned` of them are still running, further calls are rejected. Time
    spent waiting for a worker is not the call's and does not count.

    The callee's own `TimeoutError` is its error and passes unchanged.

    Arguments:
        seconds: The limit; above 0.
        max_abandoned: How many calls may be left running after their limit; 1 or more.
        max_workers: How many synchronous calls may run at once; 1 or more.

    Raises:
        CallTimeout: When the call is not back in time; a `TimeoutError`.
        WorkersSaturated: When too many abandoned calls are still running.
        InvalidSetting: If an argument is outside of its range.

    Example:
        >>> from resilient import timeout
        >>> @timeout(2)
        ... def fetch() -> str:
        ...     return "fetched within two seconds"
        >>> fetch()
        'fetched within two seconds'

    Where the rule comes from: `asyncio.timeout` for cancellation; Polly's and resilience4j's
    time limiters for synchronous calls, with a bound on what they leave behind.
    """

    rejection = WorkersSaturated

    lets_refusals_pass = True

    def __init__(self, seconds: float, *, max_abandoned: int = 32, max_workers: int = 64) -> None:
        super().__init__()
        self.limit = settings.seconds("seconds", seconds, above_zero=True)
        self.seconds = self.block_seconds = self.limit
        self.max_abandoned = settings.count("max_abandoned", max_abandoned)
        self.max_workers = settings.count("max_workers", max_workers)
        self.cuts = Cuts()

    def __repr__(self) -> str:
        return f"Timeout({self.limit:g})"

    def attach(self, target: Target) -> Timeout:
        """Make the workers, without any thread yet, if the function is synchronous."""
        if not target.is_async:
            self.need_workers()
        return self

    def need_workers(self) -> Workers:
        """Return the workers for synchronous calls, made on first use."""
        if self.workers is None:
            self.workers = Workers(max_workers=self.max_workers, max_abandoned=self.max_abandoned)
        return self.workers

    def longest(self, seconds: float) -> float:
        """Return the limit, if that is less."""
        return min(seconds, self.limit)

    def as_block(self, *, is_async: bool) -> tuple[Strategy, ...]:
        """Refuse a synchronous block, which nothing can take away from its caller."""
        if not is_async:
            raise InvalidUse(
                "a synchronous block cannot be taken away from its caller: "
                "use `with deadline(...)` and hand its remaining() on, or decorate a function "
                "with timeout(...)"
            )
        return (self,)

    def steps(self, call: Call, proceed: Proceed) -> Steps[Outcome]:
        """Put the limit on all that is further in."""
        begun = clock.now() if call.resumed is None else call.resumed.started
        outer, outer_workers = call.limit, call.workers
        call.limit = tighter(outer, Limit(begun + self.limit, self.limit, call.name, self))
        if not call.is_async:
            call.workers = self.need_workers()
        try:
            outcome = yield from proceed(call)
        finally:
            call.limit, call.workers = outer, outer_workers
        error = outcome.error
        if isinstance(error, CallTimeout) and error.owner is self:
            signals.emit("resilient.call_timed_out", dependency=call.name, seconds=self.limit)
        elif isinstance(error, WorkersSaturated) and outer_workers is None:
            call.pipeline.measures.rejected(error.reason)
        return outcome


class Deadline(Strategy):
    """A cooperative time limit: known to all that the call does, and enforced where that is free.

    A synchronous call stays on its thread, and learns what is left from `remaining()` or from an
    argument; guarded calls further down are clipped to it, retries do not sleep past it, and none
    begins after it. An asynchronous call is cancelled, as that costs nothing.

    Arguments:
        seconds: The limit; above 0.
        pass_as: The name of a parameter of the function to hand the remaining seconds to.

    Raises:
        DeadlineExceeded: When a guarded call would have begun too late; a `CallTimeout`.
        InvalidSetting: If `seconds` is outside of its range.
        InvalidUse: If the function has no parameter of the name `pass_as`.

    Example:
        >>> from resilient import deadline
        >>> @deadline(2, pass_as="timeout")
        ... def fetch(url: str, timeout: float = 60) -> bool:
        ...     return timeout <= 2
        >>> fetch("https://example.org")
        True

    Where the rule comes from: deadlines in gRPC and in Go's `context`.
    """

    lets_refusals_pass = True

    def __init__(self, seconds: float, *, pass_as: str | None = None) -> None:
        super().__init__()
        self.limit = self.block_seconds = settings.seconds("seconds", seconds, above_zero=True)
        self.pass_as = None if pass_as is None else settings.text("pass_as", pass_as)
        #: Where among positional arguments that parameter is; nowhere unless it can be.
        self._position = sys.maxsize
        self.cuts = Cuts()

    def __repr__(self) -> str:
        passed = "" if self.pass_as is None else f", pass_as={self.pass_as!r}"
        return f"Deadline({self.limit:g}{passed})"

    @property
    def at_rest(self) -> bool:
        """Never: the limit has to be set for each call."""
        return False

    def attach(self, target: Target) -> Deadline:
        """Find out where the function takes what it is to be handed."""
        if self.pass_as is None or target.signature is None:
            return self
        kinds = inspect.Parameter
        parameters = target.signature.parameters
        parameter = parameters.get(self.pass_as)
        if parameter is None:
            taken = any(one.kind is kinds.VAR_KEYWORD for one in parameters.values())
        else:
            taken = parameter.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)
        if not taken:
            raise InvalidUse(
                f"pass_as={self.pass_as!r}: {target.name} has no such parameter to name; "
                f"it has {', '.join(parameters) or 'none'}"
            )
        attached = copy.copy(self)
        if parameter is not None and parameter.kind is kinds.POSITIONAL_OR_KEYWORD:
            attached._position = list(parameters).index(self.pass_as)
        return attached

    def steps(self, call: Call, proceed: Proceed) -> Steps[Outcome]:
        """Make the limit known to all that is further in."""
        outer, function = call.limit, call.function
        call.limit = tighter(outer, Limit(clock.now() + self.limit, self.limit, call.name, self))
        if self.pass_as is not None:
            call.function = partial(_handing_down, function, self.pass_as, self._position)
        try:
            outcome = yield from proceed(call)
        finally:
            call.limit, call.function = outer, function
        error = outcome.error
        if isinstance(error, CallTimeout) and error.owner is self:
            signals.emit("resilient.call_timed_out", dependency=call.name, seconds=self.limit)
        return outcome


def _handing_down(
    function: Callable[..., Any], pass_as: str, position: int, /, *args: Any, **kwargs: Any
) -> Any:
    left = remaining()
    if left is None:
        return function(*args, **kwargs)
    by_position = position < len(args)
    given = args[position] if by_position else kwargs.get(pass_as)
    if isinstance(given, int | float):
        left = min(left, given)
    if by_position:
        return function(*args[:position], left, *args[position + 1 :], **kwargs)
    return function(*args, **{**kwargs, pass_as: left})


timeout = Timeout
deadline = Deadline
