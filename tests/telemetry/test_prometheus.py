"""What Prometheus itself makes of the page, and what a scrape costs those who work meanwhile."""

# What returns Any may be a coroutine, for all that a type checker knows.
# pyright: reportUnusedCoroutine=false

from __future__ import annotations

import asyncio
import gc
import subprocess
import threading
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from resilient import (
    CallRejected,
    CircuitBreaker,
    Dependency,
    cached,
    circuit_breaker,
    failover,
    rate_limit,
    register_metrics,
    retry,
    with_fallback,
)
from resilient.engine.measures import Histogram as Measured
from resilient.engine.reported import Reading, Reported
from resilient.telemetry.families import all_families
from resilient.telemetry.metrics import exposition
from tests.doubles import Scripted
from tests.servers import PATIENCE, require_program


@pytest.fixture
def everything() -> Any:
    """A dependency with every strategy, which has failed, fallen back and come back."""
    shop = Dependency(
        'the "shop"\\at\n{home}',  # as bad as a name can be
        retry=retry(attempts=2, wait_initial=0),
        breaker=CircuitBreaker(fail_max=2, reset_timeout=0),
        timeout=1,
        max_concurrent=5,
        rate_limit=rate_limit(1000),
    )
    ask = Scripted("answer", *[ConnectionError] * 4, "answer")
    guarded = shop.with_fallback(cached(ttl=60), failover(Scripted("replica")), "instead")(ask)
    per_key = circuit_breaker.per_key("partners of the shop", "{host}", fail_max=3)(fetch)
    for _ in range(8):
        guarded()
        with suppress(ConnectionError, CallRejected):
            per_key("a.example")
    return shop, guarded, per_key


def fetch(host: str) -> str:
    raise ConnectionError(host)


def test_promtool_finds_nothing_wrong_with_the_page(everything: Any) -> None:
    """A scrape with every kind of metric passes the checks of Prometheus's own linter."""
    registry = CollectorRegistry()
    register_metrics(registry)
    page, _ = exposition("", registry)
    assert page.count(b"# TYPE resilient_") >= 14
    checked = subprocess.run(
        [require_program("promtool"), "check", "metrics"],
        check=False,
        input=page,
        capture_output=True,
        timeout=PATIENCE,
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_the_strict_parser_of_openmetrics_accepts_the_page(everything: Any) -> None:
    """Buckets are in order, counters have their suffix, and the page has an end."""
    registry = CollectorRegistry()
    register_metrics(registry)
    page, _ = exposition("application/openmetrics-text; version=1.0.0", registry)
    families = {one.name: one for one in text_string_to_metric_families(page.decode())}
    assert families["resilient_calls"].type == "counter"
    assert families["resilient_recovery_seconds"].type == "histogram"
    assert families["resilient_circuit_state"].type == "gauge"


def as_prometheus_client_would(registry: CollectorRegistry) -> None:
    """Give `registry` metrics of prometheus-client's own, with as many series as ours have."""
    for family in all_families():
        kind = {"counter": Counter, "gauge": Gauge, "histogram": Histogram}[family.kind]
        more: dict[str, Any] = {}
        for value in family.series.values():
            if isinstance(value, Measured):
                more = {"buckets": value.bounds}
        metric = kind(family.name, family.meaning, family.labels, registry=registry, **more)
        for labels in filter(None, family.series):
            metric.labels(*labels)


@pytest.fixture
def hundreds() -> list[Any]:
    """Two hundred dependencies."""
    return [
        with_fallback("instead")(
            circuit_breaker(f"one of hundreds: {number}", fail_max=5)(
                retry(on=OSError)(Scripted("answer"))
            )
        )
        for number in range(200)
    ]


def test_a_scrape_has_as_many_series_as_prometheus_client_would_have(
    hundreds: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is nothing on the page that a counter, gauge or histogram of its own would not have."""
    monkeypatch.setattr("prometheus_client.metrics._use_created", False)
    gc.collect()  # what other tests have left would go sooner or later
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    register_metrics(ours)
    as_prometheus_client_would(theirs)
    assert generate_latest(ours).count(b"\n") == generate_latest(theirs).count(b"\n")


class Stopping(Reported):
    """A part of the library in whose numbers a scrape stops until it may go on."""

    __slots__ = ("may_go_on", "reached")

    def __init__(self) -> None:
        self.reached, self.may_go_on = threading.Event(), threading.Event()
        self.report()

    def readings(self) -> Iterable[Reading]:
        self.reached.set()
        self.may_go_on.wait(PATIENCE)
        return ()


async def test_calls_go_on_while_a_scrape_is_under_way(hundreds: list[Any]) -> None:
    """A scrape that has stopped in the middle holds no lock that calls need."""
    registry = CollectorRegistry()
    register_metrics(registry)

    async def ask() -> str:
        return "answer"

    async def fail() -> None:
        raise ConnectionError

    part = Stopping()
    scrape = asyncio.create_task(asyncio.to_thread(exposition, "", registry))
    assert await asyncio.to_thread(part.reached.wait, PATIENCE)
    try:
        for one in hundreds:
            assert one() == "answer"
        guarded = circuit_breaker("called during a scrape", fail_max=5)(ask)
        failing = circuit_breaker("failing during a scrape", fail_max=5)(fail)
        for _ in range(100):
            assert await guarded() == "answer"
            with pytest.raises((ConnectionError, CallRejected)):
                await failing()
        assert not scrape.done()
    finally:
        part.may_go_on.set()
    page, _ = await scrape
    assert b"one of hundreds" in page
