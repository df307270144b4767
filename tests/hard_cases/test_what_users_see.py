"""Hard cases 41, 42 and 44: durations, names and secrets, as those who look see them."""

# What returns Any may be a coroutine, for all that a type checker knows.
# pyright: reportUnusedCoroutine=false, reportIndexIssue=false, reportAttributeAccessIssue=false

from __future__ import annotations

import asyncio
import gc
import importlib.util
import io
import json
import logging
import pickle
import sys
import traceback
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import structlog
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from resilient import (
    CallRejected,
    Dependency,
    DuplicateName,
    ResilientError,
    bulkhead,
    cached,
    circuit_breaker,
    failover,
    health,
    pipeline_of,
    rate_limit,
    register_metrics,
    retry,
    retrying,
    timeout,
    with_fallback,
)
from resilient.testing import VirtualTime
from tests.doubles import Scripted, calls, series

# 41: durations


def flaky(virtual: VirtualTime) -> Any:
    """Return a function that takes 200 ms and succeeds on its second call."""
    ask = Scripted(ConnectionError, "answer")

    def call() -> Any:
        virtual.sleep(0.2)
        return ask()

    return call


def test_a_call_that_succeeds_on_its_second_attempt_is_observed_once_and_in_full(
    virtual_time: VirtualTime,
) -> None:
    """Two attempts of 200 ms and a pause of one second are one call of 1.4 s, a success."""
    guarded = circuit_breaker("observed once", fail_max=9)(
        retry(on=ConnectionError, wait=lambda _: 1)(flaky(virtual_time))
    )
    assert guarded() == "answer"
    seen = series("observed once")
    assert calls("observed once") == {"success": 1}
    assert seen["resilient_call_duration_seconds_count"] == 1
    assert seen["resilient_call_duration_seconds_sum"] == pytest.approx(1.4)
    assert seen["resilient_attempts_total"] == 2
    assert seen["resilient_retries_total"] == 1


def test_a_coroutine_that_succeeds_on_its_second_attempt_is_observed_alike(
    virtual_time: VirtualTime,
) -> None:
    """On asyncio the same call has the same duration, outcome and attempts."""
    ask = Scripted(ConnectionError, "answer")

    @circuit_breaker("observed on asyncio", fail_max=9)
    @retry(on=ConnectionError, wait=lambda _: 1)
    async def call() -> Any:
        await asyncio.sleep(0.2)
        return ask()

    assert virtual_time.run(call()) == "answer"
    seen = series("observed on asyncio")
    assert calls("observed on asyncio") == {"success": 1}
    assert seen["resilient_call_duration_seconds_sum"] == pytest.approx(1.4)
    assert seen["resilient_attempts_total"] == 2


def test_a_call_that_a_fallback_served_is_observed_with_what_it_took(
    virtual_time: VirtualTime,
) -> None:
    """Attempts, pauses and the tier's own time are one duration, degraded."""

    def instead() -> str:
        virtual_time.sleep(0.5)
        return "instead"

    def ask() -> str:
        virtual_time.sleep(0.2)
        raise ConnectionError

    guarded = with_fallback(instead)(
        circuit_breaker("observed degraded", fail_max=9)(
            retry(on=ConnectionError, attempts=2, wait=lambda _: 1)(ask)
        )
    )
    guarded()
    seen = series("observed degraded")
    assert calls("observed degraded") == {"degraded": 1}
    assert seen["resilient_call_duration_seconds_sum"] == pytest.approx(1.9)
    assert seen["resilient_attempts_total"] == 2


async def pause(seconds: float) -> None:
    await asyncio.sleep(seconds)


def test_waiting_in_a_queue_is_a_part_of_the_duration(virtual_time: VirtualTime) -> None:
    """A call that waited a second for its turn and took one is observed as two."""
    guarded = circuit_breaker("observed waiting", fail_max=9)(bulkhead(1, max_waiting=1)(pause))

    async def main() -> None:
        await asyncio.gather(guarded(1), guarded(1))

    virtual_time.run(main())
    seen = series("observed waiting")
    assert seen["resilient_call_duration_seconds_count"] == 2
    assert seen["resilient_call_duration_seconds_sum"] == pytest.approx(3)


def test_a_rejected_call_took_no_time(virtual_time: VirtualTime) -> None:
    """A rejection is observed with the time that it took, which is none, and no attempt."""
    breaker = circuit_breaker("observed rejected", fail_max=9)
    guarded = breaker(Scripted("answer"))
    breaker.force_open()
    with pytest.raises(Exception, match="circuit open"):
        guarded()
    seen = series("observed rejected")
    assert calls("observed rejected") == {"rejected": 1}
    assert seen["resilient_call_duration_seconds_sum"] == 0
    assert seen["resilient_attempts_total"] == 0


# 42: registries and names


def scraped(registry: CollectorRegistry) -> list[tuple[str, str]]:
    """Return name and labels of every series, as Prometheus reads them."""
    text = generate_latest(registry).decode()
    return [
        (sample.name, json.dumps(sample.labels, sort_keys=True))
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]


def test_two_registries_have_the_same_series_each_once() -> None:
    """Any number of registries collect the library's metrics, asked any number of times."""
    gc.collect()
    guarded = circuit_breaker("in two registries", fail_max=9)(Scripted("answer"))
    guarded()
    registries = [CollectorRegistry(), CollectorRegistry()]
    for registry in registries:
        register_metrics(registry)
        register_metrics(registry)
    first, second = map(scraped, registries)
    assert sorted(first) == sorted(second)
    assert len(first) == len(set(first))
    assert scraped(registries[0]) == first


def test_a_registry_that_goes_is_not_kept() -> None:
    """Registering keeps no registry alive, such as those of tests."""
    registry = CollectorRegistry()
    register_metrics(registry)
    gone = weakref.ref(registry)
    del registry
    gc.collect()
    assert gone() is None


SOURCE = """
from resilient import Dependency, circuit_breaker, retry

shop = Dependency("shop of a reloaded module", breaker=circuit_breaker(fail_max=3))

@shop
def charge():
    return "charged"

@circuit_breaker("mail of a reloaded module")
def send():
    return "sent"

@retry(on=OSError)
def fetch():
    return "fetched"
"""


@pytest.fixture
def modules(tmp_path: Path) -> Iterator[Any]:
    """A function that writes and imports a module of a given name."""
    names: list[str] = []

    def load(name: str, source: str = SOURCE) -> ModuleType:
        path = tmp_path / f"{name}.py"
        path.write_text(source, encoding="utf-8")
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        names.append(name)
        spec.loader.exec_module(module)
        return module

    yield load
    for name in names:
        sys.modules.pop(name, None)


def test_a_module_can_be_loaded_again(modules: Any) -> None:
    """A reload takes its names over, and there is one series of each afterwards."""
    registry = CollectorRegistry()
    register_metrics(registry)
    kept = [modules("reloaded_one") for _ in range(3)]  # the old ones are still there
    for module in kept:
        assert (module.charge(), module.send(), module.fetch()) == ("charged", "sent", "fetched")
    seen = scraped(registry)
    assert len(seen) == len(set(seen))
    assert any("shop of a reloaded module" in labels for _, labels in seen)


def test_a_name_of_another_module_is_not_taken_over(modules: Any) -> None:
    """Two modules that give one name are told so: their counts would merge."""
    first = modules("names_one")
    with pytest.raises(DuplicateName, match="shop of a reloaded module"):
        modules("names_two")
    assert first.charge() == "charged"


def test_functions_of_one_name_in_two_modules_are_two_series(modules: Any) -> None:
    """A function without a dependency is counted under its module and its own name."""
    source = "from resilient import retry\n@retry(on=OSError)\ndef fetch():\n    return 1\n"
    one, two = modules("fetching_one", source), modules("fetching_two", source)
    one.fetch()
    two.fetch()
    two.fetch()
    assert calls("fetching_one.fetch") == {"success": 1}
    assert calls("fetching_two.fetch") == {"success": 2}


def test_methods_of_one_name_in_two_classes_are_two_series() -> None:
    """The class is a part of the name."""

    class One:
        @retry(on=OSError)
        def fetch(self) -> int:
            return 1

    class Two:
        @retry(on=OSError)
        def fetch(self) -> int:
            return 2

    One().fetch()
    names = [pipeline_of(one.fetch).name for one in (One, Two)]
    assert len(set(names)) == 2
    assert [calls(name) for name in names] == [{"success": 1}, {}]


# 44: secrets

SECRET = "hunter2"


class LoginError(Exception):
    """An error of the user's, with the secret in its text and its attributes."""

    def __init__(self, user: str, password: str) -> None:
        super().__init__(f"{user} cannot log in with {password}")
        self.password = password
        self.response = {"password": password}


class Ears:
    """Everything that is said: events, logs, metrics, and the answers about health."""

    def __init__(self) -> None:
        self.logged = io.StringIO()

    def said(self, *more: object) -> str:
        registry = CollectorRegistry()
        register_metrics(registry)
        parts = [
            self.logged.getvalue(),
            generate_latest(registry).decode(),
            *(json.dumps(one().as_dict()) for one in (health.ready, health.live, health.startup)),
            *map(repr, more),
        ]
        return "\n".join(parts)


@pytest.fixture
def ears() -> Iterator[Ears]:
    """Structlog and logging, with all that is said written down, tracebacks included."""
    heard = Ears()
    structlog.configure(
        processors=[structlog.processors.format_exc_info, structlog.processors.JSONRenderer()],
        logger_factory=structlog.PrintLoggerFactory(heard.logged),
    )
    stream = logging.StreamHandler(heard.logged)
    logging.getLogger().addHandler(stream)
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.DEBUG)
    yield heard
    logging.getLogger().removeHandler(stream)
    logging.getLogger().setLevel(level)
    structlog.reset_defaults()


def notes_of(error: BaseException | None) -> list[str]:
    """Return the notes on an error and on all that caused it."""
    notes: list[str] = []
    while error is not None:
        notes += getattr(error, "__notes__", ())
        error = error.__cause__
    return notes


def test_a_password_is_in_nothing_that_is_said(virtual_time: VirtualTime, ears: Ears) -> None:
    """A login fails, is retried, times out, falls back and is rejected: nobody hears hunter2."""
    slow = iter([False, False, True])

    def broken_key(user: str, password: str) -> str:
        raise LoginError(user, password)

    def replica(user: str, password: str) -> str:
        raise LoginError(user, password)

    backend = Dependency(
        "login",
        critical=True,
        failures=(LoginError, TimeoutError),
        timeout=1,
        retry=retry(attempts=3, wait_initial=0),
        breaker=circuit_breaker(fail_max=4, reset_timeout=60),
        max_concurrent=2,
    )

    @backend.with_fallback(cached(ttl=60, key=broken_key), failover(replica))
    def login(user: str, password: str) -> str:
        if next(slow, False):
            virtual_time.sleep(5)
        raise LoginError(user, password)

    heard: list[str] = []
    for _ in range(4):
        with pytest.raises((LoginError, TimeoutError, CallRejected)) as caught:
            login("bob", password=SECRET)
        heard += notes_of(caught.value)
    assert heard
    said = ears.said(pipeline_of(login), backend, backend.breaker)
    for expected in ("retry_scheduled", "call_timed_out", "circuit_opened", "hook_failed"):
        assert expected in said
    assert SECRET not in said
    assert SECRET not in "\n".join(heard)


def test_a_password_of_a_coroutine_is_in_nothing_that_is_said(
    virtual_time: VirtualTime, ears: Ears
) -> None:
    """The same holds on asyncio, under a limit, in a shared call, and in tasks of their own."""

    @with_fallback(cached(ttl=60, fresh_for=10), failover(Scripted(LoginError("bob", SECRET))))
    @circuit_breaker("login on asyncio", fail_max=2, reset_timeout=60)
    @retry(on=(LoginError, TimeoutError), attempts=2, wait_initial=0)
    @timeout(1)
    async def login(user: str, password: str) -> str:
        await asyncio.sleep(0 if user == "bob" else 5)
        raise LoginError(user, password)

    async def main() -> list[Any]:
        users = ("bob", "bob", "alice")
        tasks = [asyncio.create_task(login(user, password=SECRET)) for user in users]
        return await asyncio.gather(*tasks, return_exceptions=True)

    results = virtual_time.run(main())
    assert all(isinstance(one, Exception) for one in results)
    assert SECRET not in ears.said(pipeline_of(login))
    assert SECRET not in "\n".join(note for one in results for note in notes_of(one))


def test_a_password_is_in_no_error_of_ours(virtual_time: VirtualTime) -> None:
    """Timeouts and rejections name the function and the limit, and pickle without arguments."""
    breaker = circuit_breaker("login with our errors", fail_max=99)

    def login(user: str, password: str) -> str:
        virtual_time.sleep(60)
        return user

    full = bulkhead(1)
    limited = rate_limit(1, per=60)
    ours: list[BaseException] = []

    def keep(call: Any) -> None:
        with pytest.raises(ResilientError) as caught:
            call("bob", password=SECRET)
        ours.append(caught.value)

    keep(breaker(timeout(1)(login)))
    with full:
        keep(full(login))
    with limited:
        keep(limited(login))
    breaker.force_open()
    keep(breaker(login))
    for error in ours:
        assert SECRET not in str(error) + repr(error) + repr(vars(error))
        assert SECRET.encode() not in pickle.dumps(error)
        shown = "".join(traceback.format_exception(error))
        assert SECRET not in shown.replace("SECRET", "")


def test_a_password_that_cannot_be_a_key_is_in_no_complaint_about_it(
    virtual_time: VirtualTime, ears: Ears
) -> None:
    """An argument without a stable text is refused by its type, not shown."""

    class Credentials:
        def __init__(self, password: str) -> None:
            self.password = password

        def __eq__(self, other: object) -> bool:
            return False

        __hash__ = None  # type: ignore[assignment]

        def __repr__(self) -> str:
            return f"Credentials({self.password})"

    guarded = with_fallback(cached(ttl=60))(Scripted("answer"))
    guarded(Credentials(SECRET))
    assert SECRET not in ears.said()


def test_a_password_in_a_loop_of_attempts_is_not_said(
    virtual_time: VirtualTime, ears: Ears
) -> None:
    """Errors of a block are named by their type."""
    error = LoginError("bob", SECRET)

    def login() -> None:
        for attempt in retrying(on=LoginError, name="login in a loop"):
            with attempt:
                raise error

    with pytest.raises(LoginError):
        login()
    assert "retry_scheduled" in ears.said()
    assert SECRET not in ears.said()
    assert SECRET not in "\n".join(notes_of(error))


def test_a_password_bound_by_a_partial_is_in_no_name(virtual_time: VirtualTime, ears: Ears) -> None:
    """A partial is named for its function, not shown with its arguments."""
    from functools import partial

    def login(user: str, password: str) -> str:
        raise LoginError(user, password)

    bound = partial(login, password=SECRET)
    guarded = with_fallback(failover(bound), "instead")(
        retry(on=LoginError, attempts=2, wait_initial=0)(bound)
    )
    assert guarded("bob") == "instead"
    assert SECRET not in ears.said(pipeline_of(guarded))


def test_a_password_in_the_error_of_a_hook_is_not_logged(
    virtual_time: VirtualTime, ears: Ears
) -> None:
    """What a broken hook raises is reported by its type."""

    class SecretiveError(LoginError):
        pass

    def before_sleep(_: object) -> None:
        raise SecretiveError("bob", SECRET)

    guarded = retry(on=ConnectionError, wait_initial=0, before_sleep=before_sleep)(
        Scripted(ConnectionError, "answer")
    )
    assert guarded() == "answer"
    assert "SecretiveError" in ears.said()
    assert SECRET not in ears.said()
