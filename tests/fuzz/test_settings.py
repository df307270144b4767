"""Every setting of everything public, given anything: taken if it is in range, else refused.

A refusal is an `InvalidSetting` which names the parameter, the value and the range (or an
`InvalidUse` where what is wrong is more than a value). There is no crash, and what is out of range
is never taken.
"""

# What type checkers refuse as well is what this is about.
# pyright: reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

import asyncio
import itertools
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from prometheus_client import CollectorRegistry

import resilient
from resilient import InvalidSetting, InvalidUse
from tests.fuzz.kinds import (
    ANYTHING,
    MISTAKES,
    Given,
    above_zero,
    count,
    count_or_zero,
    errors,
    exclusions,
    few,
    flag,
    fraction,
    function,
    has_none,
    is_copyable,
    is_exclusion,
    is_header,
    is_host,
    is_path,
    is_string,
    is_template,
    is_type,
    listener,
    none,
    nothing,
    optional,
    places,
    plain_function,
    port,
    probe,
    seconds,
    text,
    whole,
)
from tests.generated import examples

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
        name = f"{value} {number}" if text(value) else value
        return use(f"generated {number}" if fresh else name, value)

    return used


def outbox(parameter: str) -> Callable[[Any], object]:
    """Return what makes an outbox with one setting as given, in a file that is never opened."""
    folder = Path(__file__).parent

    def used(value: Any) -> object:
        settings = {"url": folder / "never.db", "name": f"generated {next(names)}"}
        return resilient.Outbox(**{**settings, parameter: value})

    return used


def redis_store(parameter: str) -> Callable[[Any], object]:
    """Return what makes a store with one setting as given, of a server that is never asked."""

    def used(value: Any) -> None:
        resilient.RedisStore(**{"url": "redis://localhost:1/0", parameter: value}).close()

    return used


def retrying(parameter: str) -> Callable[[Any], object]:
    """Return what makes a loop with one setting as given; those of `retry` and of its own."""

    def used(value: Any) -> object:
        return resilient.retrying(**{"on": OSError, "name": "generated", parameter: value})

    return used


def queued(parameter: str) -> Callable[[Any], object]:
    """Return what makes a tier with one setting as given, for an outbox that is never opened."""
    return lambda value: resilient.queued(OUTBOX, **{parameter: value})


def served(**settings: Any) -> None:
    """Serve the pages for a moment, unless that host or port cannot be had."""
    with suppress(OSError):
        resilient.serve(**{"port": 0, "registry": CollectorRegistry(), **settings}).close()


def heard(listener: Any) -> None:
    """Have the library's events told, for a moment."""
    resilient.subscribe(listener)
    resilient.unsubscribe(listener)


def stopped(outbox: resilient.Outbox, timeout: Any) -> None:
    """Begin to make calls in the background, and stop."""
    outbox.start()
    outbox.stop(timeout)


def worked(outbox: resilient.Outbox, stop_within: Any) -> None:
    """Make calls in the background for a moment."""
    with outbox.worker(stop_within=stop_within):
        pass


def started(value: Any) -> None:
    """Say that startup is done, or not, and take it back."""
    resilient.health.started(value)
    resilient.health.started(False)


def details_shown(value: Any) -> None:
    """Show the texts of errors, or hide them, and hide them again."""
    resilient.health.show_details(value)
    resilient.health.show_details(False)


def served_at(host: Any) -> None:
    """Serve the pages for a moment; a name is not looked up, which may take long somewhere."""
    if not is_host(host):
        served(host=host)


def told_to_end(timeout: Any) -> None:
    """Have the process drain when it is told to end, for a moment."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        resilient.drain_on_sigterm(timeout)
    finally:
        signal.signal(signal.SIGTERM, before)


def checked(name: Any, **settings: Any) -> None:
    """Have something checked, and no more."""
    resilient.health.check(name, **{"function": print, **settings})
    resilient.health.remove(name)


def health_check(parameter: str) -> Callable[[Any], object]:
    return named(lambda name, one: checked(name, **{parameter: one}), fresh=True)


def with_outbox(use: Callable[[resilient.Outbox, Any], object]) -> Callable[[Any], object]:
    """Return `use` of a value, with an outbox in a file of its own."""

    def used(value: Any) -> None:
        try:
            use(FILLED[0], value)
        finally:
            FILLED[0].stop()

    return used


#: The outbox of this module, while it runs.
FILLED: list[resilient.Outbox] = []


@pytest.fixture(scope="module", autouse=True)
def _filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    file = tmp_path_factory.mktemp("fuzz") / "outbox.db"
    FILLED[:] = [resilient.Outbox(file, name="of generated calls")]
    yield
    FILLED.pop().close()


OUTBOX = resilient.Outbox(Path(__file__).parent / "never.db", name="of generated settings")

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
    "circuit_breaker(probe)": (lambda one: C(probe=one), optional(probe)),
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
        lambda value: isinstance(value, str) or whole(value),
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
    "SQLiteStore(path)": (resilient.SQLiteStore, lambda value: text(value) or is_path(value)),
    "SQLiteStore(name)": (lambda one: resilient.SQLiteStore("a", name=one), text),
    "circuit_breaker(state_storage)": (lambda one: C(state_storage=one), none),
    "circuit_breaker(exclude)": (lambda one: C(exclude=[one]), is_exclusion),
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
    "Outbox(url)": (outbox("url"), is_path),
    "Outbox(name)": (named(lambda name, _: outbox("name")(name)), optional(text)),
    "Outbox(max_attempts)": (outbox("max_attempts"), count),
    "Outbox(first_pause)": (outbox("first_pause"), seconds),
    "Outbox(max_pause)": (outbox("max_pause"), seconds),
    "Outbox(lease)": (outbox("lease"), above_zero),
    "Outbox(patience)": (outbox("patience"), above_zero),
    "Outbox(warn_waiting)": (outbox("warn_waiting"), count_or_zero),
    "Outbox(warn_oldest)": (outbox("warn_oldest"), seconds),
    "Outbox.put(call)": (with_outbox(resilient.Outbox.put), nothing),
    "Outbox.pending(limit)": (with_outbox(resilient.Outbox.pending), count_or_zero),
    "Outbox.dead(limit)": (with_outbox(resilient.Outbox.dead), count_or_zero),
    "Outbox.find(call_id)": (with_outbox(resilient.Outbox.find), is_string),
    "Outbox.retry(call_id)": (with_outbox(resilient.Outbox.retry), optional(is_string)),
    "Outbox.drop(call_id)": (with_outbox(resilient.Outbox.drop), optional(is_string)),
    "Outbox.drain(timeout)": (with_outbox(resilient.Outbox.drain), optional(seconds)),
    "Outbox.start(concurrency)": (with_outbox(resilient.Outbox.start), few),
    "Outbox.stop(timeout)": (with_outbox(resilient.Outbox.stop), seconds),
    "Outbox.stop(timeout) while it runs": (with_outbox(stopped), seconds),
    "Outbox.worker(stop_within)": (with_outbox(worked), seconds),
    "Outbox.run(concurrency)": (
        with_outbox(lambda box, one: asyncio.run(box.run(until_empty=True, concurrency=one))),
        few,
    ),
    "Outbox.run(stop_within)": (
        with_outbox(lambda box, one: asyncio.run(box.run(until_empty=True, stop_within=one))),
        seconds,
    ),
    "queued(outbox)": (resilient.queued, nothing),
    "failover_to(switch_after)": (lambda one: T(len, switch_after=one), count),
    "failover_to(return_after)": (lambda one: T(len, return_after=one), above_zero),
    "failover_to(probe)": (lambda one: T(len, probe=one), optional(probe)),
    "failover_to(probe_every)": (lambda one: T(len, probe=print, probe_every=one), above_zero),
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
    "RedisStore(namespace)": (redis_store("namespace"), text),
    "RedisStore(lease)": (redis_store("lease"), above_zero),
    "RedisStore(timeout)": (redis_store("timeout"), above_zero),
    "RedisStore(name)": (redis_store("name"), text),
    "retry(on)": (R, optional(errors)),
    "retrying(on)": (resilient.retrying, errors),
    "retrying(name)": (retrying("name"), optional(text)),
    "retrying(attempts)": (retrying("attempts"), optional(count)),
    "retrying(stop)": (retrying("stop"), optional(plain_function)),
    "retrying(wait)": (retrying("wait"), optional(plain_function)),
    "retrying(on_result)": (retrying("on_result"), none),
    "retrying(after)": (retrying("after"), optional(plain_function)),
    "retrying(before_sleep)": (retrying("before_sleep"), optional(plain_function)),
    "retrying(wait_initial)": (retrying("wait_initial"), seconds),
    "retrying(wait_max)": (retrying("wait_max"), seconds),
    "retrying(max_retry_after)": (retrying("max_retry_after"), seconds),
    "retrying(budget)": (retrying("budget"), none),
    "queued(key)": (queued("key"), is_template),
    "queued(ordered_by)": (queued("ordered_by"), is_template),
    "queued(name)": (queued("name"), optional(text)),
    "queued(timeout)": (queued("timeout"), above_zero),
    "with_fallback(on)": (lambda one: F(1, on=one), errors),
    "with_fallback(exclude)": (lambda one: F(1, exclude=one), optional(errors)),
    "default(value)": (resilient.default, is_copyable),
    "failover_to(on)": (lambda one: T(len, on=one), errors),
    "failover_to(exclude)": (lambda one: T(len, exclude=one), optional(errors)),
    "circuit_breaker(failures)": (lambda one: C(failures=one), optional(errors)),
    "Dependency(failures)": (named(lambda name, one: D(name, failures=one), fresh=True), errors),
    "cached(store)": (lambda one: resilient.cached(60, store=one), none),
    "cached(codec)": (lambda one: resilient.cached(60, codec=one), none),
    "observe(fields)": (lambda one: resilient.observe("a", fields=one), has_none),
    "observe(error_fields)": (lambda one: resilient.observe("a", error_fields=one), has_none),
    "observe(expected)": (
        lambda one: resilient.observe("a", expected=one),
        lambda value: value is None or (isinstance(value, dict) and not value),
    ),
    "observe(logger)": (lambda one: resilient.observe("a", logger=one), none),
    "gather_partial(required)": (
        lambda one: resilient.gather_partial(a=lambda: 1, required=one),
        has_none,
    ),
    "circuit_breaker(exclude) as a whole": (lambda one: C(exclude=one), exclusions),
    "circuit_breaker(listeners) as a whole": (lambda one: C(listeners=one), optional(has_none)),
    "drain(timeout)": (lambda one: resilient.drain(one).resume(), seconds),
    "drain_on_sigterm(timeout)": (told_to_end, seconds),
    "register_metrics(publish_every)": (
        lambda one: resilient.register_metrics(CollectorRegistry(), publish_every=one),
        optional(above_zero),
    ),
    "register_metrics(registry)": (resilient.register_metrics, nothing),
    "asgi_app(registry)": (lambda one: resilient.asgi_app(registry=one), nothing),
    "wsgi_app(registry)": (lambda one: resilient.wsgi_app(registry=one), nothing),
    "serve(registry)": (lambda one: served(registry=one), nothing),
    "serve(host)": (served_at, is_host),
    "serve(port)": (lambda one: served(port=one), port),
    "ASGIMiddleware(app)": (A, function),
    "WSGIMiddleware(app)": (W, function),
    "marked(function)": (resilient.marked, function),
    "unit_of_work(function)": (resilient.unit_of_work(), function),
    "ASGIMiddleware(request_id_header)": (lambda one: A(print, request_id_header=one), is_header),
    "WSGIMiddleware(deadline_header)": (lambda one: W(print, deadline_header=one), is_header),
    "WSGIMiddleware(max_deadline)": (lambda one: W(print, max_deadline=one), above_zero),
    "WSGIMiddleware(default_deadline)": (
        lambda one: W(print, default_deadline=one),
        optional(above_zero),
    ),
    "subscribe(listener)": (heard, listener),
    "health.started(value)": (started, flag),
    "health.show_details(value)": (details_shown, flag),
    "health.remove(name)": (resilient.health.remove, nothing),
    "MsgspecCodec(type)": (resilient.MsgspecCodec, is_type),
    "Pipeline(strategies)": (resilient.Pipeline, nothing),
    "health.watch(name)": (lambda one: resilient.health.watch(one).stop(), text),
    "health.watch(limit)": (lambda one: resilient.health.watch("a", one).stop(), above_zero),
}


def check(name: str, value: Any) -> None:
    """Give `value` for the setting of that name."""
    use, accepts = SETTINGS[name]
    parameter = name.partition("(")[2].partition(")")[0]
    if accepts(value):
        use(value)
        return
    with pytest.raises((InvalidSetting, InvalidUse)) as caught:
        use(value)
    if isinstance(caught.value, InvalidSetting):
        assert caught.value.parameter == parameter
        # Of several, the one that is wrong.
        wrong = [value, *value] if isinstance(value, list | tuple | dict) else [value]
        assert any(caught.value.value is one for one in wrong)
    assert parameter in str(caught.value)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_is_taken_in_its_range_and_else_refused(name: str) -> None:
    """Whatever is given by mistake, it is taken or refused by name, as its page says."""
    for value in MISTAKES:
        check(name, value)


@pytest.mark.parametrize("name", SETTINGS)
@examples(10)
@given(given=ANYTHING)
def test_a_setting_is_taken_or_refused_whatever_number_or_text_it_is(
    name: str, given: Given
) -> None:
    """Numbers and texts of all sorts are taken or refused by name as well."""
    check(name, given.value)
