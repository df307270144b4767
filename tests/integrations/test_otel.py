"""OpenTelemetry: events on the caller's span, counts as metrics, traces as exemplars."""

# What returns Any may be a coroutine, for all that a type checker knows.
# pyright: reportUnusedCoroutine=false

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Decision, Sampler, SamplingResult

from resilient import ResilientError, cached, circuit_breaker, retry, timeout, with_fallback
from resilient.engine import signals
from resilient.engine.reported import Reading, Reported
from resilient.integrations import otel
from resilient.telemetry.metrics import exposition, register_metrics
from resilient.testing import VirtualTime
from tests.doubles import Scripted
from tests.waiting import eventually

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


class Telemetry:
    """A tracer and a reader of metrics, in memory."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = provider.get_tracer("tests")
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider(metric_readers=[self.reader])

    def events(self) -> list[tuple[str, dict[str, Any]]]:
        """Return the events of all spans that have ended."""
        return [
            (event.name, dict(event.attributes or {}))
            for span in self.exporter.get_finished_spans()
            for event in span.events
        ]

    def points(self) -> dict[tuple[str, ...], float]:
        """Return the metrics of one collection, by name and values of attributes."""
        found: dict[tuple[str, ...], float] = {}
        data: Any = self.reader.get_metrics_data()
        for resource in data.resource_metrics if data is not None else []:
            for scope in resource.scope_metrics:
                assert scope.scope.name == "resilient"
                for metric in scope.metrics:
                    for point in metric.data.data_points:
                        labels = (point.attributes[key] for key in sorted(point.attributes))
                        found[metric.name, *map(str, labels)] = point.value
        return found


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    """OpenTelemetry's own SDK, with the library installed in it."""
    telemetry = Telemetry()
    otel.install(meter_provider=telemetry.meters)
    yield telemetry
    otel.uninstall()
    telemetry.meters.shutdown()


# Spans


def test_what_happens_is_an_event_of_the_callers_span(
    virtual_time: VirtualTime, telemetry: Telemetry
) -> None:
    """A retry and a fallback are told on the span of the request, and there is no span of ours."""
    call = with_fallback("instead")(
        circuit_breaker("otel-spans", fail_max=9)(
            retry(on=ConnectionError, attempts=2)(Scripted(ConnectionError("hunter2")))
        )
    )
    with telemetry.tracer.start_as_current_span("request"):
        assert call() == "instead"
    [span] = telemetry.exporter.get_finished_spans()
    assert span.name == "request"
    events = dict(telemetry.events())
    assert [*events] == ["resilient.retry_scheduled", "resilient.fallback_served"]
    served = events["resilient.fallback_served"]
    assert served == {
        "resilient.dependency": "otel-spans",
        "resilient.tier": "default",
        "resilient.reason": "ConnectionError",
    }
    assert "hunter2" not in span.to_json()


def test_a_call_on_a_worker_tells_the_span_of_its_caller(telemetry: Telemetry) -> None:
    """The span goes with the context to wherever the call runs."""

    @timeout(5)
    def outer() -> Any:
        return with_fallback("instead")(Scripted(OSError))()

    with telemetry.tracer.start_as_current_span("request"):
        outer()
    assert [name for name, _ in telemetry.events()] == ["resilient.fallback_served"]


async def test_each_task_tells_its_own_span(telemetry: Telemetry) -> None:
    """Requests that run side by side each have their own events."""

    @with_fallback("instead")
    async def ask() -> str:
        await asyncio.sleep(0)
        raise OSError

    async def request(name: str) -> None:
        with telemetry.tracer.start_as_current_span(name):
            await ask()

    await asyncio.gather(request("a"), request("b"))
    spans = telemetry.exporter.get_finished_spans()
    assert {span.name: len(span.events) for span in spans} == {"a": 1, "b": 1}


def test_without_a_span_that_records_nothing_is_built(telemetry: Telemetry) -> None:
    """Outside of spans, and in those that are not sampled, there is nothing to add to."""
    call = with_fallback("instead")(Scripted(OSError))
    call()
    silent = TracerProvider(sampler=ALWAYS_OFF).get_tracer("tests")
    with silent.start_as_current_span("request"):
        call()
    assert telemetry.events() == []


class Untouched(dict[str, Any]):
    """The fields of an event that nobody may look at."""

    def items(self) -> Any:
        raise AssertionError("something was built of it")


def test_without_a_span_that_records_nothing_is_paid_for(telemetry: Telemetry) -> None:
    """An event is not even looked at, unless there is a span to say it on."""
    assert otel._installed is not None
    tell, fields = otel._installed.tell, Untouched(dependency="shop", tier="default")
    tell("resilient.fallback_served", fields)
    silent = TracerProvider(sampler=ALWAYS_OFF).get_tracer("tests")
    with silent.start_as_current_span("request"):
        tell("resilient.fallback_served", fields)
    with telemetry.tracer.start_as_current_span("request"), pytest.raises(AssertionError):
        tell("resilient.fallback_served", fields)


def test_after_uninstalling_nothing_is_told(telemetry: Telemetry) -> None:
    """`uninstall` takes the listener away, and metrics stop."""
    before = signals._listeners
    otel.uninstall()
    otel.uninstall()
    assert len(signals._listeners) == len(before) - 1
    with telemetry.tracer.start_as_current_span("request"):
        with_fallback("instead")(Scripted(OSError))()
    assert telemetry.events() == []
    assert telemetry.points() == {}


def test_installing_twice_is_installing_once(telemetry: Telemetry) -> None:
    """A module that is loaded again does not double the events."""
    otel.install()
    with telemetry.tracer.start_as_current_span("request"):
        with_fallback("instead")(Scripted(OSError))()
    assert len(telemetry.events()) == 1


# Metrics


def test_counts_are_those_of_prometheus(telemetry: Telemetry) -> None:
    """OpenTelemetry reads the same numbers, settled, from the start at zero."""
    call = with_fallback(cached(ttl=60), "instead")(
        circuit_breaker("otel-counts", fail_max=9)(Scripted("answer", "answer", OSError))
    )
    assert telemetry.points()["resilient.calls", "otel-counts", "success"] == 0
    for key in range(5):
        call(key)
    points = telemetry.points()
    assert points["resilient.calls", "otel-counts", "success"] == 2
    assert points["resilient.calls", "otel-counts", "degraded"] == 3
    assert points["resilient.fallbacks", "otel-counts", "default"] == 3
    assert points["resilient.circuit_state", "otel-counts", "closed"] == 1
    assert points["resilient.call_duration.count", "otel-counts"] == 5
    assert points["resilient.call_duration.bucket", "otel-counts", "+Inf"] == 5
    assert 0 <= points["resilient.call_duration.sum", "otel-counts"] < 5


def test_units_are_told(telemetry: Telemetry) -> None:
    """Seconds are a unit, not a part of the name."""
    with_fallback("instead")(lambda: 1)()
    data: Any = telemetry.reader.get_metrics_data()
    metrics = data.resource_metrics[0].scope_metrics[0].metrics
    units = {metric.name: metric.unit for metric in metrics}
    assert units["resilient.call_duration.sum"] == "s"
    assert units["resilient.call_duration.count"] == ""


def test_parts_that_come_later_are_seen_and_parts_that_go_are_not(
    telemetry: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    """A part that reports itself after `install` has instruments from the next collection on."""

    class Part(Reported):
        def __init__(self) -> None:
            self.report()

        def readings(self) -> list[Reading]:
            return [Reading("otel_part_depth", "Depth", "gauge", {"part": "late"}, 7.0)]

    part = Part()
    assert eventually(lambda: ("resilient.otel_part_depth", "late") in telemetry.points())
    assert telemetry.points()["resilient.otel_part_depth", "late"] == 7
    del part
    gc.collect()
    assert ("resilient.otel_part_depth", "late") not in telemetry.points()
    assert caplog.text == ""


# Exemplars


def exemplars_on(page: bytes, series: str) -> list[str]:
    lines = [line for line in page.decode().splitlines() if line.startswith(series)]
    return [line.partition(" # ")[2] for line in lines]


def test_counts_of_what_goes_wrong_bear_a_trace(
    virtual_time: VirtualTime, telemetry: Telemetry
) -> None:
    """On a page in the OpenMetrics format, the count of a fallback leads to one of its traces."""
    register_metrics()
    call = circuit_breaker("otel-exemplars", fail_max=9)(
        with_fallback("instead")(Scripted("well", OSError))
    )
    with telemetry.tracer.start_as_current_span("request") as span:
        call()
        call()
    trace_id = trace.format_trace_id(span.get_span_context().trace_id)
    span_id = trace.format_span_id(span.get_span_context().span_id)
    page, content_type = exposition(OPENMETRICS)
    assert content_type.startswith("application/openmetrics-text")
    series = 'resilient_fallbacks_total{dependency="otel-exemplars",tier="default"}'
    expected = f'{{span_id="{span_id}",trace_id="{trace_id}"}} 1.0'
    [found] = exemplars_on(page, series)
    assert sorted(found) == sorted(expected)
    success = 'resilient_calls_total{dependency="otel-exemplars",outcome="success"}'
    assert exemplars_on(page, success) == [""]
    plain, _ = exposition("text/plain")
    assert trace_id.encode() not in plain
    del call


class OnlyRecorded(Sampler):
    """Has spans recorded that no backend keeps, as tools in the process need them."""

    def should_sample(self, *_: Any, **__: Any) -> SamplingResult:
        return SamplingResult(Decision.RECORD_ONLY)

    def get_description(self) -> str:
        return "only recorded"


def test_a_trace_that_nobody_keeps_is_borne_by_no_count(
    virtual_time: VirtualTime, telemetry: Telemetry
) -> None:
    """An exemplar that leads nowhere is none; the event is on the span all the same."""
    register_metrics()
    call = circuit_breaker("otel-unkept", fail_max=9)(with_fallback("instead")(Scripted(OSError)))
    tracer = TracerProvider(sampler=OnlyRecorded()).get_tracer("tests")
    with tracer.start_as_current_span("request") as span:
        call()
    assert [event.name for event in span.events] == ["resilient.fallback_served"]  # type: ignore[attr-defined]
    series = 'resilient_fallbacks_total{dependency="otel-unkept",tier="default"}'
    assert exemplars_on(exposition(OPENMETRICS)[0], series) == [""]


# What it costs who does not use it


def test_nothing_of_opentelemetry_is_loaded_without_install() -> None:
    """A service that does not ask for it does not pay for it."""
    program = (
        "import sys\n"
        "sys.modules['redis'] = None  # which pybreaker loads, and which loads OpenTelemetry\n"
        "from resilient import with_fallback\n"
        "from resilient.integrations import otel\n"
        "from resilient.telemetry.metrics import exposition, register_metrics\n"
        "register_metrics()\n"
        "with_fallback('instead')(lambda: 1 / 0)()\n"
        "exposition()\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    printed = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    ).stdout
    assert printed.splitlines()[-1] == "[]"


def test_without_the_library_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has not installed OpenTelemetry is told what to install."""
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(ResilientError, match=r"resilient-calls\[otel\]"):
        otel.install()
    otel.uninstall()
