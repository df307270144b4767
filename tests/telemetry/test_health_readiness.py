"""What readiness says of dependencies: what fails, since when, and what is served meanwhile."""

from __future__ import annotations

import gc
import json
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from resilient import (
    CircuitOpen,
    Dependency,
    cached,
    circuit_breaker,
    default,
    failover,
    health,
    retry,
)
from resilient.engine.measures import all_measures
from resilient.engine.reported import Condition, Reported
from resilient.testing import VirtualTime
from tests.doubles import Scripted, each


@pytest.fixture(autouse=True)
def only_what_the_test_makes() -> Iterator[None]:
    """Begin without the circuits of earlier tests."""
    gc.collect()
    yield
    health.show_details(False)


def shown(name: str) -> dict[str, Any]:
    [found] = health.ready().checks[name]
    return found


def page(path: str = "/health/ready", query: str = "") -> tuple[int, dict[str, Any]]:
    found = health.page(path, query)
    assert found is not None
    status, kind, body = found
    assert kind == "application/health+json"
    return status, json.loads(body)


def outage(virtual: VirtualTime, **about: Any) -> tuple[Dependency, Any]:
    """Return a dependency that has been failing for 40 seconds, and a function that calls it."""
    payments = Dependency(
        "payments", breaker=circuit_breaker(fail_max=2, reset_timeout=60), **about
    )
    charge = payments(Scripted(ConnectionError("hunter2"), ConnectionError("hunter2"), "charged"))
    for seconds in (10, 30):
        with pytest.raises(ConnectionError):
            charge()
        virtual.advance(seconds)
    return payments, charge


def test_an_outage_is_seen_from_outside(virtual_time: VirtualTime) -> None:
    """What fails, since when, when it is tried again, and for whom that is."""
    kept = outage(
        virtual_time, critical=True, rto=30, owner="team money", runbook="https://runbooks/payments"
    )
    assert shown("payments:circuit") == {
        "componentType": "component",
        "status": "fail",
        "observedValue": "open",
        "failingForSeconds": 40,
        "retryInSeconds": 30,
        "lastFailure": "ConnectionError",
        "critical": True,
        "owner": "team money",
        "runbook": "https://runbooks/payments",
        "rtoSeconds": 30,
        "rtoExceeded": True,
    }
    del kept


def test_readiness_comes_back_with_the_dependency(virtual_time: VirtualTime) -> None:
    """503 while open, a warning while probes are let through, 200 when it is closed."""
    _, charge = outage(virtual_time, critical=True)
    assert page()[0] == 503
    virtual_time.advance(60)
    assert (page()[0], shown("payments:circuit")["status"]) == (200, "warn")
    assert charge() == "charged"
    assert (page()[0], shown("payments:circuit")["status"]) == (200, "pass")


def test_what_is_served_instead_is_named_and_keeps_it_ready(virtual_time: VirtualTime) -> None:
    """The tiers of all functions of a dependency, in order, each once."""
    payments, _ = outage(virtual_time, critical=True)
    first = payments.with_fallback(cached(ttl=60), failover(Scripted("replica")))(Scripted("a"))
    second = payments.with_fallback(cached(ttl=60), default("nothing"))(Scripted("b"))
    assert shown("payments:circuit")["servedInstead"] == ["cached", "failover", "default"]
    assert (page()[0], shown("payments:circuit")["status"]) == (200, "warn")
    del first, second


def test_what_is_not_critical_is_a_warning(virtual_time: VirtualTime) -> None:
    """Open without a fallback, and traffic may come all the same."""
    kept = outage(virtual_time)
    assert (page()[0], shown("payments:circuit")["status"]) == (200, "warn")
    del kept


def test_a_shadow_rejects_nothing_and_so_fails_nothing() -> None:
    """A breaker on trial shows what it would do; the calls are made."""
    breaker = circuit_breaker(fail_max=1, mode="shadow")
    trial = Dependency("on trial", critical=True, breaker=breaker)
    ask = trial(Scripted(ConnectionError))
    with pytest.raises(ConnectionError):
        ask()
    assert shown("on trial:circuit")["observedValue"] == "open"
    assert shown("on trial:circuit")["status"] == "warn"


def test_circuits_by_key_are_summed_up() -> None:
    """How many are in which state; never which keys there are."""
    partners = circuit_breaker.per_key("partners by key", "{host}", fail_max=1)

    @partners
    def fetch(host: str) -> None:
        if host.startswith("down"):
            raise ConnectionError(host)

    for host in ("a", "b", "c"):
        fetch(host)
    with pytest.raises(ConnectionError):
        fetch("down-4711")
    found = shown("partners by key:circuit")
    assert found["circuits"] == {"closed": 3, "open": 1, "half-open": 0}
    assert (found["status"], found["lastFailure"]) == ("warn", "ConnectionError")
    assert "4711" not in json.dumps(found)


def test_a_full_bulkhead_is_a_warning() -> None:
    """Nobody else is let in: that is worth a look, and no reason to stop traffic."""
    search = Dependency("crowded search", critical=True, max_concurrent=2, max_waiting=5)

    @search
    def inner() -> tuple[dict[str, Any], dict[str, Any]]:
        with_two = shown("crowded search:bulkhead")
        return before, with_two

    with search:
        before = shown("crowded search:bulkhead")
        _, full = inner()
    assert (before["status"], before["observedValue"]) == ("pass", 1)
    assert (full["status"], full["observedValue"]) == ("warn", 2)
    assert (full["limit"], full["waiting"]) == (2, 0)


def test_other_parts_of_the_library_have_their_lines_too() -> None:
    """An outbox or a store that reports itself is shown, and can make it not ready."""

    class Full(Reported):
        status: Any = "warn"

        def conditions(self) -> Iterable[Condition]:
            yield Condition("orders:outbox", self.status, {"observedValue": 17})

    outbox = Full()
    outbox.report()
    assert shown("orders:outbox") == {"status": "warn", "observedValue": 17}
    assert page()[0] == 200
    outbox.status = "fail"
    assert page()[0] == 503


@each("query", {"nothing asked": "", "not": "verbose=false", "no": "verbose=0", "else": "deep"})
def test_what_passes_is_said_in_short(query: str) -> None:
    """A passing check is its state, in one line."""
    kept = Dependency("terse", breaker=circuit_breaker(), owner="team", max_concurrent=3)
    checks = page(query=query)[1]["checks"]
    assert checks["terse:circuit"] == [
        {"componentType": "component", "status": "pass", "observedValue": "closed"}
    ]
    assert "limit" not in checks["terse:bulkhead"][0]
    assert kept.owner == "team"


@each("query", {"alone": "verbose", "as Kubernetes has it": "verbose=true", "1": "a=b&verbose=1"})
def test_who_asks_for_more_is_told_more(query: str) -> None:
    """`?verbose` shows all about what passes as well."""
    kept = Dependency("talkative", breaker=circuit_breaker(), owner="team", max_concurrent=3)
    checks = page(query=query)[1]["checks"]
    assert checks["talkative:circuit"][0]["owner"] == "team"
    assert checks["talkative:bulkhead"][0]["limit"] == 3
    assert kept.owner == "team"


def test_what_fails_is_said_in_full(virtual_time: VirtualTime) -> None:
    """Nobody has to ask twice during an outage."""
    kept = outage(virtual_time, critical=True, owner="team")
    assert page()[1]["checks"]["payments:circuit"][0]["owner"] == "team"
    del kept


def test_texts_of_errors_are_shown_only_where_the_operator_asks(virtual_time: VirtualTime) -> None:
    """Neither the page nor a verbose one has them before `show_details`."""
    kept = outage(virtual_time)
    for query in ("", "verbose"):
        assert "hunter2" not in json.dumps(page(query=query))
    health.show_details()
    assert shown("payments:circuit")["output"] == "hunter2"
    del kept


def test_an_error_whose_text_cannot_be_had_breaks_no_answer(virtual_time: VirtualTime) -> None:
    """The answer is as good as it can be."""

    class OddError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    odd = Dependency("odd", breaker=circuit_breaker(fail_max=1))
    ask = odd(Scripted(OddError()))
    with pytest.raises(OddError):
        ask()
    health.show_details()
    assert shown("odd:circuit")["output"] == "cannot be told"


def test_a_page_has_a_line_for_each_check() -> None:
    """People grep it: a line has the whole check, and the whole is still JSON."""
    kept = [
        Dependency(f"line {number}", breaker=circuit_breaker(), runbook='"}], "x')
        for number in "ab"
    ]
    found = health.page("/health/ready", "verbose")
    assert found is not None
    lines = found[2].decode().splitlines()
    assert [line.split('"')[1] for line in lines if line.startswith('"line')] == [
        "line a:circuit",
        "line b:circuit",
    ]
    [check] = json.loads(found[2])["checks"]["line a:circuit"]
    assert check["runbook"] == kept[0].runbook


def test_a_page_is_json_whatever_people_have_written_down() -> None:
    """Also if a text ends like a check does."""
    kept = Dependency("ends oddly", breaker=circuit_breaker(), owner="}], ", runbook='"}], ')
    found = health.page("/health/ready", "verbose")
    assert found is not None
    [check] = json.loads(found[2])["checks"]["ends oddly:circuit"]
    assert (check["owner"], check["runbook"]) == (kept.owner, kept.runbook)


def test_other_paths_are_no_pages_about_health() -> None:
    """Whoever serves them goes on looking."""
    assert [health.page(path) for path in ("/", "/health", "/health/", "/metrics")] == [None] * 4


@pytest.mark.real_time
def test_a_page_about_fifty_dependencies_takes_less_than_a_millisecond() -> None:
    """With circuits, bulkheads, fallbacks and ten checks, from memory, up to the last byte."""
    dependencies: list[Any] = []
    for number in range(50):
        one = Dependency(
            f"of fifty: {number}",
            critical=True,
            timeout=1,
            retry=retry(attempts=2),
            breaker=circuit_breaker(),
            max_concurrent=10,
            owner="team",
            rto=30,
        )
        dependencies += [one, one.with_fallback(cached(ttl=60), [])(Scripted("answer"))]
    for number in range(10):
        health.check(f"of ten: {number}", lambda: None)
    page, took = None, list[float]()
    while min(took, default=1.0) >= 0.001 and len(took) < 2000:  # others may have the processor
        began = time.perf_counter()
        page = health.page("/health/ready")
        took.append(time.perf_counter() - began)
    assert page is not None
    assert page[2].count(b"of fifty") == 100
    for number in range(10):
        health.remove(f"of ten: {number}")
    assert min(took) < 0.001


def test_pages_can_be_asked_for_while_dependencies_are_made() -> None:
    """A service that starts, or makes a dependency for each tenant, is asked all the time."""
    done, failed = threading.Event(), list[Exception]()

    def ask() -> None:
        while not done.is_set():
            try:
                health.ready()
                all_measures()
            except Exception as error:
                failed.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    asking = threading.Thread(target=ask)
    asking.start()
    end = time.monotonic() + 0.4
    number = 0
    while time.monotonic() < end and not failed:
        number += 1
        Dependency(f"made meanwhile: {number}", breaker=circuit_breaker())
    done.set()
    asking.join()
    sys.setswitchinterval(interval)
    assert failed == []


def test_asking_calls_nobody(virtual_time: VirtualTime) -> None:
    """An answer moves no circuit, takes no permit and makes no call."""
    _, charge = outage(virtual_time, critical=True)
    for _ in range(100):
        health.ready()
    with pytest.raises(CircuitOpen):
        charge()
