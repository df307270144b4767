"""Business events: what is told of a function or a block, when, at which level, and what is not."""

# What returns Any may be a coroutine, for all that a type checker knows.
# pyright: reportUnusedCoroutine=false, reportIndexIssue=false

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import inspect
import io
import json
import logging
import random
import threading
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from resilient import (
    CallRejected,
    InvalidSetting,
    InvalidUse,
    cached,
    circuit_breaker,
    observe,
    pipeline_of,
    retry,
    timeout,
    with_fallback,
)
from resilient.engine.isolation import broken
from resilient.engine.reported import all_readings
from resilient.telemetry import tally
from resilient.telemetry.swallowed import standard_logger
from resilient.testing import VirtualTime
from tests.doubles import Scripted, each


class Declined(Exception):
    """An error that is a part of the business."""

    def __init__(self, decline_code: str = "insufficient_credit") -> None:
        super().__init__("declined")
        self.decline_code = decline_code


@pytest.fixture
def logs(virtual_time: VirtualTime) -> Iterator[list[Any]]:
    """What is logged, in virtual time."""
    with capture_logs() as captured:
        yield captured


def told(logs: list[Any]) -> list[tuple[str, str]]:
    """Return the names of events with their levels."""
    return [(log["event"], log["log_level"]) for log in logs]


def counted(event: str) -> dict[str, float]:
    """Return how often an event has come to what, those of zero included."""
    return {
        reading.labels["outcome"]: reading.value  # type: ignore[misc]
        for reading in all_readings()
        if reading.name == "events" and reading.labels["event"] == event
    }


def reading(name: str, event: str) -> Any:
    """Return the value of another metric of an event, or None."""
    found = [
        one.value for one in all_readings() if one.name == name and one.labels["event"] == event
    ]
    return found[0] if found else None


# What is told


def test_a_call_that_succeeds_is_told_at_its_start_and_at_its_end(
    logs: list[Any], virtual_time: VirtualTime
) -> None:
    """Two events with the named fields, the second with the duration and the result's fields."""

    @observe(
        "payment",
        fields=["user_id", "amount"],
        result=lambda charge: {"transaction_id": charge["id"]},
    )
    def pay(user_id: str, amount: int, card: str) -> dict[str, str]:
        virtual_time.sleep(0.0417)
        return {"id": "t1"}

    assert pay("u1", amount=1999, card="4111") == {"id": "t1"}
    assert logs == [
        {"event": "payment_started", "log_level": "info", "user_id": "u1", "amount": 1999},
        {
            "event": "payment_succeeded",
            "log_level": "info",
            "user_id": "u1",
            "amount": 1999,
            "duration_ms": 41.7,
            "transaction_id": "t1",
        },
    ]


def test_an_expected_error_is_a_warning_with_its_suffix(logs: list[Any]) -> None:
    """It has the attributes that were named and are there, and no traceback."""

    class Refunded(Declined):
        decline_code = None  # type: ignore[assignment]

    @observe(
        "payment",
        expected={Refunded: "refunded", Declined: "declined", KeyError: "unknown"},
        error_fields=["decline_code", "response.status", "args"],
        started=False,
    )
    def pay(error: Exception) -> None:
        raise error

    for error in (Declined(), Refunded(), KeyError("u1")):
        with pytest.raises(type(error)):
            pay(error)
    assert logs == [
        {
            "event": "payment_declined",
            "log_level": "warning",
            "duration_ms": 0,
            "error": "Declined",
            "decline_code": "insufficient_credit",
            "args": ("declined",),
        },
        {
            "event": "payment_refunded",
            "log_level": "warning",
            "duration_ms": 0,
            "error": "Refunded",
            "decline_code": "insufficient_credit",
            "args": ("declined",),
        },
        {
            "event": "payment_unknown",
            "log_level": "warning",
            "duration_ms": 0,
            "error": "KeyError",
            "args": ("u1",),
        },
    ]


def test_any_other_error_is_a_failure_with_its_traceback(logs: list[Any]) -> None:
    """Its own object goes to the logger, which makes a traceback of it, and to the caller."""
    error = ValueError("broken")
    call = observe("payment", started=False)(Scripted(error))
    with pytest.raises(ValueError, match="broken") as caught:
        call()
    assert caught.value is error
    [failed] = logs
    assert failed.pop("exc_info") is error
    assert failed == {
        "event": "payment_failed",
        "log_level": "error",
        "duration_ms": 0,
        "error": "ValueError",
    }


def test_an_error_that_passes_two_events_has_one_traceback(logs: list[Any]) -> None:
    """The innermost event has it; those around it name the error."""
    inner = observe("charge", started=False)(Scripted(ValueError))

    @observe("order", started=False)
    def order() -> None:
        with observe("payment", started=False):
            inner()

    with pytest.raises(ValueError, match="as told"):
        order()
    assert [(log["event"], "exc_info" in log) for log in logs] == [
        ("charge_failed", True),
        ("payment_failed", False),
        ("order_failed", False),
    ]


def test_an_error_of_another_event_keeps_its_traceback(logs: list[Any]) -> None:
    """What was swallowed before has no part in what is told afterwards."""
    inner = observe("charge", started=False)(Scripted(ValueError))

    @observe("order", started=False)
    def order() -> None:
        with suppress(ValueError):
            inner()
        raise KeyError

    with pytest.raises(KeyError):
        order()
    assert ["exc_info" in log for log in logs] == [True, True]


def test_a_traceback_shows_code_and_no_values(virtual_time: VirtualTime) -> None:
    """As structlog formats it, once, with one frame of ours, and without local variables."""
    stream = io.StringIO()
    structlog.configure(
        processors=[structlog.processors.format_exc_info, structlog.processors.JSONRenderer()],
        logger_factory=structlog.PrintLoggerFactory(stream),
    )
    try:

        @observe("login", fields=["user"])
        def login(user: str, password: str) -> None:
            attempt = {"password": password}
            raise PermissionError(f"no such user, {len(attempt)}")

        with pytest.raises(PermissionError):
            login("bob", password="hunter2")
    finally:
        structlog.reset_defaults()
    started, failed = map(json.loads, stream.getvalue().splitlines())
    assert started == {"event": "login_started", "user": "bob"}
    assert failed["exception"].count("Traceback (most recent call last)") == 1
    assert failed["exception"].count("telemetry/observing.py") == 1
    assert "PermissionError: no such user" in failed["exception"]
    assert "hunter2" not in stream.getvalue()


class SecretiveError(Exception):
    """An error whose text and attributes hold a secret."""

    def __init__(self, password: str) -> None:
        super().__init__(f"cannot log in with {password}")
        self.password = password
        self.status = 403


def test_a_password_is_told_in_no_event(
    virtual_time: VirtualTime,
) -> None:
    """Arguments, results, rejections, expected errors and metrics tell what is named alone."""
    stream = io.StringIO()
    structlog.configure(
        processors=[structlog.processors.format_exc_info, structlog.processors.JSONRenderer()],
        logger_factory=structlog.PrintLoggerFactory(stream),
    )

    def ending(value: str) -> dict[str, Any]:
        raise SecretiveError(value)

    try:
        settings: dict[str, Any] = {
            "fields": ["user", "user.missing"],
            "expected": {SecretiveError: "refused"},
            "error_fields": ["status"],
            "result": ending,
        }

        @observe("login", **settings)
        @with_fallback(cached(ttl=60))
        @circuit_breaker("observed login", fail_max=2)
        @retry(on=SecretiveError, wait_initial=0)
        def login(user: str, password: str, *, works: bool = False) -> str:
            if works:
                return password
            raise SecretiveError(password)

        login("bob", password="hunter2", works=True)
        for _ in range(4):
            with suppress(SecretiveError, CallRejected):
                login("bob", "hunter2")
        with suppress(SecretiveError), observe("block", expected={SecretiveError: "refused"}):
            raise SecretiveError("hunter2")
    finally:
        structlog.reset_defaults()
    shown = stream.getvalue() + repr([(one.name, one.labels) for one in all_readings()])
    assert "login_refused" in shown
    assert '"status": 403' in shown
    assert "hunter2" not in shown


# Cancellation


@each("error", {"cancelled": asyncio.CancelledError, "Ctrl-C": KeyboardInterrupt})
def test_a_cancelled_call_is_neither_a_success_nor_a_failure(
    logs: list[Any], error: type[BaseException]
) -> None:
    """It has an event of its own, at level info, whatever the share of successes that is told."""
    name = f"export {error.__name__}"
    with pytest.raises(error):
        observe(name, sample=0.0001)(Scripted(error))()
    assert told(logs) == [(f"{name}_cancelled", "info")]
    assert logs[0]["error"] == error.__name__
    assert counted(name) == {"succeeded": 0, "failed": 0, "cancelled": 1}


def test_a_cancelled_task_is_told_as_cancelled(logs: list[Any], virtual_time: VirtualTime) -> None:
    """After half a second of sixty, and the task is cancelled all the same."""
    call = observe("sleep")(asyncio.sleep)

    async def main() -> None:
        task = asyncio.create_task(call(60))
        await asyncio.sleep(0.5)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    virtual_time.run(main())
    assert told(logs) == [("sleep_started", "info"), ("sleep_cancelled", "info")]
    assert logs[1]["duration_ms"] == 500


# Every kind of function


class Shop:
    """Functions of every kind, each with an argument that is told."""

    def __init__(self, name: str = "shop") -> None:
        self.name = name

    def unobserved(self, item: str) -> str:
        return item

    @observe("kinds", fields=["item", "self.name"])
    def method(self, item: str) -> str:
        return item

    @observe("kinds", fields=["item"])
    async def coroutine_method(self, item: str) -> str:
        await asyncio.sleep(1)
        return item

    @observe("kinds", fields=["item"])
    @classmethod
    def inner_classmethod(cls, item: str) -> str:
        return item

    @classmethod
    @observe("kinds", fields=["item"])
    def outer_classmethod(cls, item: str) -> str:
        return item

    @observe("kinds", fields=["item"])
    @staticmethod
    def inner_staticmethod(item: str) -> str:
        return item


class Callable:
    async def __call__(self, item: str) -> str:
        return item


def plain(item: str) -> str:
    return item


def two(first: str, item: str) -> str:
    return item


async def coroutine(item: str) -> str:
    return item


def returns_coroutine(item: str) -> Any:
    return coroutine(item)


KINDS = {
    "function": observe("kinds", fields=["item"])(plain),
    "coroutine function": observe("kinds", fields=["item"])(coroutine),
    "method": Shop().method,
    "coroutine method": Shop().coroutine_method,
    "bound method": observe("kinds", fields=["item"])(Shop().unobserved),
    "inner classmethod": Shop.inner_classmethod,
    "outer classmethod": Shop().outer_classmethod,
    "inner staticmethod": Shop.inner_staticmethod,
    "partial": observe("kinds", fields=["item"])(functools.partial(two, "first")),
    "partial of a coroutine function": observe("kinds", fields=["item"])(
        functools.partial(coroutine)
    ),
    "callable object": observe("kinds", fields=["item"])(Callable()),
    "function that returns a coroutine": observe("kinds", fields=["item"])(returns_coroutine),
}


@each("call", KINDS)
def test_every_kind_of_function_is_observed(
    logs: list[Any], virtual_time: VirtualTime, call: Any
) -> None:
    """Start and end with the argument that is named, and the value comes back."""
    logs.clear()
    value = call("book")
    if inspect.iscoroutine(value):
        value = virtual_time.run(value)
    assert value == "book"
    assert [log["event"] for log in logs][-2:] == ["kinds_started", "kinds_succeeded"]
    assert [log["item"] for log in logs][-2:] == ["book", "book"]


def test_what_is_asynchronous_stays_so() -> None:
    """`inspect` says of an observed function what it says of the function."""
    asynchronous = {name for name, call in KINDS.items() if inspect.iscoroutinefunction(call)}
    assert asynchronous == {
        "coroutine function",
        "coroutine method",
        "partial of a coroutine function",
        "callable object",
    }


def test_name_docstring_and_signature_survive() -> None:
    """An observed function introduces itself as the function that it is."""

    def pay(user_id: str, /, amount: int = 5, *, card: str) -> str:
        """Take the money."""
        return user_id

    observed = observe("payment", fields=["user_id"])(pay)
    assert inspect.signature(observed) == inspect.signature(pay)
    assert (observed.__name__, observed.__doc__) == ("pay", "Take the money.")
    assert inspect.unwrap(observed) is pay


def test_a_coroutine_of_a_plain_function_is_told_when_it_has_ended(
    logs: list[Any], virtual_time: VirtualTime
) -> None:
    """Duration and errors are those of the coroutine, and one inside has its own traceback once."""

    async def fail(seconds: float) -> None:
        await asyncio.sleep(seconds)
        raise ValueError

    def call_later(seconds: float) -> Any:
        return fail(seconds)

    call = observe("deferred")(call_later)
    coroutine = call(2)
    assert told(logs) == [("deferred_started", "info")]
    with pytest.raises(ValueError):  # noqa: PT011
        virtual_time.run(coroutine)
    assert told(logs)[1:] == [("deferred_failed", "error")]
    assert logs[1]["duration_ms"] == 2000


def test_a_generator_is_observed_from_its_first_item_to_its_end(
    logs: list[Any], virtual_time: VirtualTime
) -> None:
    """Nothing is told before the first item; values, `send` and what it returns survive."""

    @observe("stream", fields=["count"], result=lambda value: {"sent": value})
    def stream(count: int) -> Any:
        sent = []
        for number in range(count):
            virtual_time.sleep(1)
            sent.append((yield number))
        return sent

    items = stream(2)
    assert inspect.isgeneratorfunction(stream)
    assert logs == []
    assert next(items) == 0
    assert items.send("a") == 1
    with pytest.raises(StopIteration) as end:
        items.send("b")
    assert end.value.value == ["a", "b"]
    assert told(logs) == [("stream_started", "info"), ("stream_succeeded", "info")]
    assert logs[1]["duration_ms"] == 2000
    assert logs[1]["sent"] == ["a", "b"]


def test_an_asynchronous_generator_is_observed_alike(
    logs: list[Any], virtual_time: VirtualTime
) -> None:
    """What is sent and thrown arrives, and an error in the middle is a failure."""

    @observe("stream", fields=["count"])
    async def stream(count: int) -> Any:
        received: Any = None
        for number in range(count):
            try:
                received = yield (number, received)
            except KeyError:
                received = "caught"
        raise ValueError

    async def main() -> None:
        items: Any = stream(3)
        assert await anext(items) == (0, None)
        assert await items.asend("a") == (1, "a")
        assert await items.athrow(KeyError()) == (2, "caught")
        with pytest.raises(ValueError):  # noqa: PT011
            await anext(items)

    assert inspect.isasyncgenfunction(stream)
    virtual_time.run(main())
    assert told(logs) == [("stream_started", "info"), ("stream_failed", "error")]


def test_a_stream_that_its_consumer_leaves_has_succeeded(
    logs: list[Any], virtual_time: VirtualTime
) -> None:
    """Who has seen enough breaks no stream, and the generator is closed."""
    closed: list[str] = []

    @observe("left", started=False)
    def stream() -> Iterator[int]:
        try:
            yield from range(9)
        finally:
            closed.append("sync")

    @observe("left", started=False)
    async def stream_async() -> AsyncIterator[int]:
        try:
            for number in range(9):
                yield number
        finally:
            closed.append("async")

    for _ in stream():
        break

    async def main() -> None:
        items: Any = stream_async()
        async for _ in items:
            break
        await items.aclose()

    virtual_time.run(main())
    assert closed == ["sync", "async"]
    assert told(logs) == [("left_succeeded", "info")] * 2


def test_a_consumer_of_a_stream_is_no_part_of_it(logs: list[Any]) -> None:
    """What fails between two items of a stream is not taken for what the stream has told."""

    @observe("stream", started=False)
    def stream() -> Iterator[int]:
        yield 1
        raise error

    error = ValueError()
    broken_consumer = observe("consumer", started=False)(Scripted(error))
    items = stream()
    next(items)
    with suppress(ValueError):
        broken_consumer()
    with pytest.raises(ValueError):  # noqa: PT011
        next(items)
    assert ["exc_info" in log for log in logs] == [True, True]


# Fields


def test_fields_are_found_wherever_they_are_given(logs: list[Any]) -> None:
    """By position, by name, by default, among further names, within an object."""

    class Order:
        id = "o1"
        customer: Any = None

    fields = ["first", "second", "third", "fourth", "order.id", "order.customer.name", "further"]

    @observe("found", fields=fields, started=False, channel="web")
    def call(
        first: int, /, second: int, order: Order, third: int = 3, *, fourth: int, **more: Any
    ) -> None: ...

    call(1, order=Order(), second=2, fourth=4, further=5, other=6)
    call(1, 2, Order(), 33, fourth=4)
    common = {"event": "found_succeeded", "log_level": "info", "duration_ms": 0, "channel": "web"}
    found = {"first": 1, "second": 2, "fourth": 4, "order.id": "o1"}
    assert logs[-1] == {**common, **found, "third": 33}
    without = next(log for log in logs if log["event"] == "found_succeeded")
    assert without == {**common, **found, "third": 3, "further": 5}


def test_a_call_with_wrong_arguments_fails_as_it_would_without(logs: list[Any]) -> None:
    """The TypeError is the function's, and it is told."""
    call = observe("wrong arguments", fields=["item"], started=False)(plain)
    with pytest.raises(TypeError, match=r"plain\(\) missing 1 required positional argument"):
        call()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    assert told(logs) == [("wrong arguments_failed", "error")]


def test_a_property_that_raises_is_left_out_and_counted(logs: list[Any]) -> None:
    """What is told never fails a call."""

    class Order:
        @property
        def total(self) -> int:
            raise RuntimeError

    @observe("property", fields=["order.total"])
    def call(order: Order) -> str:
        return "done"

    before = broken["observed field"]
    assert call(Order()) == "done"
    assert broken["observed field"] == before + 1
    assert "order.total" not in logs[-1]


@each(
    "result",
    {
        "raises": lambda value: value["missing"],
        "no mapping": lambda value: [value],
        "none": lambda value: None,
    },
)
def test_a_result_function_that_fails_is_isolated(logs: list[Any], result: Any) -> None:
    """The call returns what it returns, the event is told without, and the failure counted."""
    before = broken["observed result"]
    assert observe("result", result=result)(Scripted({}))() == {}
    assert broken["observed result"] == before + 1
    succeeded = [log for log in logs if log["event"] == "result_succeeded"]
    assert [set(log) for log in succeeded] == [{"event", "log_level", "duration_ms"}]


def test_a_field_of_a_name_that_events_use_is_told_under_another(logs: list[Any]) -> None:
    """What is added while it runs must not take the place of what the event says."""
    with observe("reserved", started=False) as event:
        event.add(event="e", error="x", self=1, duration_ms=9, item="book")
    assert logs == [
        {
            "event": "reserved_succeeded",
            "log_level": "info",
            "duration_ms": 0,
            "event_": "e",
            "error_": "x",
            "self_": 1,
            "duration_ms_": 9,
            "item": "book",
        }
    ]


def test_an_unknown_field_is_told_when_decorating() -> None:
    """The message names the field, the function and what it has."""
    with pytest.raises(InvalidSetting, match=r"fields='user'.*two \(first, item\)"):
        observe("payment", fields=["user"])(two)


def takes_any(*args: Any, event: str = "") -> None: ...


@each(
    "settings",
    {
        "a name of nothing": ((" ",), {}),
        "fields as one text": (("x",), {"fields": "item"}),
        "a field that is no text": (("x",), {"fields": [1]}),
        "a field that is no name": (("x",), {"fields": ["user id"]}),
        "a field that events use": (("x",), {"fields": ["event"]}),
        "several at once as a field": (("x",), {"fields": ["args"]}),
        "a value that events use": (("x",), {"duration_ms": 5}),
        "a result that cannot be called": (("x",), {"result": "id"}),
        "an asynchronous result": (("x",), {"result": coroutine}),
        "expected errors without suffix": (("x",), {"expected": [KeyError]}),
        "no error expected": (("x",), {"expected": {"KeyError": "missing"}}),
        "cancellation expected": (("x",), {"expected": {asyncio.CancelledError: "left"}}),
        "an expected failure": (("x",), {"expected": {KeyError: "failed"}}),
        "an expected suffix of nothing": (("x",), {"expected": {KeyError: ""}}),
        "error fields as one text": (("x",), {"error_fields": "code"}),
        "no sample": (("x",), {"sample": 0}),
        "more than all": (("x",), {"sample": 1.5}),
        "an audit of some": (("x",), {"sample": 0.5, "audit": True}),
        "no logger": (("x",), {"logger": "resilient"}),
    },
)
def test_a_wrong_setting_fails_when_decorating(settings: Any) -> None:
    """What cannot work is an InvalidSetting where it is written."""
    arguments, named = settings
    with pytest.raises(InvalidSetting):
        observe(*arguments, **named)(takes_any)


def test_what_cannot_be_observed_is_told() -> None:
    """A class, something that is no function, and a result that there cannot be."""

    async def stream() -> AsyncIterator[int]:
        yield 1

    wrong: Any
    for wrong in (Declined, "a text"):
        with pytest.raises(InvalidUse):
            observe("x")(wrong)
    with pytest.raises(InvalidUse, match="asynchronous generator"):
        observe("x", result=lambda _: {})(stream)
    for named in ({"fields": ["item"]}, {"result": lambda _: {}}):
        with pytest.raises(InvalidUse, match="block"), observe("x", **named):  # type: ignore[arg-type]
            pass


# How much is told


def test_of_successes_a_share_is_told_and_of_all_else_everything(
    logs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Start and end go together; failures and expected errors are told, and metrics count all."""
    drawn = iter([0.05, 0.5, 0.5, 0.5])
    monkeypatch.setattr(random, "random", lambda: next(drawn))
    ask = Scripted("a", "b", Declined, ValueError)
    call = observe("sampled", sample=0.1, expected={Declined: "declined"})(ask)
    for _ in range(4):
        with suppress(Declined, ValueError):
            call()
    assert [name for name, _ in told(logs)] == [
        "sampled_started",
        "sampled_succeeded",
        "sampled_declined",
        "sampled_failed",
    ]
    assert counted("sampled") == {"succeeded": 2, "failed": 1, "cancelled": 0, "declined": 1}


# Metrics


def test_metrics_are_there_from_the_start_at_zero(logs: list[Any]) -> None:
    """Every outcome that can be is a series before the first call, as are durations."""
    observe("from zero", expected={Declined: "declined"}, audit=True)(plain)
    assert counted("from zero") == {"succeeded": 0, "failed": 0, "cancelled": 0, "declined": 0}
    assert sum(reading("event_duration_seconds", "from zero").counts) == 0
    assert reading("audit_failures", "from zero") == 0


def test_durations_are_counted_in_seconds(logs: list[Any], virtual_time: VirtualTime) -> None:
    """A call of 0.3 s and a failing one of 2 s are two calls and 2.3 s."""
    ask = Scripted("a", ValueError)

    @observe("timed")
    def call(seconds: float) -> Any:
        virtual_time.sleep(seconds)
        return ask()

    call(0.3)
    with suppress(ValueError):
        call(2)
    durations = reading("event_duration_seconds", "timed")
    assert sum(durations.counts) == 2
    assert durations.sum == pytest.approx(2.3)


def test_names_are_bounded(monkeypatch: pytest.MonkeyPatch, logs: list[Any]) -> None:
    """Events that are named for an order each are told by name, and counted together."""
    monkeypatch.setattr(tally, "MOST_NAMES", len(tally._registry) + 2)
    before = len(tally._registry)
    for number in range(50):
        with observe(f"order {number}", started=False):
            pass
    assert len(tally._registry) <= before + 3
    assert counted("other")["succeeded"] == 48
    assert len(logs) == 50


def test_outcomes_are_bounded(monkeypatch: pytest.MonkeyPatch, logs: list[Any]) -> None:
    """What comes after so many is told by its name, and counted together."""
    monkeypatch.setattr(tally, "MOST_OUTCOMES", len(tally.OUTCOMES) + 1)
    errors: tuple[type[Exception], ...] = (LookupError, ArithmeticError, OSError)
    call = observe("many ends", started=False, expected={one: one.__name__ for one in errors})(
        Scripted(*errors)
    )
    for error in errors:
        with pytest.raises(error):
            call()
    ends = {outcome: count for outcome, count in counted("many ends").items() if count}
    assert ends == {"LookupError": 1, "other": 2}
    assert [log["event"] for log in logs] == [f"many ends_{one.__name__}" for one in errors]


def test_the_calls_of_many_threads_add_up() -> None:
    """Eight threads with a thousand calls each are eight thousand."""
    call = observe("threads", sample=0.0001)(plain)

    def work() -> None:
        for _ in range(1000):
            call("book")

    with capture_logs():
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert counted("threads")["succeeded"] == 8000


# Blocks


def test_a_block_is_told_like_a_call(logs: list[Any], virtual_time: VirtualTime) -> None:
    """Fields are given by name, and added while it runs."""
    with observe("payment", user_id="u1") as event:
        virtual_time.sleep(2)
        event.add(transaction_id="t1")
    assert logs == [
        {"event": "payment_started", "log_level": "info", "user_id": "u1"},
        {
            "event": "payment_succeeded",
            "log_level": "info",
            "user_id": "u1",
            "duration_ms": 2000,
            "transaction_id": "t1",
        },
    ]


def test_an_error_leaves_its_block_as_it_was(logs: list[Any], virtual_time: VirtualTime) -> None:
    """A block, synchronous or not, swallows nothing."""
    with pytest.raises(Declined), observe("block", expected={Declined: "declined"}):
        raise Declined

    async def main() -> None:
        async with observe("block") as event:
            await asyncio.sleep(1)
            event.add(item="book")
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        virtual_time.run(main())
    assert told(logs) == [
        ("block_started", "info"),
        ("block_declined", "warning"),
        ("block_started", "info"),
        ("block_failed", "error"),
    ]
    assert logs[-1]["item"] == "book"
    assert logs[-1]["duration_ms"] == 1000


def test_one_object_is_entered_by_many_at_once(logs: list[Any], virtual_time: VirtualTime) -> None:
    """Each task adds to its own event, also where blocks of one object are nested."""
    payment = observe("shared", started=False)

    async def pay(number: int) -> None:
        async with payment as outer:
            await asyncio.sleep(10 - number)
            with payment as inner:
                inner.add(inner=number)
            outer.add(outer=number)

    async def main() -> None:
        await asyncio.gather(*map(pay, range(5)))

    virtual_time.run(main())
    ends = [(log.get("inner"), log.get("outer"), log["duration_ms"]) for log in logs]
    expected = [
        end
        for number in (4, 3, 2, 1, 0)
        for end in ((number, None, 0), (None, number, (10 - number) * 1000))
    ]
    assert ends == expected


def test_a_block_may_be_left_in_another_context(logs: list[Any]) -> None:
    """As an asynchronous fixture does it: the event is told all the same."""
    block = observe("elsewhere")
    contextvars.copy_context().run(block.__enter__)
    block.__exit__(None, None, None)
    assert told(logs) == [("elsewhere_started", "info"), ("elsewhere_succeeded", "info")]


def test_blocks_that_are_left_in_other_contexts_are_each_told_once(logs: list[Any]) -> None:
    """Also if one takes another's; and a context keeps none of them."""
    block = observe("elsewhere", started=False)
    block.__enter__()
    contextvars.copy_context().run(block.__enter__)
    contextvars.copy_context().run(block.__exit__, None, None, None)
    block.__exit__(None, None, None)
    assert told(logs) == [("elsewhere_succeeded", "info")] * 2
    with pytest.raises(RuntimeError, match="without having been entered"):
        block.__exit__(None, None, None)
    gone = []
    for _ in range(3):
        gone.append(weakref.ref(block.__enter__()))
        contextvars.Context().run(block.__exit__, None, None, None)
    with block:
        gc.collect()
        assert [one() for one in gone[:-1]] == [None] * 2  # the last is what is returned to


def test_blocks_need_not_be_left_in_the_order_in_which_they_were_entered(logs: list[Any]) -> None:
    """Each is found among the others."""
    first, second = observe("first", started=False), observe("second", started=False)
    first.__enter__()
    second.__enter__().add(number=2)
    contextvars.copy_context().run(second.__enter__).add(number=3)
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    second.__exit__(None, None, None)
    ends = [(log["event"], log.get("number")) for log in logs]
    assert ends == [("first_succeeded", None), ("second_succeeded", 2), ("second_succeeded", 3)]


# With guards


def test_an_observed_call_lasts_as_long_as_all_of_its_attempts(
    logs: list[Any], virtual_time: VirtualTime
) -> None:
    """Two attempts of 200 ms and a pause of a second are one event of 1.4 s, with two attempts."""
    ask = Scripted(ConnectionError, "answer")

    @observe("fetch", started=False)
    @circuit_breaker("observed fetch", fail_max=9)
    @retry(on=ConnectionError, wait=lambda _: 1)
    def fetch() -> Any:
        virtual_time.sleep(0.2)
        return ask()

    fetch()
    fetch()
    ends = [
        (log["duration_ms"], log["attempts"]) for log in logs if log["event"] == "fetch_succeeded"
    ]
    assert ends == [(1400, 2), (200, 1)]


def test_a_coroutine_is_told_with_its_attempts_alike(
    logs: list[Any], virtual_time: VirtualTime
) -> None:
    """On asyncio, attempts within a nested event are those of their own call."""
    ask = Scripted(ConnectionError, ConnectionError, "answer")

    @observe("inner", started=False)
    @retry(on=ConnectionError, wait=lambda _: 1)
    async def inner() -> Any:
        return ask()

    @observe("outer", started=False)
    @retry(on=KeyError)
    async def outer() -> Any:
        return await inner()

    virtual_time.run(outer())
    ends = {log["event"]: log["attempts"] for log in logs if "attempts" in log}
    assert ends == {"inner_succeeded": 3, "outer_succeeded": 1}


def test_what_a_fallback_served_is_told(logs: list[Any]) -> None:
    """A success that was not the real answer says by which tier; a rejection has no attempts."""
    breaker = circuit_breaker("observed fallback", fail_max=9)
    guarded = with_fallback("instead")(breaker(Scripted(ConnectionError)))
    observe("page", started=False)(guarded)()
    breaker.force_open()
    with suppress(CallRejected):
        observe("rejected", started=False)(breaker(plain))("book")
    page = next(log for log in logs if log["event"] == "page_succeeded")
    assert (page["attempts"], page["degraded"]) == (1, "default")
    rejected = next(log for log in logs if log["event"] == "rejected_failed")
    assert (rejected["attempts"], rejected["error"]) == (0, "CircuitOpen")
    assert "exc_info" not in rejected  # nothing has run, and the cause was told when it happened


def test_guards_fuse_beneath_an_event(logs: list[Any]) -> None:
    """One pipeline of three, found through the event, and one frame of the guard."""

    @observe("fused")
    @with_fallback("instead")
    @retry(on=OSError)
    @timeout(5)
    def call() -> str:
        return "answer"

    names = [type(one).__name__ for one in pipeline_of(call).strategies]
    assert names == ["Fallback", "Retry", "Timeout"]
    assert call() == "answer"


def test_an_event_beneath_a_guard_is_told_for_each_attempt(
    logs: list[Any], virtual_time: VirtualTime
) -> None:
    """The order in which decorators are written is that in which they act."""

    @retry(on=ConnectionError, wait_initial=0)
    @observe("attempt", fields=["item"])
    def call(item: str) -> Any:
        return ask()

    ask = Scripted(ConnectionError, "answer")
    assert call("book") == "answer"
    assert [type(one).__name__ for one in pipeline_of(call).strategies] == ["Retry"]
    names = [name for name, _ in told(logs) if name.startswith("attempt")]
    assert names == ["attempt_started", "attempt_failed", "attempt_started", "attempt_succeeded"]


# Where events go


def test_bound_loggers_and_context_are_respected(virtual_time: VirtualTime) -> None:
    """A logger of the user's has what he bound to it, and context variables are the caller's."""
    seen: list[dict[str, Any]] = []

    def keep(_logger: Any, _name: str, event: Any) -> Any:
        seen.append(dict(event))
        raise structlog.DropEvent

    structlog.configure(processors=[structlog.contextvars.merge_contextvars, keep])
    try:
        logger = structlog.get_logger().bind(service="shop")
        call = observe("bound", logger=logger, started=False)(plain)
        with structlog.contextvars.bound_contextvars(request_id="r1"):
            call("book")
    finally:
        structlog.reset_defaults()
    assert seen == [
        {"event": "bound_succeeded", "service": "shop", "request_id": "r1", "duration_ms": 0}
    ]


def test_without_structlog_events_are_records_of_logging(
    virtual_time: VirtualTime, caplog: pytest.LogCaptureFixture
) -> None:
    """Under the module's name, with key-values in the message and as attributes."""
    structlog.reset_defaults()
    ask = Scripted("answer", ValueError)
    call = observe("record", fields=["name", "text"])(lambda name, text: ask())
    with (
        caplog.at_level(logging.INFO, logger=__name__),
        structlog.contextvars.bound_contextvars(request_id="r1"),
    ):
        call("bob", "two words\nand a line=1")
        with suppress(ValueError):
            call("bob", 5)
    assert [(one.name, one.levelname) for one in caplog.records] == [
        (__name__, level) for level in ("INFO", "INFO", "INFO", "ERROR")
    ]
    succeeded, failed = caplog.records[1], caplog.records[3]
    assert succeeded.getMessage() == (
        "record_succeeded request_id=r1 name=bob text='two words\\nand a line=1' duration_ms=0.0"
    )
    # `name` is an attribute of every record; the field does not take its place.
    assert (vars(succeeded)["name_"], vars(succeeded)["duration_ms"]) == ("bob", 0)
    assert failed.exc_info is not None
    assert failed.exc_info[0] is ValueError


def test_a_logger_of_logging_may_be_given(
    virtual_time: VirtualTime, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where structlog is configured."""
    with capture_logs() as logs, caplog.at_level(logging.INFO, logger="shop"):
        observe("given", logger=logging.getLogger("shop"))(plain)("book")
    assert logs == []
    assert [one.name for one in caplog.records] == ["shop", "shop"]


# Sinks that fail


@pytest.fixture
def full_disk() -> Iterator[Any]:
    """A logger whose sink raises."""

    def fail(_logger: Any, _name: str, event: Any) -> Any:
        raise OSError("no space left on device")

    return structlog.wrap_logger(None, processors=[fail])


def test_a_sink_that_fails_changes_no_call(logs: list[Any], full_disk: Any) -> None:
    """The value comes back, the error comes out, and each failure is counted."""
    before = broken["event sink"]
    call = observe("unheard", fields=["item"], logger=full_disk)(plain)
    assert call("book") == "book"
    with pytest.raises(ValueError), observe("unheard", logger=full_disk):  # noqa: PT011
        raise ValueError
    assert broken["event sink"] == before + 4
    assert counted("unheard") == {"succeeded": 1, "failed": 1, "cancelled": 0}


def test_in_audit_mode_no_event_is_lost(
    logs: list[Any], full_disk: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a sink does not take is counted, and written to standard error, each time."""

    @observe("transfer", fields=["account"], audit=True, logger=full_disk)
    def transfer(account: str, pin: str) -> str:
        if account == "a2":
            raise ValueError
        return "done"

    assert transfer("a1", pin="1234") == "done"
    with pytest.raises(ValueError):  # noqa: PT011
        transfer("a2", pin="1234")
    assert reading("audit_failures", "transfer") == 4
    written = capsys.readouterr().err.splitlines()
    assert [line.split(" ")[0] for line in written] == [
        "transfer_started",
        "transfer_succeeded",
        "transfer_started",
        "transfer_failed",
    ]
    assert all("account=a" in line and line.endswith("OSError") for line in written)
    assert "1234" not in "".join(written)


def quiet_logging() -> Any:
    logger = logging.getLogger("shows warnings only")
    logger.setLevel(logging.WARNING)
    return logger


def quiet_structlog() -> Any:
    wrapper = structlog.make_filtering_bound_logger(logging.WARNING)
    return structlog.wrap_logger(structlog.ReturnLogger(), processors=[], wrapper_class=wrapper)


SHOWS_LEVELS = {"logging": quiet_logging}
if hasattr(type(quiet_structlog().bind()), "is_enabled_for"):  # since structlog 25.1
    SHOWS_LEVELS["structlog"] = quiet_structlog


@each("make", SHOWS_LEVELS)
def test_an_audit_reports_events_of_a_level_that_is_not_shown(
    logs: list[Any], capsys: pytest.CaptureFixture[str], make: Any
) -> None:
    """A logger that shows warnings only would lose successes in silence."""
    name = f"audited with {make.__name__}"
    assert observe(name, audit=True, logger=make())(plain)("book") == "book"
    assert observe("not audited", logger=make())(plain)("book") == "book"
    assert reading("audit_failures", name) == 2
    written = capsys.readouterr().err.splitlines()
    assert [line.startswith(f"{name}_s") for line in written] == [True, True]
    assert all(line.endswith("audit_failure=InvalidUse") for line in written)


class FullDisk(logging.Handler):
    """A handler as those of logging are: what goes wrong in it is nobody's business."""

    def __init__(self) -> None:
        super().__init__()
        self.reported: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        try:
            raise OSError("no space left on device")
        except OSError:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        self.reported.append(record.getMessage().split(" ")[0])


def by_an_adapter(logger: logging.Logger) -> Any:
    return logging.LoggerAdapter(logger, {})


def by_structlog(logger: logging.Logger) -> Any:
    return structlog.wrap_logger(
        logger,
        processors=[structlog.stdlib.render_to_log_kwargs],
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def by_itself(logger: logging.Logger) -> Any:
    return logger


WAYS_TO_LOGGING = {"logging": by_itself, "an adapter": by_an_adapter, "structlog": by_structlog}


@pytest.fixture
def own_logger() -> logging.Logger:
    """A logger of a tree of its own, which shows everything and has no handler yet."""
    return logging.Manager(logging.RootLogger(logging.INFO)).getLogger("shop.audit")


@each("way", WAYS_TO_LOGGING)
def test_an_audit_hears_of_what_a_handler_swallows(
    capsys: pytest.CaptureFixture[str], own_logger: logging.Logger, way: Any
) -> None:
    """A handler of logging tells nobody of a full disk; the audit counts and writes each event."""
    handler = FullDisk()
    assert own_logger.parent is not None
    own_logger.parent.addHandler(handler)
    name = f"swallowed on the way of {way.__name__}"
    assert observe(name, audit=True, logger=way(own_logger))(plain)("book") == "book"
    assert reading("audit_failures", name) == 2
    written = capsys.readouterr().err.splitlines()
    assert [line.rpartition(" ")[2] for line in written] == ["audit_failure=OSError"] * 2
    # The handler still does with its errors what it did, and nobody else hears of them.
    assert observe("no audit", logger=way(own_logger))(plain)("book") == "book"
    assert len(handler.reported) == 4
    assert reading("audit_failures", name) == 2


@each("way", WAYS_TO_LOGGING)
def test_an_audit_reports_events_that_no_handler_takes(
    capsys: pytest.CaptureFixture[str], own_logger: logging.Logger, way: Any
) -> None:
    """Whether there is no handler at all, or none for that level, and until there is one."""
    name = f"untaken on the way of {way.__name__}"
    call = observe(name, audit=True, logger=way(own_logger))(plain)
    call("book")
    assert reading("audit_failures", name) == 2
    quiet, taking = logging.NullHandler(logging.WARNING), logging.NullHandler()
    own_logger.addHandler(quiet)
    call("book")
    assert reading("audit_failures", name) == 4
    own_logger.addHandler(taking)
    call("book")
    assert reading("audit_failures", name) == 4
    assert len(capsys.readouterr().err.splitlines()) == 4


def test_a_logger_that_wraps_itself_is_no_logger_of_logging() -> None:
    """Whoever looks for the innermost one comes to an end."""
    ring = SimpleNamespace()
    ring.logger = ring
    assert standard_logger(ring) is None


def test_an_audit_survives_a_standard_error_that_fails(
    logs: list[Any], full_disk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing can be written any more, the counter is what remains."""
    monkeypatch.setattr("sys.stderr", None)
    call = observe("unwritten", audit=True, logger=full_disk)(plain)
    assert call("book") == "book"
    assert reading("audit_failures", "unwritten") == 2
