"""What went wrong in circuit breakers that are widely used, with the numbers at which it did."""

from __future__ import annotations

import abc
import copy
import datetime as dt
import importlib
import json
import pickle
import pkgutil
import random
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pybreaker
import pytest

import resilient
from resilient import (
    BulkheadFull,
    CallRejected,
    CallTimeout,
    CircuitBreaker,
    CircuitOpen,
    DeadlineExceeded,
    Draining,
    DuplicateName,
    InvalidSetting,
    InvalidUse,
    NothingToServe,
    OutboxError,
    RateLimited,
    ResilientError,
    UnstableKey,
    WorkersSaturated,
    circuit_breaker,
    retry,
    timeout,
    with_fallback,
)
from resilient.degrade.stores.sealed import Rubbish
from resilient.telemetry import health
from resilient.telemetry.ended import NoRoom
from resilient.telemetry.metrics import Collector
from resilient.testing import VirtualTime
from tests.circuits import WAYS, Upstream, outcome_of, outcomes_of, rejection_of
from tests.waiting import eventually


@pytest.fixture
def upstream(virtual_time: VirtualTime) -> Upstream:
    """A dependency in virtual time."""
    return Upstream(virtual_time)


# 20. Exclusion is by isinstance


class Registering(abc.ABCMeta):
    """A metaclass, as ORMs and plugin frameworks have them."""


class ServiceError(Exception, metaclass=Registering):
    """An error whose class has a metaclass."""


class NotFound(ServiceError):
    """A subclass of it."""


class Asked(type):
    """A metaclass that decides by itself what is an instance."""

    def __instancecheck__(cls, instance: object) -> bool:
        return getattr(instance, "status", None) == 404


class Missing(Exception, metaclass=Asked):
    """Whatever has the status 404."""


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("excluded", [ServiceError, NotFound, Exception, LookupError])
def test_exclusion_is_by_isinstance(upstream: Upstream, way: str, excluded: type) -> None:
    """For classes with a metaclass and for their subclasses, as for any other."""
    call = upstream.guarded(CircuitBreaker(fail_max=2, exclude=[excluded]), way)
    upstream.error = KeyError("k") if excluded is LookupError else NotFound("no such order")

    assert outcomes_of(call, 10) == [type(upstream.error).__name__] * 10


@pytest.mark.parametrize("way", WAYS)
def test_a_group_is_excluded_if_all_that_is_in_it_is(upstream: Upstream, way: str) -> None:
    """A task group raises one for what a single call would raise as it is."""
    call = upstream.guarded(CircuitBreaker(fail_max=2, exclude=[ServiceError]), way)
    inner = ExceptionGroup("of one task", [ServiceError("no such customer")])
    upstream.error = ExceptionGroup("of many", [NotFound("no such order"), inner])
    assert outcomes_of(call, 10) == ["ExceptionGroup"] * 10
    upstream.error = ExceptionGroup("of many", [NotFound("no such order"), ConnectionError()])

    assert outcomes_of(call, 3) == ["ExceptionGroup"] * 2 + ["rejected"]


def test_exclusion_asks_the_metaclass(upstream: Upstream) -> None:
    """A class that decides by itself what is an instance of it is asked."""
    call = upstream.guarded(CircuitBreaker(fail_max=2, exclude=[Missing]))
    upstream.error = error = ValueError("not found")
    error.status = 404  # type: ignore[attr-defined]
    assert outcomes_of(call, 5) == ["ValueError"] * 5
    upstream.error = ValueError("a real one")

    assert outcomes_of(call, 3) == ["ValueError"] * 2 + ["rejected"]


def test_a_class_with_a_metaclass_is_not_taken_for_a_predicate(upstream: Upstream) -> None:
    """What is not excluded counts, though the class could be called with it."""
    call = upstream.guarded(CircuitBreaker(fail_max=2, exclude=[ServiceError]))
    upstream.down()

    assert outcomes_of(call, 3) == ["ConnectionError"] * 2 + ["rejected"]


def test_an_excluded_exception_can_be_added_and_removed(upstream: Upstream) -> None:
    """While calls are made."""
    breaker = CircuitBreaker(fail_max=2)
    call = upstream.guarded(breaker)
    upstream.error = NotFound()
    breaker.add_excluded_exception(ServiceError)
    assert outcomes_of(call, 5) == ["NotFound"] * 5
    breaker.remove_excluded_exception(ServiceError)

    assert outcomes_of(call, 3) == ["NotFound"] * 2 + ["rejected"]


# 21. A deliberate 0


def test_a_reset_timeout_of_zero_means_zero(upstream: Upstream) -> None:
    """The circuit is half-open as soon as it has opened: each call is a probe."""
    breaker = CircuitBreaker(fail_max=1, reset_timeout=0)
    call = upstream.guarded(breaker)
    upstream.down()

    assert outcomes_of(call, 5) == ["ConnectionError"] * 5
    assert breaker.reset_timeout == 0
    upstream.up()
    assert outcome_of(call) == "answered"
    assert breaker.current_state == "closed"


def test_a_fail_max_of_zero_is_a_value_error() -> None:
    """And not silently 5; the message says what is accepted."""
    with pytest.raises(ValueError, match="fail_max=0: fail_max must be a whole number, 1 or more"):
        circuit_breaker(fail_max=0)


def test_no_other_zero_is_replaced_by_a_default(virtual_time: VirtualTime) -> None:
    """A 0 either means 0 or is refused."""
    assert CircuitBreaker(reset_timeout=0, max_reset_timeout=0).reset_timeout == 0
    make: Any = CircuitBreaker
    for setting in ("window", "min_calls", "probes", "success_threshold", "failure_rate"):
        with pytest.raises(ValueError, match=setting):
            make(**{setting: 0})
    breaker = CircuitBreaker(reset_timeout=10)
    breaker.reset_timeout = 0
    assert breaker.reset_timeout == 0


# 22. Blocks


def test_a_block_does_not_run_while_the_circuit_is_open(virtual_time: VirtualTime) -> None:
    """The `with` statement itself raises."""
    breaker = CircuitBreaker(fail_max=1, reset_timeout=60)
    breaker.open()
    ran = []

    with pytest.raises(CircuitOpen), breaker:
        ran.append("with breaker")
    with pytest.raises(CircuitOpen), breaker.calling():
        ran.append("with breaker.calling()")

    async def block() -> None:
        async with breaker:
            ran.append("async with breaker")

    with pytest.raises(CircuitOpen):
        virtual_time.run(block())

    assert ran == []


def test_blocks_can_be_nested_and_entered_again(virtual_time: VirtualTime) -> None:
    """One breaker is as many blocks at once as there are; each counts by itself."""
    breaker = CircuitBreaker(fail_max=3)
    with breaker:
        with pytest.raises(ConnectionError), breaker:
            raise ConnectionError
        with pytest.raises(ConnectionError), breaker:
            raise ConnectionError
        assert breaker.fail_counter == 2

    assert breaker.fail_counter == 0


# 23. The wall clock


class StandingStill(dt.datetime):
    """A calendar on which it is always an hour ago."""

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return super().now(tz) - dt.timedelta(hours=1)


def test_the_wall_clock_may_step_back_an_hour(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the circuit is open: it is half-open as soon as it would have been."""
    breaker = CircuitBreaker(fail_max=1, reset_timeout=10)
    call = upstream.guarded(breaker)
    upstream.down()
    outcome_of(call)
    upstream.time.advance(4)
    an_hour_ago = time.time() - 3600
    monkeypatch.setattr(time, "time", lambda: an_hour_ago)
    monkeypatch.setattr(time, "time_ns", lambda: int(an_hour_ago * 1e9))
    monkeypatch.setattr(dt, "datetime", StandingStill)
    upstream.up()

    assert rejection_of(call).retry_after == 6.0
    upstream.time.advance(6)
    assert outcome_of(call) == "answered"


def test_the_wall_clock_may_step_back_in_real_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also under the machine's own clock."""
    breaker = CircuitBreaker(fail_max=1, reset_timeout=0.05)
    breaker.open()
    an_hour_ago = time.time() - 3600
    monkeypatch.setattr(time, "time", lambda: an_hour_ago)
    assert eventually(lambda: breaker.current_state == "half-open")


# 24. Pickling


class OwnRejection(CallRejected):
    """A user's own subclass."""


EXAMPLES: list[ResilientError] = [
    ResilientError("something", 5),
    CallRejected("orders", "not now", retry_after=1.5),
    OwnRejection("orders", "not now"),
    CircuitOpen("orders", 1.5),
    CircuitOpen("orders", None),
    BulkheadFull("orders", 20, 100),
    RateLimited("orders", 5, 1, 0.25),
    WorkersSaturated("orders", 32),
    Draining(),
    CallTimeout("orders", 2.0),
    CallTimeout("users", 2.0, owner=timeout(2)),
    DeadlineExceeded("orders", 2.0, owner=timeout(2)),
    NothingToServe("no fresh enough answer"),
    InvalidSetting("fail_max", 0, "1 or more"),
    InvalidUse("a block cannot be repeated"),
    UnstableKey("an object"),
    DuplicateName("orders"),
    OutboxError("disk full"),
    Rubbish("cut off, changed, or written for another key or codec"),
    NoRoom("no room for the metrics of this process"),
]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("error", EXAMPLES, ids=repr)
def test_every_error_survives_pickling(error: ResilientError, protocol: int) -> None:
    """Type, arguments, attributes and message are as they were, the message not doubled."""
    restored = pickle.loads(pickle.dumps(error, protocol))

    assert_same(restored, error)


@pytest.mark.parametrize("error", EXAMPLES, ids=repr)
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_every_error_survives_copying(error: ResilientError, copied: Any) -> None:
    """And twice pickled it is still the same."""
    assert_same(copied(error), error)
    assert_same(pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(error)))), error)


def assert_same(restored: ResilientError, error: ResilientError) -> None:
    """Compare two errors, which Python itself compares by identity."""

    def attributes(one: ResilientError) -> dict[str, Any]:
        return {name: value for name, value in vars(one).items() if name != "owner"}

    assert type(restored) is type(error)
    assert restored.args == error.args
    assert str(restored) == str(error)
    assert repr(restored) == repr(error)
    assert attributes(restored) == attributes(error)


def test_a_note_on_an_error_survives_pickling() -> None:
    """What retries and fallbacks say on it is part of it."""
    error = CircuitOpen("orders", 1.5)
    error.add_note("resilient: orders: 3 attempts")

    assert pickle.loads(pickle.dumps(error)).__notes__ == ["resilient: orders: 3 attempts"]


def test_a_setting_that_cannot_be_pickled_is_pickled_as_its_text() -> None:
    """The error about a wrong argument crosses processes, whatever that argument was."""
    lock = threading.Lock()
    error = InvalidSetting("window", lock, "a number")
    restored = pickle.loads(pickle.dumps(error))
    assert (str(restored), restored.value) == (str(error), repr(lock))


def test_a_rejection_as_it_is_raised_can_be_pickled(upstream: Upstream) -> None:
    """Also with a cause and a traceback, which stay behind."""
    call = upstream.guarded(CircuitBreaker(fail_max=1, reset_timeout=30))
    upstream.down()
    outcome_of(call)
    rejected = rejection_of(call)

    assert_same(pickle.loads(pickle.dumps(rejected)), rejected)


def test_there_is_no_error_of_the_library_without_an_example_here() -> None:
    """A new one has to be added above."""
    for module in pkgutil.walk_packages(resilient.__path__, "resilient."):
        if not module.name.endswith(("__main__", "plugin")):
            importlib.import_module(module.name)

    def all_subclasses(cls: type) -> set[type]:
        return {cls}.union(*(all_subclasses(one) for one in cls.__subclasses__()))

    ours = {
        one for one in all_subclasses(ResilientError) if one.__module__.startswith("resilient.")
    }
    assert ours <= {type(error) for error in EXAMPLES}


# 25. Rejections do not pile up


@pytest.mark.parametrize("way", WAYS)
def test_ten_thousand_rejections_leave_the_traceback_as_short_as_the_first(
    upstream: Upstream, way: str
) -> None:
    """Neither the rejection's own nor that of its cause grows."""
    if way != "decorated" and way != "call":
        times = 10_000 if "async" not in way else 500  # each of those makes an event loop
    else:
        times = 10_000
    call = upstream.guarded(CircuitBreaker(fail_max=1, reset_timeout=60), way)
    upstream.down()
    outcome_of(call)

    def length() -> int:
        return len("".join(traceback.format_exception(rejection_of(call))))

    first = length()
    for _ in range(times - 2):
        outcome_of(call)
    assert length() == first


def test_the_notes_of_the_last_failure_do_not_pile_up(upstream: Upstream) -> None:
    """Retries and fallbacks around an open circuit say what they have to say once."""
    breaker = CircuitBreaker(fail_max=1, reset_timeout=60)
    unhelpful: Any = with_fallback(lambda: 1 // 0)
    call = unhelpful(retry(on=ConnectionError, wait_initial=0)(breaker(upstream.answer)))
    upstream.error = down = ConnectionError("down")
    outcomes_of(call, 1000)

    assert len(getattr(down, "__notes__", ())) <= 2


# 26. The cost of a window


def lines_of_the_library(action: Callable[[], object]) -> int:
    """Return how many lines of the library run during `action`."""
    lines = 0

    def trace(frame: Any, event: str, _: Any) -> Any:
        nonlocal lines
        if "resilient" not in frame.f_code.co_filename:
            return None
        lines += event == "line"
        return trace

    outer = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(outer)
    return lines


def full(upstream: Upstream, window: int | str) -> Callable[[], Any]:
    """Return a call under a breaker whose window is full, of successes and failures alike."""
    breaker = CircuitBreaker(failure_rate=1.0, window=window, min_calls=1)
    breaker.force_closed()
    call = upstream.guarded(breaker)
    for number in range(12_000):
        upstream.error = ConnectionError("down") if number % 3 == 1 else None
        outcome_of(call)
    upstream.up()
    return call


@pytest.mark.parametrize(("short", "long"), [(10, 10_000), ("1s", "10000s")])
def test_a_window_of_ten_thousand_costs_the_same_per_call_as_one_of_ten(
    upstream: Upstream, short: int | str, long: int | str
) -> None:
    """A failing call in the longer window takes no more operations, and no more than 3 times."""
    calls = [full(upstream, short), full(upstream, long)]
    upstream.down()

    def failing(call: Callable[[], Any]) -> Callable[[], Any]:
        return lambda: outcome_of(call)

    operations = [max(lines_of_the_library(failing(call)) for _ in range(30)) for call in calls]
    assert operations[1] <= operations[0]

    def seconds(call: Callable[[], Any]) -> float:
        began = time.perf_counter()
        outcomes_of(call, 100)
        return time.perf_counter() - began

    # In turn, and the best of many: what else the machine does must not fall on one of the two.
    rounds = [[seconds(call) for call in calls] for _ in range(15)]
    short_best, long_best = map(min, zip(*rounds, strict=True))
    assert long_best < 3 * short_best


def test_successes_cost_the_same_in_any_window(upstream: Upstream) -> None:
    """Those of the fast lane are counted in batches, whose cost is that of the batch."""

    def batch(window: int) -> int:
        call = full(upstream, window)
        return max(lines_of_the_library(lambda: outcomes_of(call, 600)) for _ in range(3))

    assert batch(10_000) <= batch(10)


# 27. The state gauge


def gauge(dependency: str) -> dict[str, float]:
    """Return the state that a scrape shows."""
    return {
        sample.labels["state"]: sample.value
        for family in Collector().collect()
        for sample in family.samples
        if sample.name == "resilient_circuit_state" and sample.labels["dependency"] == dependency
    }


def test_the_gauge_is_there_for_a_breaker_that_never_tripped(virtual_time: VirtualTime) -> None:
    """And for one that was never called."""
    breaker = CircuitBreaker("quiet")

    assert gauge("quiet") == {"closed": 1, "open": 0, "half-open": 0}
    assert breaker.current_state == "closed"


def test_the_gauge_turns_on_time_without_traffic(upstream: Upstream) -> None:
    """From open to half-open at the end of the period, at the scrape that comes then."""
    breaker = CircuitBreaker("quiet", fail_max=1, reset_timeout=10)
    upstream.down()
    outcome_of(upstream.guarded(breaker))

    assert gauge("quiet") == {"closed": 0, "open": 1, "half-open": 0}
    upstream.time.advance(9.999)
    assert gauge("quiet")["open"] == 1
    upstream.time.advance(0.001)
    assert gauge("quiet") == {"closed": 0, "open": 0, "half-open": 1}


def test_health_turns_on_time_without_traffic(upstream: Upstream) -> None:
    """It shows the state of now, and answers in JSON that everybody can read."""
    breaker = CircuitBreaker("quiet", fail_max=1, reset_timeout=10)
    upstream.down()
    outcome_of(upstream.guarded(breaker))

    def shown() -> dict[str, Any]:
        check: dict[str, Any] = health.ready().checks["quiet:circuit"][0]
        return check

    assert shown()["observedValue"] == "open"
    assert shown()["retryInSeconds"] == 10.0
    upstream.time.advance(10)
    assert shown()["observedValue"] == "half-open"
    breaker.force_open()

    def refuse(number: str) -> None:
        raise AssertionError(f"{number} is no JSON")

    json.loads(json.dumps(health.ready().as_dict()), parse_constant=refuse)


# 28. Listeners that raise

HOOKS = ("before_call", "success", "failure", "state_change")


def listener_that_raises_in(hook: str) -> pybreaker.CircuitBreakerListener:
    """Return a listener with a mistake in one of its methods."""

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError(f"a mistake in {hook}")

    return type("Broken", (pybreaker.CircuitBreakerListener,), {hook: broken})()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("hook", HOOKS)
def test_a_listener_that_raises_changes_nothing(upstream: Upstream, hook: str, way: str) -> None:
    """Results are as without it, and the breaker still trips and recovers."""
    told: list[str] = []

    class Listening(pybreaker.CircuitBreakerListener):
        def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
            told.append(new_state.name)

    listeners = [listener_that_raises_in(hook), Listening()]
    breaker = CircuitBreaker(fail_max=2, reset_timeout=10, listeners=listeners)
    call = upstream.guarded(breaker, way)
    assert outcomes_of(call, 2) == ["answered"] * 2
    upstream.down()
    assert outcomes_of(call, 3) == ["ConnectionError"] * 2 + ["rejected"]
    upstream.up()
    upstream.time.advance(10)
    assert outcomes_of(call, 2) == ["answered"] * 2

    assert told == ["open", "half-open", "closed"]


@pytest.mark.parametrize("listener", [5, None, pybreaker.CircuitBreakerListener], ids=repr)
def test_what_is_no_listener_is_told_where_it_is_given(
    virtual_time: VirtualTime, listener: Any
) -> None:
    """And not by an error in place of the next call's own."""
    with pytest.raises(InvalidSetting, match="listeners"):
        CircuitBreaker(listeners=[listener])
    breaker = CircuitBreaker()
    with pytest.raises(InvalidSetting, match="listeners"):
        breaker.add_listener(listener)

    assert breaker.listeners == ()


@pytest.mark.parametrize("name", ["cb", "place", "default", "hook", "args", "self", "function"])
@pytest.mark.parametrize("way", ["decorated", "call", "stream"])
def test_a_parameter_of_the_guarded_function_may_have_any_name(
    virtual_time: VirtualTime, name: str, way: str
) -> None:
    """Also one that the library's own functions have, with listeners and without."""
    if (name, way) == ("self", "call"):
        return  # its own, as of any method
    for listeners in ([], [Everything()]):
        assert called_with(CircuitBreaker(listeners=listeners), way, name) == {name: "given"}


def called_with(breaker: CircuitBreaker, way: str, name: str) -> Any:
    """Call a guarded function with one argument of that name, and return what it was given."""
    if way == "decorated":
        return breaker(lambda **given: given)(**{name: "given"})
    if way == "call":
        return breaker.call(lambda **given: given, **{name: "given"})
    return next(breaker(as_stream)(**{name: "given"}))


def as_stream(**given: Any) -> Iterator[Any]:
    """Give what was given."""
    yield given


class Everything(pybreaker.CircuitBreakerListener):
    """Listens to each call."""

    def before_call(self, cb: Any, func: Any, *args: Any, **kwargs: Any) -> None:
        """Look at it."""


# 29. One circuit for synchronous and asynchronous functions


def test_synchronous_and_asynchronous_functions_share_one_circuit(upstream: Upstream) -> None:
    """Failures of both count together, and it opens and closes for both."""
    breaker = CircuitBreaker(fail_max=4, reset_timeout=10)
    calls = [upstream.guarded(breaker, way) for way in WAYS]
    upstream.down()
    assert [outcome_of(call) for call in calls] == ["ConnectionError"] * 4 + ["rejected"] * 2
    assert [outcome_of(call) for call in calls] == ["rejected"] * 6
    upstream.up()
    upstream.time.advance(10)

    order = list(calls)
    random.Random(29).shuffle(order)
    assert [outcome_of(call) for call in order] == ["answered"] * 6
    assert breaker.current_state == "closed"
