"""Business events: what a user's own function does, told with the fields that are named."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from types import CoroutineType, TracebackType
from typing import Any, ParamSpec, TypeVar, cast, final

from resilient.engine import settings
from resilient.engine.callables import (
    code_of,
    is_async_function,
    makes_a_block,
    outer_frame,
    plain_name,
)
from resilient.engine.guard import pipeline_of
from resilient.engine.pipeline import Pipeline
from resilient.errors import InvalidSetting, InvalidUse, shown
from resilient.telemetry.arguments import Arguments, checked_names, named_arguments
from resilient.telemetry.logs import Log
from resilient.telemetry.observation import BusinessEvent, Observation
from resilient.telemetry.tally import OUTCOMES, Tally

__all__ = ["Observe", "observe"]

P = ParamSpec("P")
R = TypeVar("R")

Function = Callable[..., Any]
Begin = Callable[[tuple[Any, ...], dict[str, Any]], Observation]


@final
class Observe:
    """Tells when something that matters to the business begins, and what it came to.

    A decorator for functions of every kind, and a ``with`` or ``async with`` block. There is one
    event at the start, `<name>_started`, and one at the end, with `duration_ms`:
    `<name>_succeeded`; `<name>_<suffix>` at level warning for an error that is `expected`;
    `<name>_failed` at level error, with the traceback; `<name>_cancelled`. They go to structlog as
    it is configured, else to the standard library's logging. Calls are counted by outcome, and
    timed, in `resilient_events_total` and `resilient_event_duration_seconds`.

    Arguments:
        name: The first part of the events' names, such as "payment".
        fields: The parameters of the function that are told, and no others: "user_id", or
            "order.id" for an attribute. A block is given its fields by name instead.
        result: A function of the returned value that gives further fields.
        expected: Errors that are a part of the business, with the suffix of their event. The first
            that matches counts.
        error_fields: Attributes of errors that are told, where an error has them.
        started: Whether the start is told as well.
        sample: The share of the calls that succeed of which is told, above 0 and at most 1; all
            others are told of always. Metrics count every call.
        audit: Whether no event may get lost: what a sink does not take is written to standard
            error, and counted in `resilient_audit_failures_total`.
        logger: A logger of structlog or of the standard library; else one named for the module.
        values: Further fields, with their values.

    Raises:
        InvalidSetting: If an argument is outside of its range, or the function has no parameter
            of the name of a field.
        InvalidUse: If it is a block and is given what only a function has.

    Example:
        >>> from resilient import observe
        >>> class CardDeclined(Exception): ...
        >>> @observe("payment", fields=["user_id", "amount"], expected={CardDeclined: "declined"})
        ... def pay(user_id: str, amount: int, card: str) -> str:
        ...     return "paid"
        >>> pay("u1", 1999, card="4111 1111 1111 1111")  # payment_started, payment_succeeded
        'paid'
        >>> with observe("refund", user_id="u1") as event:
        ...     event.add(transaction_id="t1")

    Where the rule comes from: the canonical log lines of Stripe, and OWASP's advice on what not
    to log.
    """

    def __init__(
        self,
        name: str,
        /,
        *,
        fields: Iterable[str] = (),
        result: Callable[[Any], Mapping[str, Any]] | None = None,
        expected: Mapping[type[Exception], str] | None = None,
        error_fields: Iterable[str] = (),
        started: bool = True,
        sample: float = 1.0,
        audit: bool = False,
        logger: Any = None,
        **values: Any,
    ) -> None:
        self.name = settings.text("name", name)
        self.fields = checked_names("fields", fields)
        self._result = (
            None
            if result is None
            else settings.plain_function("result", result, takes=["what was returned"])
        )
        self._expected = _expected({} if expected is None else expected)
        self._error_fields = checked_names("error_fields", error_fields)
        self._started = settings.flag("started", started)
        self._sample = settings.fraction("sample", sample)
        self._audit = settings.flag("audit", audit)
        if audit and sample < 1:
            raise InvalidSetting("sample", sample, "1 in audit mode, which leaves nothing out")
        checked_names("values", values)
        self._values = values
        self._logger = None if logger is None else Log(name, logger)
        self._tally = Tally.of(name)
        self._tally.expect(self._expected.values(), audit=self._audit)
        self._block: BusinessEvent | None = None
        self._open: dict[Observation, None] = {}

    def __repr__(self) -> str:
        return f"observe({self.name!r})"

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Return `function`, of which each call is told."""
        if isinstance(function, classmethod | staticmethod):
            return cast("Callable[P, R]", type(function)(self(function.__func__)))
        if inspect.isclass(function) or not callable(function):
            raise InvalidUse(f"{shown(function)} is no function, and so cannot be observed")
        if makes_a_block(function):
            raise InvalidUse(
                f"{plain_name(function)} makes a context manager, which has done nothing yet when "
                f'it is returned: use `with observe("{self.name}")` within it'
            )
        code = code_of(function)
        make = _plain
        if inspect.isgeneratorfunction(code):
            make = _stream
        elif inspect.isasyncgenfunction(code):
            make = _async_stream
            if self._result is not None:
                raise InvalidUse("an asynchronous generator returns nothing that result= could see")
        elif is_async_function(function):
            make = _async
        is_stream = make in (_stream, _async_stream)
        event = self._event(
            getattr(code, "__module__", None) or "resilient",
            is_stream=is_stream,
            pipeline=None if is_stream else _pipeline(function),
        )
        wrapper = make(function, self._beginning(event, named_arguments(function, self.fields)))
        return cast("Callable[P, R]", functools.update_wrapper(wrapper, function))

    def _event(
        self, module: str, *, is_stream: bool = False, pipeline: Pipeline | None = None
    ) -> BusinessEvent:
        return BusinessEvent(
            self.name,
            Log(module) if self._logger is None else self._logger,
            self._tally,
            result=self._result,
            expected=self._expected,
            error_fields=self._error_fields,
            started=self._started,
            sample=self._sample,
            audit=self._audit,
            pipeline=pipeline,
            is_stream=is_stream,
        )

    def _beginning(self, event: BusinessEvent, arguments: Arguments) -> Begin:
        values = self._values
        if not values:
            return lambda args, kwargs: Observation(event, arguments(args, kwargs))
        return lambda args, kwargs: Observation(event, {**values, **arguments(args, kwargs)})

    def __enter__(self) -> Observation:
        if self.fields or self._result is not None:
            raise InvalidUse(
                f'a block has no arguments and no result: with observe("{self.name}", '
                "user_id=user_id) as event: ... event.add(...)"
            )
        if self._block is None:
            self._block = self._event(outer_frame().f_globals.get("__name__", "resilient"))
        observation = Observation(self._block, dict(self._values)).__enter__()
        self._open[observation] = None
        # Others may have left some of those that were entered in this context.
        outer = (one for one in _entered.get() if one[1] in one[0]._open)
        _entered.set((*outer, (self, observation)))
        return observation

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave().__exit__(kind, error, traceback)

    def _leave(self) -> Observation:
        entered = _entered.get()
        for index in range(len(entered) - 1, -1, -1):
            who, observation = entered[index]
            if who is self:
                entered = entered[:index] + entered[index + 1 :]
                _entered.set(entered)
                if self._open.pop(observation, self) is None:
                    return observation
        # Left in another context, as by an asynchronous fixture, or by a framework that uses two
        # threads; or somebody who did so has taken this one.
        try:
            return self._open.popitem()[0]
        except KeyError:
            raise RuntimeError(f"{self!r} is left without having been entered") from None

    async def __aenter__(self) -> Observation:
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, traceback)


#: The blocks that have been entered: one object can be entered from many threads and tasks.
_entered: ContextVar[tuple[tuple[Observe, Observation], ...]] = ContextVar(
    "resilient_observed_blocks", default=()
)


def _expected(expected: Any) -> dict[type[Exception], str]:
    range_of = "errors with the suffix of their event, such as {CardDeclined: 'declined'}"
    if not isinstance(expected, Mapping):
        raise InvalidSetting("expected", expected, range_of)
    for kind, suffix in expected.items():
        if not isinstance(kind, type) or not issubclass(kind, Exception):
            raise InvalidSetting("expected", kind, range_of)
        settings.text("expected", suffix)
        if suffix in ("started", *OUTCOMES):
            raise InvalidSetting("expected", suffix, "a suffix that says more than those of others")
    return dict(expected)


def _pipeline(function: Function) -> Pipeline | None:
    try:
        return pipeline_of(function)
    except InvalidUse:
        return None


# The wrappers: they differ only where Python wants it.


def _plain(function: Function, begin: Begin) -> Function:
    def observed(*args: Any, **kwargs: Any) -> Any:
        with begin(args, kwargs) as observation:
            value = function(*args, **kwargs)
            if type(value) is CoroutineType:
                return observation.awaited(value)
            return observation.returned(value)

    return observed


def _async(function: Function, begin: Begin) -> Function:
    async def observed(*args: Any, **kwargs: Any) -> Any:
        with begin(args, kwargs) as observation:
            return observation.returned(await function(*args, **kwargs))

    return observed


def _stream(function: Function, begin: Begin) -> Function:
    def observed(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        with begin(args, kwargs) as observation:
            return observation.returned((yield from function(*args, **kwargs)))

    return observed


def _async_stream(function: Function, begin: Begin) -> Function:
    async def observed(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        with begin(args, kwargs), suppress(StopAsyncIteration):
            stream = function(*args, **kwargs)
            item = await anext(stream)
            while True:
                try:
                    sent = yield item
                except GeneratorExit:
                    await stream.aclose()
                    raise
                except BaseException as thrown:
                    item = await stream.athrow(thrown)
                else:
                    item = await stream.asend(sent)

    return observed


observe = Observe
