"""What many dependencies cost is measured of real ones."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from benchmarks import scale
from benchmarks.fresh import in_fresh_process


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (("making", "2"), {"creation", "import"}),
        (("memory", "2", "busy"), {"bytes"}),
        (("scrape", "2", "1"), {"series", "ours", "theirs", "waits"}),
    ],
    ids=["making", "memory", "scrape"],
)
def test_each_measure_runs_in_a_process_of_its_own(
    arguments: tuple[str, ...], found: set[str]
) -> None:
    """It makes dependencies, uses them, checks what they have counted, and prints figures."""
    printed = in_fresh_process("-m", "benchmarks.scale", *arguments)

    assert set(printed) == found


def test_a_mirror_has_the_same_series() -> None:
    """prometheus-client's own metrics are compared as so many series of the same names."""
    registry = CollectorRegistry()
    Counter("calls", "Calls", ["who"], registry=registry).labels("a").inc()
    Gauge("depth", "Depth", registry=registry).set(3)
    Histogram("wait", "Wait", ["who"], buckets=[1, 2], registry=registry).labels("a").observe(1)

    page = generate_latest(scale.mirror(registry))

    series = [line for line in page.splitlines() if b"_created" not in line]
    assert scale.lines_of(b"\n".join(series)) == 1 + 1 + 5
    assert b'wait_bucket{le="2.0",who="a"}' in page
