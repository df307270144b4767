"""The page that Prometheus reads: in both of its formats, and with the user's own metrics."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from resilient import circuit_breaker, register_metrics
from resilient.telemetry.metrics import exposition
from tests.doubles import Scripted, each

FORMATS = {
    "text": ("text/plain", parse_text),
    "OpenMetrics": ("application/openmetrics-text", parse_openmetrics),
}


@each("media_type, parse", FORMATS)
def test_the_page_parses_in_each_format(media_type: str, parse: Any) -> None:
    """What the client asks for it gets, with the library's metrics and those of the user."""
    registry = CollectorRegistry()
    register_metrics(registry)
    Counter("orders", "Orders of the user's own", registry=registry).inc()
    guarded = circuit_breaker("on the page", fail_max=9)(Scripted("answer"))
    guarded()
    page, content_type = exposition(f"{media_type}; version=1.0.0", registry)
    assert content_type.startswith(media_type)
    values = {
        (sample.name, *sample.labels.values()): sample.value
        for family in parse(page.decode())
        for sample in family.samples
    }
    assert values["orders_total",] == 1
    assert values["resilient_calls_total", "on the page", "success"] == 1


def test_the_page_without_a_header_is_text() -> None:
    """A client that accepts nothing in particular gets Prometheus's own format."""
    assert exposition(registry=CollectorRegistry())[1].startswith("text/plain")
