"""Every setting of everything public, given anything: taken if it is in range, else refused.

A refusal is an `InvalidSetting` which names the parameter, the value and the range (or an
`InvalidUse` where what is wrong is more than a value). There is no crash, and what is out of range
is never taken.
"""

# What type checkers refuse as well is what this is about.
# pyright: reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

import decimal
import enum
import fractions
import inspect
import itertools
import math
import string
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import resilient
from resilient import InvalidSetting, InvalidUse
from tests.generated import examples


class Spiteful:
    """Raises whatever is asked of it."""

    def __repr__(self) -> str:
        raise RuntimeError("no text for you")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("nor a comparison")

    def __bool__(self) -> bool:
        raise RuntimeError("nor an answer")

    __hash__ = None  # type: ignore[assignment]


class Given:
    """A value for a setting, which Hypothesis can show whatever it is."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        try:
            return f"Given({self.value!r})"
        except Exception:
            return f"Given(a {type(self.value).__name__})"


class Colour(enum.IntEnum):
    RED = 2


async def asynchronous() -> None:
    return None


#: Values of every kind, the usual mistakes and the unusual ones.
ANYTHING: st.SearchStrategy[Given] = st.one_of(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.integers(min_value=10**9),
        st.floats(),
        st.text(max_size=8),
        st.binary(max_size=4),
        st.builds(complex, st.floats(), st.floats()),
    ).map(Given),
    st.sampled_from(
        [
            10**400,
            -(10**400),
            10**5000,  # which has more digits than Python makes a text of
            5e-324,
            1e308,
            decimal.Decimal(1),
            decimal.Decimal("NaN"),
            fractions.Fraction(1, 2),
            Colour.RED,
            "10s",
            "1ms",
            " ",
            "\ud800",
            [],
            {},
            (),
            [1],
            [None],
            [ValueError],
            (ValueError, 3),
            int,
            Exception,
            BaseException,
            ValueError("an error, not a type"),
            len,
            asynchronous,
            lambda *args: True,
            object(),
            Spiteful(),
            [Spiteful()],
            ...,
            NotImplemented,
            Path("somewhere"),
        ]
    ).map(Given),
)


# What each kind of setting takes


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # more than a float holds
        return False


def seconds(value: Any) -> bool:
    return _is_number(value) and value >= 0


def above_zero(value: Any) -> bool:
    return _is_number(value) and value > 0


def fraction(value: Any) -> bool:
    return _is_number(value) and 0 < value <= 1


def count(value: Any) -> bool:
    return count_or_zero(value) and value >= 1


def places(value: Any) -> bool:
    return count(value) and value <= 1_000_000


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= sys.maxsize


def count_or_zero(value: Any) -> bool:
    return _is_whole(value) and value >= 0


def text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def function(value: Any) -> bool:
    return callable(value)


def plain_function(value: Any) -> bool:
    return callable(value) and not inspect.iscoroutinefunction(value)


def none(value: Any) -> bool:
    return value is None


def flag(value: Any) -> bool:
    return isinstance(value, bool)


def nothing(value: Any) -> bool:
    return False


def is_header(value: Any) -> bool:
    tchar = "!#$%&'*+-.^_`|~" + string.ascii_letters + string.digits
    return value is None or (text(value) and all(one in tchar for one in value))


def _is_path(value: Any) -> bool:
    return isinstance(value, Path)


def _is_exclusion(value: Any) -> bool:
    return issubclass(value, BaseException) if isinstance(value, type) else callable(value)


def optional(accepts: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or accepts(value)


Case = tuple[Callable[[Any], object], Callable[[Any], bool]]
R, C, F = resilient.retry, resilient.circuit_breaker, resilient.with_fallback

D, T = resilient.Dependency, resilient.failover_to
A, W = resilient.ASGIMiddleware, resilient.WSGIMiddleware
names = itertools.count()


def named(use: Callable[[Any, Any], object], *, fresh: bool = False) -> Callable[[Any], object]:
    """Return `use` of a value: as the name, or with a name that nothing has had before.

    Names are unique in a process, and a value may come twice.
    """

    def used(value: Any) -> object:
        number = next(names)
        name = value if not isinstance(value, str) or not value.strip() else f"{value} {number}"
        return use(f"generated {number}" if fresh else name, value)

    return used


def outbox(parameter: str) -> Callable[[Any], object]:
    """Return what makes an outbox with one setting as given, in a file that is never opened."""
    folder = Path(__file__).parent

    def used(value: Any) -> object:
        settings = {"url": folder / "never.db", "name": f"generated {next(names)}"}
        return resilient.Outbox(**{**settings, parameter: value})

    return used


def checked(name: Any, **settings: Any) -> None:
    """Have something checked, and no more."""
    resilient.health.check(name, **{"function": print, **settings})
    resilient.health.remove(name)


def health_check(parameter: str) -> Callable[[Any], object]:
    return named(lambda name, one: checked(name, **{parameter: one}), fresh=True)


SETTINGS: dict[str, Case] = {
    "timeout(seconds)": (resilient.timeout, above_zero),
    "timeout(max_abandoned)": (lambda one: resilient.timeout(1, max_abandoned=one), count),
    "timeout(max_workers)": (lambda one: resilient.timeout(1, max_workers=one), count),
    "deadline(seconds)": (resilient.deadline, above_zero),
    "deadline(pass_as)": (lambda one: resilient.deadline(1, pass_as=one), optional(text)),
    "retry(attempts)": (lambda one: R(on=OSError, attempts=one), optional(count)),
    "retry(stop)": (lambda one: R(on=OSError, stop=one), optional(plain_function)),
    "retry(wait)": (lambda one: R(on=OSError, wait=one), optional(plain_function)),
    "retry(on_result)": (lambda one: R(on=OSError, on_result=one), optional(plain_function)),
    "retry(after)": (lambda one: R(on=OSError, after=one), optional(plain_function)),
    "retry(before_sleep)": (lambda one: R(on=OSError, before_sleep=one), optional(plain_function)),
    "retry(wait_initial)": (lambda one: R(on=OSError, wait_initial=one), seconds),
    "retry(wait_max)": (lambda one: R(on=OSError, wait_max=one), seconds),
    "retry(max_retry_after)": (lambda one: R(on=OSError, max_retry_after=one), seconds),
    "retry(budget)": (lambda one: R(on=OSError, budget=one), lambda value: value is None),
    "RetryBudget(size)": (resilient.RetryBudget, count),
    "RetryBudget(per_success)": (lambda one: resilient.RetryBudget(1, one), fraction),
    "bulkhead(max_concurrent)": (resilient.bulkhead, places),
    "bulkhead(max_waiting)": (lambda one: resilient.bulkhead(1, one), count_or_zero),
    "bulkhead(max_wait)": (lambda one: resilient.bulkhead(1, 1, one), optional(seconds)),
    "rate_limit(limit)": (resilient.rate_limit, count),
    "rate_limit(per)": (lambda one: resilient.rate_limit(1, one), above_zero),
    "rate_limit(burst)": (lambda one: resilient.rate_limit(1, burst=one), optional(count)),
    "rate_limit(max_wait)": (lambda one: resilient.rate_limit(1, max_wait=one), seconds),
    "circuit_breaker(fail_max)": (lambda one: C(fail_max=one), optional(count)),
    "circuit_breaker(failure_rate)": (lambda one: C(failure_rate=one), optional(fraction)),
    "circuit_breaker(slow_call_rate)": (
        lambda one: C(slow_call_rate=one, slow_call_seconds=None if one is None else 1),
        optional(fraction),
    ),
    "circuit_breaker(slow_call_seconds)": (
        lambda one: C(slow_call_rate=None if one is None else 0.5, slow_call_seconds=one),
        optional(above_zero),
    ),
    "circuit_breaker(window)": (
        lambda one: C(failure_rate=0.5, window=one),
        lambda value: count(value) or (isinstance(value, str) and value in ("10s", "1ms")),
    ),
    "circuit_breaker(min_calls)": (
        lambda one: C(failure_rate=0.5, min_calls=one, window="10s"),
        optional(count),
    ),
    "circuit_breaker(reset_timeout)": (lambda one: C(reset_timeout=one), optional(seconds)),
    "circuit_breaker(max_reset_timeout)": (
        lambda one: C(reset_timeout=0, max_reset_timeout=one),
        optional(seconds),
    ),
    "circuit_breaker(probes)": (lambda one: C(probes=one), count),
    "circuit_breaker(success_threshold)": (lambda one: C(success_threshold=one), count),
    "circuit_breaker(probe)": (lambda one: C(probe=one), optional(function)),
    "circuit_breaker(probe_every)": (lambda one: C(probe=print, probe_every=one), above_zero),
    "circuit_breaker(probe_timeout)": (
        lambda one: C(probe=print, probe_timeout=one),
        optional(above_zero),
    ),
    "circuit_breaker(mode)": (
        lambda one: C(mode=one),
        lambda value: isinstance(value, str) and value in ("enforce", "shadow"),
    ),
    "circuit_breaker(ramp)": (lambda one: C(ramp=one), optional(flag)),
    "circuit_breaker(throw_new_error_on_trip)": (
        lambda one: C(throw_new_error_on_trip=one),
        flag,
    ),
    "MemoryStore(copies)": (lambda one: resilient.MemoryStore(copies=one), flag),
    "failover_to(degraded)": (lambda one: T(len, degraded=one), flag),
    "observe(started)": (lambda one: resilient.observe("a", started=one), flag),
    "observe(audit)": (lambda one: resilient.observe("a", audit=one), flag),
    "health.check(name)": (named(lambda name, one: checked(name)), text),
    "health.check(timeout)": (health_check("timeout"), above_zero),
    "health.check(every)": (health_check("every"), above_zero),
    "health.check(critical)": (health_check("critical"), flag),
    "health.check(owner)": (health_check("owner"), optional(text)),
    "health.check(runbook)": (health_check("runbook"), optional(text)),
    "cached(ttl)": (resilient.cached, above_zero),
    "cached(fresh_for)": (
        lambda one: resilient.cached(60, fresh_for=one),
        lambda value: seconds(value) and value <= 60,
    ),
    "cached(refresh_ahead)": (
        lambda one: resilient.cached(60, fresh_for=10, refresh_ahead=one),
        lambda value: seconds(value) and value <= 10,
    ),
    "cached(jitter)": (
        lambda one: resilient.cached(60, jitter=one),
        lambda value: seconds(value) and value <= 1,
    ),
    "cached(negative_for)": (
        lambda one: resilient.cached(60, negative=OSError, negative_for=one),
        above_zero,
    ),
    "cached(store_timeout)": (
        lambda one: resilient.cached(60, store=resilient.SQLiteStore("a"), store_timeout=one),
        above_zero,
    ),
    "cached(version)": (
        lambda one: resilient.cached(60, version=one),
        lambda value: isinstance(value, str) or _is_whole(value),
    ),
    "cached(key)": (
        lambda one: resilient.cached(60, key=one),
        lambda value: value is None or isinstance(value, str) or callable(value),
    ),
    "default(timeout)": (lambda one: resilient.default(1, timeout=one), optional(above_zero)),
    "failover(function)": (resilient.failover, function),
    "failover(timeout)": (lambda one: resilient.failover(len, timeout=one), optional(above_zero)),
    "MemoryStore(max_entries)": (resilient.MemoryStore, count),
    "MemoryStore(max_bytes)": (lambda one: resilient.MemoryStore(max_bytes=one), count),
    "MemoryStore(name)": (lambda one: resilient.MemoryStore(name=one), text),
    "SQLiteStore(path)": (resilient.SQLiteStore, lambda value: text(value) or _is_path(value)),
    "SQLiteStore(name)": (lambda one: resilient.SQLiteStore("a", name=one), text),
    "circuit_breaker(exclude)": (lambda one: C(exclude=[one]), _is_exclusion),
    "circuit_breaker(listeners)": (lambda one: C(listeners=[one]), nothing),
    "circuit_breaker(name)": (named(lambda name, _: C(name)), optional(text)),
    "per_key(name)": (named(lambda name, _: C.per_key(name, "{a}")), text),
    "per_key(key)": (
        named(C.per_key, fresh=True),
        lambda value: value is None or isinstance(value, str) or callable(value),
    ),
    "per_key(max_keys)": (
        named(lambda name, one: C.per_key(name, "{a}", max_keys=one), fresh=True),
        count,
    ),
    "Dependency(name)": (named(lambda name, _: D(name)), text),
    "Dependency(critical)": (
        named(lambda name, one: D(name, critical=one), fresh=True),
        flag,
    ),
    "Dependency(total_timeout)": (
        named(lambda name, one: D(name, total_timeout=one), fresh=True),
        optional(above_zero),
    ),
    "Dependency(timeout)": (
        named(lambda name, one: D(name, timeout=one), fresh=True),
        optional(above_zero),
    ),
    "Dependency(retry)": (named(lambda name, one: D(name, retry=one), fresh=True), none),
    "Dependency(breaker)": (named(lambda name, one: D(name, breaker=one), fresh=True), none),
    "Dependency(rate_limit)": (named(lambda name, one: D(name, rate_limit=one), fresh=True), none),
    "Dependency(max_concurrent)": (
        named(lambda name, one: D(name, max_concurrent=one), fresh=True),
        optional(places),
    ),
    "Dependency(max_waiting)": (
        named(lambda name, one: D(name, max_concurrent=1, max_waiting=one), fresh=True),
        count_or_zero,
    ),
    "Dependency(rto)": (
        named(lambda name, one: D(name, rto=one), fresh=True),
        optional(above_zero),
    ),
    "Dependency(owner)": (
        named(lambda name, one: D(name, owner=one), fresh=True),
        optional(text),
    ),
    "Dependency(runbook)": (
        named(lambda name, one: D(name, runbook=one), fresh=True),
        optional(text),
    ),
    "Pipeline(name)": (lambda one: resilient.Pipeline(name=one), optional(text)),
    "Pipeline(is_failure)": (
        lambda one: resilient.Pipeline(is_failure=one),
        optional(plain_function),
    ),
    "Outbox(url)": (outbox("url"), _is_path),
    "Outbox(name)": (named(lambda name, _: outbox("name")(name)), optional(text)),
    "Outbox(max_attempts)": (outbox("max_attempts"), count),
    "Outbox(first_pause)": (outbox("first_pause"), seconds),
    "Outbox(max_pause)": (outbox("max_pause"), seconds),
    "Outbox(lease)": (outbox("lease"), above_zero),
    "Outbox(patience)": (outbox("patience"), above_zero),
    "Outbox(warn_waiting)": (outbox("warn_waiting"), count_or_zero),
    "Outbox(warn_oldest)": (outbox("warn_oldest"), seconds),
    "queued(outbox)": (resilient.queued, nothing),
    "failover_to(switch_after)": (lambda one: T(len, switch_after=one), count),
    "failover_to(return_after)": (lambda one: T(len, return_after=one), above_zero),
    "failover_to(probe)": (lambda one: T(len, probe=one), optional(function)),
    "failover_to(probe_every)": (lambda one: T(len, probe=len, probe_every=one), above_zero),
    "failover_to(equivalents)": (T, function),
    "observe(name)": (resilient.observe, text),
    "observe(result)": (lambda one: resilient.observe("a", result=one), optional(plain_function)),
    "observe(sample)": (lambda one: resilient.observe("a", sample=one), fraction),
    "gather_partial(timeout)": (
        lambda one: resilient.gather_partial(a=lambda: 1, timeout=one),
        optional(above_zero),
    ),
    "deadline_headers(header)": (resilient.deadline_headers, text),
    "ASGIMiddleware(max_deadline)": (lambda one: A(print, max_deadline=one), above_zero),
    "ASGIMiddleware(default_deadline)": (
        lambda one: A(print, default_deadline=one),
        optional(above_zero),
    ),
    "ASGIMiddleware(deadline_header)": (lambda one: A(print, deadline_header=one), is_header),
    "WSGIMiddleware(request_id_header)": (lambda one: W(print, request_id_header=one), is_header),
    "SQLiteStore(max_entries)": (lambda one: resilient.SQLiteStore("a", max_entries=one), count),
}


@pytest.mark.parametrize("name", SETTINGS)
@examples(20)
@given(given=ANYTHING)
@example(given=Given(10**400))
@example(given=Given(10**5000))
@example(given=Given(Spiteful()))
@example(given=Given([Spiteful()]))
def test_a_setting_is_taken_in_its_range_and_else_refused(name: str, given: Given) -> None:
    """Whatever is given, it is taken or refused by name, as its page says."""
    use, accepts = SETTINGS[name]
    value = given.value
    parameter = name.partition("(")[2].rstrip(")")
    if accepts(value):
        use(value)
        return
    with pytest.raises((InvalidSetting, InvalidUse)) as caught:
        use(value)
    if isinstance(caught.value, InvalidSetting):
        assert caught.value.parameter == parameter
        assert caught.value.value is value
    assert parameter in str(caught.value)
