"""One observed call or block, from its start to its end, and what is told of it."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from contextvars import Token
from types import TracebackType
from typing import TYPE_CHECKING, Any, final

from resilient.engine import clock
from resilient.engine.isolation import isolated, report_broken
from resilient.engine.watching import Watcher, watching
from resilient.errors import CallRejected, InvalidUse
from resilient.telemetry.arguments import attributes_of
from resilient.telemetry.logs import RESERVED, Log, rendered
from resilient.telemetry.tally import Tally

if TYPE_CHECKING:
    from resilient.engine.call import Call
    from resilient.engine.pipeline import Pipeline

__all__ = ["BusinessEvent", "Observation"]


@final
class BusinessEvent:
    """What is told of a kind of call, and where: the settings of `observe`, checked."""

    __slots__ = (
        "_suffixes",
        "_tell",
        "audit",
        "error_fields",
        "expected",
        "is_stream",
        "name",
        "pipeline",
        "result",
        "sample",
        "started",
        "tally",
    )

    def __init__(
        self,
        name: str,
        log: Log,
        tally: Tally,
        *,
        result: Callable[[Any], Mapping[str, Any]] | None,
        expected: Mapping[type[Exception], str],
        error_fields: tuple[str, ...],
        started: bool,
        sample: float,
        audit: bool,
        pipeline: Pipeline | None = None,
        is_stream: bool = False,
    ) -> None:
        self.name = name
        self._tell = log.tell_for_sure if audit else log.tell
        self.tally = tally
        self.result = result
        self.expected = tuple(expected.items())
        self.error_fields = error_fields
        self.started = f"{name}_started" if started else None
        self.sample = sample
        self.audit = audit
        #: What guards the function that is observed, if anything does.
        self.pipeline = pipeline
        #: Whether others run between the items of a stream, who must not be taken for parts of it.
        self.is_stream = is_stream
        outcomes = ("succeeded", "failed", "cancelled", *expected.values())
        self._suffixes = {outcome: f"{name}_{outcome}" for outcome in outcomes}

    def outcome_of(self, error: BaseException | None) -> tuple[str, str]:
        """Return what a call came to that ended with `error`, and the level of that."""
        if error is None or (self.is_stream and isinstance(error, GeneratorExit)):
            return "succeeded", "info"  # a consumer that has seen enough of a stream included
        if not isinstance(error, Exception):
            return "cancelled", "info"
        for kind, suffix in self.expected:
            if isinstance(error, kind):
                return suffix, "warning"
        return "failed", "error"

    def tell_outcome(self, outcome: str, level: str, fields: Mapping[str, Any]) -> None:
        """Log what a call came to."""
        self.tell(level, self._suffixes[outcome], fields)

    def tell(self, level: str, name: str, fields: Mapping[str, Any]) -> None:
        """Log one event; what goes wrong there never becomes the result of the call."""
        try:
            self._tell(level, name, fields)
        except Exception as error:
            report_broken("event sink", error)
            if self.audit:
                self.tally.audit_failed()
                line = isolated("audit", name, rendered, name, fields)
                with suppress(Exception):  # counted above: there is nobody left to tell
                    print(f"{line} audit_failure={type(error).__name__}", file=sys.stderr)  # noqa: T201


@final
class Observation:
    """A call or block that is being observed."""

    __slots__ = (
        "__weakref__",
        "_calls",
        "_event",
        "_fields",
        "_goes_on",
        "_is_sampled",
        "_outer",
        "_start",
        "_token",
        "told",
    )

    def __init__(self, event: BusinessEvent, fields: dict[str, Any]) -> None:
        self._event = event
        self._fields = fields
        self._calls: list[Call] = []
        self._goes_on = False
        self._is_sampled = event.sample >= 1 or random.random() < event.sample
        self._outer: Watcher | None = None
        self._token: Token[Watcher | None] | None = None
        #: An error whose traceback an event within this one has told already.
        self.told: BaseException | None = None
        if event.started is not None and self._is_sampled:
            event.tell("info", event.started, fields)
        self._start = clock.now()

    def add(self, /, **fields: Any) -> None:
        """Add fields to the event at the end; a name that events have a use for gets a `_`."""
        for key, value in fields.items():
            self._fields[f"{key}_" if key in RESERVED else key] = value

    def returned(self, value: Any) -> Any:
        """Add what the event's `result` makes of a returned value, and return that value."""
        result = self._event.result
        if result is not None and self._is_sampled:
            isolated("observed result", None, self._add_result, result, value)
        return value

    def _add_result(self, result: Callable[[Any], Mapping[str, Any]], value: Any) -> None:
        fields = result(value)
        if not isinstance(fields, Mapping):
            raise InvalidUse(f"result= has to return a mapping, not {type(fields).__name__}")
        self.add(**{str(key): one for key, one in fields.items()})

    def awaited(self, coroutine: Coroutine[Any, Any, Any]) -> Coroutine[Any, Any, Any]:
        """Go on until `coroutine` has ended, which a plain function has returned."""
        self._goes_on = True
        return self._awaited(coroutine)

    async def _awaited(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        with self:
            return self.returned(await coroutine)

    def called(self, call: Call) -> None:
        """Take note of a call that was not done at the first attempt."""
        if call.pipeline is self._event.pipeline:
            self._calls.append(call)
        if self._outer is not None:
            self._outer.called(call)

    def __enter__(self) -> Observation:
        if not self._event.is_stream:
            outer = watching.get()
            while isinstance(outer, Observation) and outer._token is None:
                outer = outer._outer  # it has been left in another context
            self._outer = outer
            self._token = watching.set(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._token is not None:
            try:
                watching.reset(self._token)
            except ValueError:  # left in another context, as by an asynchronous fixture
                if watching.get() is self:
                    watching.set(self._outer)
            self._token = None
        if self._goes_on and error is None:
            self._goes_on = False
            return
        seconds = clock.now() - self._start
        event = self._event
        outcome, level = event.outcome_of(error)
        event.tally.count(outcome, seconds)
        if outcome == "succeeded" and not self._is_sampled:
            return
        fields = self._fields
        fields["duration_ms"] = round(seconds * 1000, 3)
        if event.pipeline is not None:
            self._add_calls(fields, error)
        if error is not None and outcome != "succeeded":
            self._add_error(fields, error, outcome)
        event.tell_outcome(outcome, level, fields)
        fields.pop("exc_info", None)
        self.told = self._outer = None

    def _add_calls(self, fields: dict[str, Any], error: BaseException | None) -> None:
        """Add how often the function was called, and what was served instead of its answer."""
        if self._calls:
            fields["attempts"] = sum(call.attempts for call in self._calls)
        else:  # the fast lane has made it, unless it was turned away on the spot
            fields["attempts"] = 0 if isinstance(error, CallRejected) else 1
        for call in self._calls:
            if call.served is not None:
                fields["degraded"] = call.served.tier

    def _add_error(self, fields: dict[str, Any], error: BaseException, outcome: str) -> None:
        fields["error"] = type(error).__name__
        fields.update(attributes_of(error, self._event.error_fields))
        if outcome != "failed" or isinstance(error, CallRejected):
            return  # where nothing has run, there is nothing to trace
        if self.told is not error:
            fields["exc_info"] = error
        if isinstance(self._outer, Observation):
            self._outer.told = error
