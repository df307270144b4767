"""What Prometheus itself makes of the page, and what a scrape costs those who work meanwhile."""

# What returns Any may be a coroutine, for all that a type checker knows.
# pyright: reportUnusedCoroutine=false

from __future__ import annotations

import asyncio
import gc
import subprocess
import time
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


async def test_calls_go_on_while_a_scrape_is_under_way(hundreds: list[Any]) -> None:
    """On a thread, a scrape leaves the loop to others: hundreds of calls are made meanwhile."""
    registry = CollectorRegistry()
    register_metrics(registry)

    @circuit_breaker("called during a scrape", fail_max=5)
    async def ask() -> str:
        await asyncio.sleep(0)
        return "answer"

    async def longest_part() -> float:
        started = time.perf_counter()
        scrape = asyncio.create_task(asyncio.to_thread(exposition, "", registry))
        durations: list[float] = []
        while not scrape.done():
            begun = time.perf_counter()
            assert await ask() == "answer"
            durations.append(time.perf_counter() - begun)
        page, _ = await scrape
        assert b"one of hundreds" in page
        assert len(durations) > 100
        return max(durations) / (time.perf_counter() - started)

    # What else the machine does can hold up a call for once; a scrape on the loop is all of it.
    assert min([await longest_part() for _ in range(3)]) < 0.3
