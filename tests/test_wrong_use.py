"""Wrong use is told where it is written, by parameter, value and range, not by the next outage."""

# What type checkers refuse as well is what this is about.
# pyright: reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable
from typing import Any

import pytest
import tenacity

from resilient import (
    BulkheadFull,
    CallTimeout,
    Dependency,
    InvalidSetting,
    InvalidUse,
    MemoryStore,
    Pipeline,
    RateLimited,
    ResilientError,
    RetryBudget,
    SQLiteStore,
    bulkhead,
    cached,
    circuit_breaker,
    deadline,
    default,
    failover,
    failover_to,
    health,
    observe,
    pipeline_of,
    rate_limit,
    retry,
    retrying,
    serve,
    subscribe,
    timeout,
    with_fallback,
)
from resilient.testing import VirtualTime, fail
from tests.doubles import each

NOT_NUMBERS = [float("nan"), float("inf"), float("-inf"), True, False, "1", None, [1], 1j]


def breaker(**settings: Any) -> object:
    return circuit_breaker(**settings)


def fetch(user_id: str, *, page: int = 1) -> str:
    return user_id


# Numbers and texts of an unusual kind


class Seconds(float, enum.Enum):
    BRIEF = 0.5


class Calls(int, enum.Enum):
    TWO = 2


class Upstream(str, enum.Enum):  # noqa: UP042 - a StrEnum is written by its value anyhow
    PAYMENTS = "payments"


def test_a_number_of_an_enumeration_is_that_number(virtual_time: VirtualTime) -> None:
    """Messages say it, in place of the name of its member, which has no format."""
    with pytest.raises(CallTimeout, match=r"not back within 0\.5 s"):
        timeout(Seconds.BRIEF)(virtual_time.sleep)(1)
    assert repr(timeout(Seconds.BRIEF)) == "Timeout(0.5)"

    limited = rate_limit(Calls.TWO, per=10)(fetch)
    limited("u1")
    limited("u2")
    with pytest.raises(RateLimited, match="more than 2 calls in 10 s"):
        limited("u3")
    assert repr(bulkhead(Calls.TWO)) == "Bulkhead(2, max_waiting=0)"


def test_a_text_of_an_enumeration_is_that_text() -> None:
    """Errors, logs and metrics call a dependency by one name."""
    payments = Dependency(Upstream.PAYMENTS, max_concurrent=1)
    assert type(payments.name) is str

    @payments
    def charge() -> None:
        charge()

    with pytest.raises(BulkheadFull, match=r"^payments: 1 calls"):
        charge()


# Numbers

#: How each setting is given: a function of the value, and the values that are out of range.
SECONDS: dict[str, tuple[Callable[[Any], object], list[Any]]] = {
    "timeout(seconds)": (timeout, [0, -1]),
    "deadline(seconds)": (deadline, [0, -0.5]),
    "retry(wait_initial)": (lambda one: retry(on=OSError, wait_initial=one), [-1]),
    "retry(wait_max)": (lambda one: retry(on=OSError, wait_max=one), [-1]),
    "retry(max_retry_after)": (lambda one: retry(on=OSError, max_retry_after=one), [-1]),
    "rate_limit(per)": (lambda one: rate_limit(1, per=one), [0, -1]),
    "rate_limit(max_wait)": (lambda one: rate_limit(1, max_wait=one), [-1]),
    "cached(ttl)": (cached, [0, -1]),
    "cached(fresh_for)": (lambda one: cached(60, fresh_for=one), [-1, 61]),
    "cached(refresh_ahead)": (
        lambda one: cached(60, fresh_for=10, refresh_ahead=one),
        [-1, 11],
    ),
    "cached(jitter)": (lambda one: cached(60, fresh_for=10, jitter=one), [-0.1, 1.1]),
    "cached(negative_for)": (
        lambda one: cached(60, negative=LookupError, negative_for=one),
        [0, -1],
    ),
    "cached(store_timeout)": (
        lambda one: cached(60, store=SQLiteStore("answers.db"), store_timeout=one),
        [0, -1],
    ),
    "circuit_breaker(probe_every)": (
        lambda one: breaker(probe=print, probe_every=one),
        [0, -1],
    ),
    "VirtualTime.advance(seconds)": (lambda one: VirtualTime().advance(one), [-1]),
}
#: None stands for a default, or for no limit, in these.
SECONDS_OR_NONE: dict[str, tuple[Callable[[Any], object], list[Any]]] = {
    "bulkhead(max_wait)": (lambda one: bulkhead(1, 1, max_wait=one), [-1]),
    "default(timeout)": (lambda one: default(1, timeout=one), [0, -1]),
    "failover(timeout)": (lambda one: failover(fetch, timeout=one), [0, -1]),
    "circuit_breaker(reset_timeout)": (lambda one: breaker(reset_timeout=one), [-1]),
    "circuit_breaker(max_reset_timeout)": (
        lambda one: breaker(reset_timeout=1, max_reset_timeout=one),
        [-1, 0.5],
    ),
    "circuit_breaker(slow_call_seconds)": (
        lambda one: breaker(slow_call_rate=0.5, slow_call_seconds=one),
        [0, -1],
    ),
}
COUNTS: dict[str, tuple[Callable[[Any], object], list[Any]]] = {
    "RetryBudget(size)": (RetryBudget, [0, -1, 1.5]),
    "bulkhead(max_concurrent)": (bulkhead, [0, -1, 1.5]),
    "bulkhead(max_waiting)": (lambda one: bulkhead(1, one), [-1, 1.5]),
    "rate_limit(limit)": (rate_limit, [0, -1, 1.5]),
    "timeout(max_abandoned)": (lambda one: timeout(1, max_abandoned=one), [0, -1, 1.5]),
    "timeout(max_workers)": (lambda one: timeout(1, max_workers=one), [0, -1, 1.5]),
    "MemoryStore(max_entries)": (MemoryStore, [0, -1, 1.5]),
    "MemoryStore(max_bytes)": (lambda one: MemoryStore(max_bytes=one), [0, -1, 1.5]),
    "SQLiteStore(max_entries)": (lambda one: SQLiteStore("a.db", max_entries=one), [0, -1]),
    "circuit_breaker(probes)": (lambda one: breaker(probes=one), [0, -1, 1.5]),
    "circuit_breaker(success_threshold)": (
        lambda one: breaker(success_threshold=one),
        [0, -1, 1.5],
    ),
    "serve(port)": (lambda one: serve(port=one), [-1, 65_536, 1.5]),
}
COUNTS_OR_NONE: dict[str, tuple[Callable[[Any], object], list[Any]]] = {
    "retry(attempts)": (lambda one: retry(on=OSError, attempts=one), [0, -1, 1.5]),
    "rate_limit(burst)": (lambda one: rate_limit(1, burst=one), [0, -1, 1.5]),
    "circuit_breaker(fail_max)": (lambda one: breaker(fail_max=one), [0, -1, 1.5]),
    "circuit_breaker(min_calls)": (
        lambda one: breaker(failure_rate=0.5, min_calls=one),
        [0, -1, 1.5, 101],
    ),
}
FRACTIONS: dict[str, tuple[Callable[[Any], object], list[Any]]] = {
    "RetryBudget(per_success)": (lambda one: RetryBudget(10, one), [0, -0.1, 1.01]),
}
FRACTIONS_OR_NONE: dict[str, tuple[Callable[[Any], object], list[Any]]] = {
    "circuit_breaker(failure_rate)": (lambda one: breaker(failure_rate=one), [0, -0.1, 1.01, 50]),
    "circuit_breaker(slow_call_rate)": (
        lambda one: breaker(slow_call_rate=one, slow_call_seconds=1),
        [0, -0.1, 1.01],
    ),
}


def numbers() -> dict[str, tuple[Callable[[Any], object], str, Any]]:
    """Return each setting with each value that is none for it."""
    found: dict[str, tuple[Callable[[Any], object], str, Any]] = {}
    for group in (SECONDS, COUNTS, FRACTIONS):
        for name, (use, beyond) in group.items():
            for value in [*NOT_NUMBERS, *beyond]:
                found[f"{name}={value!r}"] = (use, name, value)
    for group in (SECONDS_OR_NONE, COUNTS_OR_NONE, FRACTIONS_OR_NONE):
        for name, (use, beyond) in group.items():
            for value in [*NOT_NUMBERS, *beyond]:
                if value is not None:
                    found[f"{name}={value!r}"] = (use, name, value)
    return found


@each("case", numbers())
def test_a_number_out_of_its_range_is_refused(
    case: tuple[Callable[[Any], object], str, Any],
) -> None:
    """The error names the parameter and the value, says what is accepted, and is a ValueError."""
    use, name, value = case
    parameter = name.split("(")[1].rstrip(")")
    with pytest.raises(InvalidSetting, match=f"{parameter} must be ") as caught:
        use(value)
    assert isinstance(caught.value, ValueError)
    assert caught.value.parameter == parameter
    assert caught.value.value is value
    assert repr(value) in str(caught.value)


@each(
    "use",
    {
        "wait_initial": lambda: retry(on=OSError, wait_initial=0).wait_initial,
        "wait_max": lambda: retry(on=OSError, wait_max=0).wait_max,
        "max_retry_after": lambda: retry(on=OSError, max_retry_after=0).max_retry_after,
        "max_waiting": lambda: bulkhead(1, 0).max_waiting,
        "max_wait": lambda: bulkhead(1, 1, max_wait=0).max_wait,
        "max_wait of a rate": lambda: rate_limit(1, max_wait=0).max_wait,
        "fresh_for": lambda: cached(60, fresh_for=0).fresh_for,
        "reset_timeout": lambda: circuit_breaker(reset_timeout=0).reset_timeout,
    },
)
def test_a_deliberate_zero_stays_zero(use: Callable[[], float]) -> None:
    """Where 0 is in range it is never replaced by a default."""
    assert use() == 0


# Other settings


@each(
    "case",
    {
        "retry: on is a number": (lambda: retry(on=3), "on"),
        "retry: on is an error": (lambda: retry(on=ConnectionError()), "on"),
        "retry: on is empty": (lambda: retry(on=()), "on"),
        "retry: on is text": (lambda: retry(on="ConnectionError"), "on"),
        "retry: on holds no error": (lambda: retry(on=(OSError, int)), "on"),
        "retry: stop and attempts": (
            lambda: retry(on=OSError, attempts=3, stop=tenacity.stop_after_attempt(3)),
            "stop",
        ),
        "retry: stop is a number": (lambda: retry(on=OSError, stop=3), "stop"),
        "retry: wait is a number": (lambda: retry(on=OSError, wait=3), "wait"),
        "retry: on_result is a value": (lambda: retry(on=OSError, on_result=3), "on_result"),
        "retry: budget is a number": (lambda: retry(on=OSError, budget=10), "budget"),
        "retry: after is a number": (lambda: retry(on=OSError, after=3), "after"),
        "retry: before_sleep is a number": (
            lambda: retry(on=OSError, before_sleep=3),
            "before_sleep",
        ),
        "fallback: on is a number": (lambda: with_fallback(1, on=3), "on"),
        "fallback: exclude is empty": (lambda: with_fallback(1, exclude=()), "exclude"),
        "failover: no function": (lambda: failover("replica"), "function"),
        "cached: key is a number": (lambda: cached(60, key=3), "key"),
        "cached: store is none": (lambda: cached(60, store={}), "store"),
        "cached: store is a class": (lambda: cached(60, store=3), "store"),
        "deadline: pass_as is empty": (lambda: deadline(1, pass_as=""), "pass_as"),
        "breaker: name is a function": (lambda: circuit_breaker(fetch), "name"),
        "breaker: name is empty": (lambda: circuit_breaker(" "), "name"),
        "breaker: mode": (lambda: circuit_breaker(mode="off"), "mode"),
        "breaker: window is a word": (
            lambda: circuit_breaker(failure_rate=0.5, window="ten"),
            "window",
        ),
        "breaker: window is zero": (lambda: circuit_breaker(failure_rate=0.5, window=0), "window"),
        "breaker: window of no time": (
            lambda: circuit_breaker(failure_rate=0.5, window="0s"),
            "window",
        ),
        "breaker: slow rate alone": (
            lambda: circuit_breaker(slow_call_rate=0.5),
            "slow_call_seconds",
        ),
        "breaker: slow seconds alone": (
            lambda: circuit_breaker(slow_call_seconds=1),
            "slow_call_seconds",
        ),
        "breaker: exclude": (lambda: circuit_breaker(exclude=[int]), "exclude"),
        "breaker: probe": (lambda: circuit_breaker(probe=3), "probe"),
        "serve: host": (lambda: serve(port=0, host=""), "host"),
    },
)
def test_a_setting_that_makes_no_sense_is_refused(
    case: tuple[Callable[[], object], str],
) -> None:
    """The error comes where the setting is written, and names it."""
    use, parameter = case
    with pytest.raises(InvalidSetting) as caught:
        use()
    assert caught.value.parameter == parameter
    assert parameter in str(caught.value)


class Textless:
    """Has no text, as an object that is half made may have none."""

    def __repr__(self) -> str:
        raise AttributeError("half made")


@each("value", {"an object": Textless(), "of a list": [Textless()], "a number": 10**5000})
def test_what_has_no_text_is_refused_by_its_type(value: Any) -> None:
    """The error is the one about the setting, not one about the value's text; it pickles."""
    with pytest.raises(InvalidSetting, match=r"seconds=<an? \w+ that has no text>: seconds must"):
        timeout(value)


def test_a_long_text_is_shown_up_to_a_point() -> None:
    """A setting that was given a whole document does not fill the log."""
    with pytest.raises(InvalidSetting) as caught:
        timeout("word " * 10_000)
    assert len(str(caught.value)) < 400


@each("use", {"seconds": timeout, "count": bulkhead, "fraction": lambda one: RetryBudget(1, one)})
def test_a_number_beyond_all_floats_is_refused(use: Callable[[Any], object]) -> None:
    """It is out of range, and no OverflowError."""
    with pytest.raises(InvalidSetting):
        use(10**400)


@each(
    "use",
    {
        "places": lambda: bulkhead(10**9),  # for each of which there is memory
        "tokens": lambda: rate_limit(10**30),
        "retries": lambda: RetryBudget(10**30),
    },
)
def test_a_count_that_no_machine_holds_is_refused(use: Callable[[], object]) -> None:
    """The error says how much is too much, before the memory is taken."""
    with pytest.raises(InvalidSetting, match=r"a whole number, 1 to [\d,]+"):
        use()


def test_a_rate_of_more_calls_than_a_moment_holds_is_refused() -> None:
    """A stretch so short that no time is left between two calls is no division by zero later."""
    with pytest.raises(InvalidSetting, match="per must be long enough"):
        rate_limit(2, per=5e-324)


@each("parameter", {name: name for name in ("timeout", "total_timeout")})
def test_a_dependency_calls_its_time_limits_by_their_own_names(parameter: str) -> None:
    """Who writes `Dependency(total_timeout=0)` is not told of `seconds`."""
    with pytest.raises(InvalidSetting) as caught:
        Dependency("with a limit of nothing", **{parameter: 0})
    assert caught.value.parameter == parameter


@each(
    "case",
    {
        "critical": (lambda: Dependency("of no use", critical="false"), "critical"),
        "owner": (lambda: Dependency("of no use", owner=3), "owner"),
        "runbook": (lambda: Dependency("of no use", runbook=["a", "b"]), "runbook"),
        "critical of a check": (lambda: health.check("c", print, critical="no"), "critical"),
        "owner of a check": (lambda: health.check("c", print, owner=3), "owner"),
        "ramp": (lambda: circuit_breaker(ramp="no"), "ramp"),
        "copies": (lambda: MemoryStore(copies="no"), "copies"),
        "version": (lambda: cached(1, version=1.5), "version"),
        "path": (lambda: SQLiteStore(3), "path"),
        "mode": (lambda: circuit_breaker(mode=["shadow"]), "mode"),
        "name of a pipeline": (lambda: Pipeline(name=["shop"]), "name"),
        "is_failure": (lambda: Pipeline(is_failure=OSError()), "is_failure"),
    },
)
def test_what_is_no_flag_and_no_text_is_not_taken_for_one(
    case: tuple[Callable[[], object], str],
) -> None:
    """The text "false" would be true, and a number for an owner breaks a page much later."""
    use, parameter = case
    with pytest.raises(InvalidSetting) as caught:
        use()
    assert caught.value.parameter == parameter


def test_a_setting_that_there_is_not_is_refused() -> None:
    """A misspelt setting is a TypeError, as of any function."""
    uses: list[Callable[[], object]] = [
        lambda: retry(on=OSError, atempts=3),  # type: ignore[call-arg]
        lambda: retrying(on=OSError, atempts=3),
        lambda: timeout(1, secs=2),  # type: ignore[call-arg]
        lambda: circuit_breaker(fail_maximum=3),  # type: ignore[call-arg]
        lambda: with_fallback(1, only=OSError),  # type: ignore[call-overload]
    ]
    for use in uses:
        with pytest.raises(TypeError, match="unexpected keyword"):
            use()


# Decorating


class Service:
    pass


class Guest:
    def __init__(self, token: str) -> None:
        self.token = token


async def fetch_async(user_id: str, *, page: int = 1) -> str:
    return user_id


def fetch_all(user_id: str) -> Any:
    yield user_id


@each(
    "thing",
    {
        "class": Service,
        "instance": Service(),
        "number": 3,
        "text": "fetch",
        "none": None,
        "property": property(lambda self: 1),
        "module": asyncio,
    },
)
@each(
    "guard",
    {
        "retry": retry(on=OSError),
        "timeout": timeout(1),
        "deadline": deadline(1),
        "bulkhead": bulkhead(1),
        "rate_limit": rate_limit(1),
        "with_fallback": with_fallback(1),
        "circuit_breaker": circuit_breaker(),
        "Pipeline": Pipeline(retry(on=OSError)),
    },
)
def test_what_is_no_function_cannot_be_decorated(guard: Any, thing: Any) -> None:
    """Classes, instances and values are refused when decorating, with what to do instead."""
    with pytest.raises(InvalidUse) as caught:
        guard(thing)
    assert isinstance(caught.value, TypeError)
    assert len(str(caught.value)) > 20


@each(
    "case",
    {
        "retry without on": (lambda: retry()(fetch), r"retry\(on="),
        "a key of another function": (
            lambda: with_fallback(cached(60, key="rec:{user}"))(fetch),
            "user_id, page",
        ),
        "a key function of other arguments": (
            lambda: with_fallback(cached(60, key=lambda: "all"))(fetch),
            r"key: .*<lambda> takes \(\) and is called with .*fetch, which takes \(user_id",
        ),
        "the key of a circuit of other arguments": (
            lambda: circuit_breaker.per_key("hosts", key=lambda host, port: host)(fetch),
            "key: .*fetch, which takes",
        ),
        "a key without a name": (lambda: with_fallback(cached(60, key="rec:{}"))(fetch), "key="),
        "a key that is no template": (
            lambda: with_fallback(cached(60, key="rec:{user_id"))(fetch),
            "key=",
        ),
        "a key of an unknown form": (
            lambda: with_fallback(cached(60, key="{user_id!x}"))(fetch),
            "key=",
        ),
        "a key of all keywords": (
            lambda: with_fallback(cached(60, key="{all}"))(lambda **all: all),
            "key=",
        ),
        "a key that is a coroutine": (
            lambda: with_fallback(cached(60, key=fetch_async))(fetch),
            "key",
        ),
        "no tier": (with_fallback, "at least one tier"),
        "a replica of other arguments": (
            lambda: with_fallback(failover(lambda: 1))(fetch),
            "failover",
        ),
        "an asynchronous tier of a plain function": (
            lambda: with_fallback(failover(fetch_async))(fetch),
            "asynchronous",
        ),
        "an asynchronous default of a plain function": (
            lambda: with_fallback(fetch_async)(fetch),
            "asynchronous",
        ),
        "a default that cannot be copied": (
            lambda: with_fallback(default(fetch_all("a"))),
            "copied",
        ),
        "a default that needs what there is not": (
            lambda: with_fallback(lambda region, user, page, more: 1)(fetch),
            "default",
        ),
        "a class that needs what there is not": (
            lambda: with_fallback(Guest)(fetch),
            r"default\(Guest\): the class needs arguments",
        ),
        "a cached generator": (lambda: with_fallback(cached(60))(fetch_all), "generator"),
        "a parameter that there is not": (
            lambda: deadline(1, pass_as="timeout")(fetch),
            "user_id, page",
        ),
        "not guarded": (lambda: pipeline_of(fetch), "not guarded"),
        "no strategy": (lambda: Pipeline(fetch), "strategies"),
        "a number for a strategy": (lambda: Pipeline(retry(on=OSError), 3), "strategies"),
    },
)
def test_what_does_not_fit_is_told_when_decorating(
    case: tuple[Callable[[], object], str],
) -> None:
    """The error comes before the first call, and names what does not fit."""
    use, said = case
    with pytest.raises(ResilientError, match=said):
        use()


def test_a_key_function_need_not_take_what_calls_may_leave_out() -> None:
    """What it says of most calls is of use; the others are reported, and have no key."""
    guarded = with_fallback(cached(60, key=lambda user_id: user_id))(fetch)
    assert guarded("u1") == guarded("u1", page=2) == "u1"


def test_of_calls_with_any_arguments_nothing_can_be_told_before() -> None:
    """A wrapper that hands all on may be given what its equivalent and its key need."""

    def down(*_args: Any, **_kwargs: Any) -> str:
        raise ConnectionError

    guarded = with_fallback(cached(60, key=lambda user_id: user_id), failover(fetch))(down)
    assert guarded("u1") == "u1"


def test_a_key_of_all_arguments_is_refused_for_methods() -> None:
    """An object has no stable text: a method says what its key is."""

    class Shop:
        def load(self, order_id: str) -> str:
            return order_id

    with pytest.raises(InvalidUse, match="key="):
        with_fallback(cached(60))(Shop.load)


@each(
    "use",
    {
        "on of retry": lambda wrong: retry(on=wrong),
        "on of with_fallback": lambda wrong: with_fallback(1, on=wrong),
        "exclude of with_fallback": lambda wrong: with_fallback(1, exclude=wrong),
        "exclude of circuit_breaker": lambda wrong: circuit_breaker(exclude=[wrong]),
        "a part of what tenacity combines": lambda wrong: retry(
            on=tenacity.retry_any(tenacity.retry_if_exception_type(OSError), wrong)
        ),
        "on_result": lambda wrong: retry(on=OSError, on_result=wrong),
        "stop": lambda wrong: retry(on=OSError, stop=wrong),
        "wait": lambda wrong: retry(on=OSError, wait=wrong),
        "before_sleep": lambda wrong: retry(on=OSError, before_sleep=wrong),
        "after": lambda wrong: retry(on=OSError, after=wrong),
        "is_failure": lambda wrong: Pipeline(timeout(1), is_failure=wrong),
        "probe of failover_to": lambda wrong: failover_to(fetch, probe=wrong),
        "probe of circuit_breaker": lambda wrong: circuit_breaker(probe=wrong),
        "result of observe": lambda wrong: observe("event", result=wrong),
        "listener": subscribe,
    },
)
def test_a_function_of_the_wrong_arguments_is_refused(use: Callable[[Any], object]) -> None:
    """It would fail in the outage, at the first error that it is asked about."""

    def of_three(_first: object, _second: object, _third: object) -> bool:
        return True

    with pytest.raises(InvalidSetting, match="a function that takes"):
        use(of_three)


def test_a_decorator_without_its_parentheses_says_so() -> None:
    """It takes the function for a predicate, as it cannot know better, until that does not fit."""
    with pytest.raises(InvalidSetting, match="on must be a function that takes the exception"):

        @retry  # type: ignore[arg-type]
        def nothing_to_take() -> None:
            """Be taken for a predicate."""

    @retry
    def one_to_take(_thing: Any) -> bool:
        return True

    with pytest.raises(InvalidUse, match="needs its parentheses") as told:
        one_to_take("a secret")  # type: ignore[type-var]
    assert "secret" not in str(told.value)


@each(
    "use",
    {
        "failures": lambda on: Dependency("asked of a retry object", failures=on),
        "breaker": lambda on: circuit_breaker(failures=on),
        "exclude of a breaker": lambda on: circuit_breaker(exclude=[on]),
        "fallback": lambda on: with_fallback(1, on=on),
        "exclude": lambda on: with_fallback(1, exclude=on),
        "negative": lambda on: cached(60, negative=on, negative_for=1),
    },
)
def test_a_retry_object_is_refused_where_nothing_is_tried_again(
    use: Callable[[Any], Any],
) -> None:
    """It looks at the state of a retried call, and would fail whenever it is shown an error."""
    with pytest.raises(InvalidSetting, match=r"types, or a predicate on the exception$"):
        use(tenacity.retry_if_exception_type(OSError))


def test_an_asynchronous_predicate_is_refused() -> None:
    """A predicate that returns a coroutine would say yes to everything."""

    async def is_passing(error: BaseException) -> bool:
        return False

    class IsPassing(tenacity.retry_base):
        async def __call__(self, retry_state: tenacity.RetryCallState) -> bool:  # type: ignore[override]
            return False

    uses: list[Callable[[], object]] = [
        lambda: retry(on=is_passing),  # type: ignore[arg-type]
        lambda: retry(on=IsPassing()),
        lambda: retry(on=OSError, on_result=is_passing),  # type: ignore[arg-type]
        lambda: with_fallback(1, on=is_passing),  # type: ignore[call-overload]
        lambda: circuit_breaker(exclude=[is_passing]),
    ]
    for use in uses:
        with pytest.raises(InvalidSetting, match="plain function"):
            use()


# Blocks


@each(
    "case",
    {
        "retry": (retry(on=OSError), "retrying"),
        "with_fallback": (with_fallback(1), "decorate"),
        "timeout": (timeout(2), "deadline"),
    },
)
def test_what_cannot_guard_a_block_says_what_does(case: tuple[Any, str]) -> None:
    """`with retry(...)`, `with with_fallback(...)` and `with timeout(...)` name the way out."""
    strategy, way_out = case
    with pytest.raises(InvalidUse, match=way_out):
        strategy.__enter__()


@each("strategy", {"retry": retry(on=OSError), "with_fallback": with_fallback(1)})
async def test_what_cannot_guard_an_asynchronous_block_says_so(strategy: Any) -> None:
    """`async with retry(...)` is refused as well."""
    with pytest.raises(InvalidUse):
        await strategy.__aenter__()


# Faults for tests


@each(
    "case",
    {
        "nothing of that name": (lambda: fail("nothing of that name", OSError), "nothing of that"),
        "no error": (lambda: fail("anything", "down"), "error"),  # type: ignore[arg-type]
        "no number": (lambda: fail("anything", OSError, times=0), "times"),
        "no time": (lambda: fail("anything", OSError, after=-1), "after"),
    },
)
def test_a_fault_that_cannot_be_is_refused(case: tuple[Callable[[], Any], str]) -> None:
    """A fault for an unknown dependency, or with wrong settings, is told at once."""
    use, said = case
    with pytest.raises(ResilientError, match=said):
        use().__enter__()


@each("tier", {"cached": cached(ttl=1), "default": default(1)})
def test_a_tier_is_no_decorator(tier: Any) -> None:
    """Who writes `@cached(...)` is told to write `@with_fallback(cached(...))`."""
    with pytest.raises(InvalidUse, match="write @with_fallback"):
        tier(len)
