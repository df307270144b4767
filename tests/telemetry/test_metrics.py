"""The page that Prometheus reads: in both of its formats, and with the user's own metrics."""

# What returns Any may be a coroutine, for all that a type checker knows.
# pyright: reportUnusedCoroutine=false

from __future__ import annotations

import gc
import importlib
import threading
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from resilient import (
    InvalidSetting,
    cached,
    circuit_breaker,
    register_metrics,
    retry,
    with_fallback,
)
from resilient.engine.isolation import broken
from resilient.engine.measures import Histogram
from resilient.engine.reported import Reading, Reported
from resilient.telemetry import exemplars, metrics, processes
from resilient.telemetry.metrics import exposition
from resilient.telemetry.processes import Publisher
from resilient.testing import VirtualTime
from tests.doubles import Scripted, each, series, waiting_for_ever

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


def page_of(registry: CollectorRegistry) -> dict[tuple[str, ...], float]:
    """Return the samples of a page by name and labels; one that is there twice is an error."""
    found: dict[tuple[str, ...], float] = {}
    for family in parse_text(generate_latest(registry).decode()):
        for sample in family.samples:
            key = (sample.name, *(f"{name}={of}" for name, of in sorted(sample.labels.items())))
            assert key not in found, f"{key} is there twice"
            found[key] = sample.value
    return found


# Registries


def test_any_number_of_registries_show_the_same() -> None:
    """A registry of the user's own and another one, each asked for twice, never clash."""
    guarded = retry(on=OSError)(Scripted("answer"))
    guarded()
    gc.collect()  # what earlier tests have dropped must not go between the two
    one, two = CollectorRegistry(), CollectorRegistry()
    for registry in (one, two, one, two):
        register_metrics(registry)
    first, second = page_of(one), page_of(two)
    assert set(first) == set(second)
    # Ages go on between the two.
    assert {key for key in first if first[key] != second[key]} <= {
        key for key in first if key[0].endswith("_seconds")
    }


def test_the_module_can_be_loaded_anew() -> None:
    """After a reload the same registry shows each series once, and registers without a clash."""
    gc.collect()  # as above
    registry = CollectorRegistry()
    register_metrics(registry)
    before = set(page_of(registry))
    try:
        importlib.reload(metrics).register_metrics(registry)
        assert set(page_of(registry)) == before
    finally:
        register_metrics(registry)


def test_a_metric_of_the_users_own_by_the_same_name_is_told() -> None:
    """A registry that has such a metric already refuses ours, as it refuses every clash."""
    registry = CollectorRegistry()
    Counter("resilient_calls", "Of somebody else", registry=registry)
    with pytest.raises(ValueError, match="resilient_calls"):
        register_metrics(registry)


@each("seconds", {"zero": 0, "less": -1, "words": "5s"})
def test_an_interval_that_is_none_is_refused(seconds: Any) -> None:
    """How often counts are written is checked also where there is only one process."""
    with pytest.raises(InvalidSetting, match="publish_every"):
        register_metrics(CollectorRegistry(), publish_every=seconds)


# What parts report themselves


class Part(Reported):
    """A part that reports the readings that it is given."""

    def __init__(self, *readings: Reading) -> None:
        self.shown = readings
        self.report()

    def readings(self) -> Iterable[Reading]:
        """Return them."""
        return self.shown


def shown(name: str) -> dict[tuple[str, ...], float]:
    """Return the samples of the metrics that begin with `name`."""
    registry = CollectorRegistry()
    register_metrics(registry)
    return {key: of for key, of in page_of(registry).items() if key[0].startswith(name)}


def test_what_a_part_reports_appears_by_itself() -> None:
    """Counters, gauges and histograms of parts stand on the page, with the library's prefix."""
    ages = Histogram((1.0, 60.0))
    for seconds in (0.5, 5, 500):
        ages.observe(seconds)
    part = Part(
        Reading("widget_sent", "Sent", "counter", {"part": "a"}, 3),
        Reading("widget_depth", "Depth", "gauge", {"part": "a"}, 1.5),
        Reading("widget_age_seconds", "Age", "histogram", {"part": "a"}, ages),
    )
    assert shown("resilient_widget") == {
        ("resilient_widget_sent_total", "part=a"): 3,
        ("resilient_widget_depth", "part=a"): 1.5,
        ("resilient_widget_age_seconds_bucket", "le=1.0", "part=a"): 1,
        ("resilient_widget_age_seconds_bucket", "le=60.0", "part=a"): 2,
        ("resilient_widget_age_seconds_bucket", "le=+Inf", "part=a"): 3,
        ("resilient_widget_age_seconds_count", "part=a"): 3,
        ("resilient_widget_age_seconds_sum", "part=a"): 505.5,
    }
    del part
    gc.collect()
    assert shown("resilient_widget") == {}


def test_parts_that_go_by_the_same_labels_are_one_series() -> None:
    """Two stores of one name add up, as a series that is there twice spoils the page."""
    sizes = Histogram((1.0,))
    sizes.observe(2)
    parts = [
        Part(
            Reading("twin_entries", "Entries", "gauge", {"store": "memory"}, entries),
            Reading("twin_sizes", "Sizes", "histogram", {"store": "memory"}, sizes),
        )
        for entries in (2, 3)
    ]
    seen = shown("resilient_twin")
    assert seen["resilient_twin_entries", "store=memory"] == 5
    assert seen["resilient_twin_sizes_count", "store=memory"] == 2
    assert sizes.counts == [0, 1]
    del parts


CLASHES = {
    "a metric of the library": Reading("calls", "Calls", "counter", {"dependency": "x"}, 1),
    "another kind": Reading("clash_size", "Size", "counter", {"part": "b"}, 1),
    "other labels": Reading("clash_size", "Size", "gauge", {"part": "b", "zone": "c"}, 1),
    "no name for Prometheus": Reading("clash size", "Size", "gauge", {}, 1),
    "no label for Prometheus": Reading("clash_other", "Size", "gauge", {"a-b": "c"}, 1),
    "no number": Reading("clash_size", "Size", "gauge", {"part": "b"}, Histogram((1.0,))),
    "nothing at all": Reading("clash_size", "Size", "gauge", {"part": "b"}, None),  # type: ignore[arg-type]
    "no histogram": Reading("clash_none", "Size", "histogram", {"part": "b"}, 5),
}


@each("clashing", CLASHES)
def test_a_reading_that_clashes_spoils_no_page(clashing: Reading) -> None:
    """It is left out, counted under its name, and everything else is shown."""
    first = Part(Reading("clash_size", "Size", "gauge", {"part": "a"}, 7))
    place = f"metric {clashing.name}"
    before = broken[place]
    second = Part(clashing)
    seen = shown("resilient_clash")
    assert seen == {("resilient_clash_size", "part=a"): 7}
    assert broken[place] - before == 1
    assert shown("resilient_hook_failures")["resilient_hook_failures_total", f"hook={place}"] >= 1
    del first, second


def test_a_histogram_of_other_bounds_spoils_no_page() -> None:
    """It cannot be added to one of the same labels, which is shown, and what cannot is counted."""
    sizes = [Histogram((1.0,)), Histogram((2.0,))]
    for one in sizes:
        one.observe(0.5)
    parts = [Part(Reading("bounds", "Sizes", "histogram", {"part": "a"}, one)) for one in sizes]
    before = broken["metric bounds"]
    seen = shown("resilient_bounds")
    assert seen["resilient_bounds_bucket", "le=1.0", "part=a"] == 1
    assert seen["resilient_bounds_count", "part=a"] == 1
    assert broken["metric bounds"] - before == 1
    del parts


# Traces


def test_traces_are_kept_for_so_many_series_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that have one have the latest."""
    monkeypatch.setattr(exemplars, "MOST_KEPT", 1)
    exemplars.forget()
    for trace in ("t1", "t2"):
        for name in ("first", "second"):
            exemplars.seen(name, {}, {"trace_id": trace})
    kept = exemplars.of("first", {})
    assert kept is not None
    assert kept.labels == {"trace_id": "t2"}
    assert exemplars.of("second", {}) is None
    exemplars.forget()


# Ages of stale answers


def test_the_age_of_stale_answers_is_a_histogram(virtual_time: VirtualTime) -> None:
    """It is there at zero where answers are kept, and counts the age of each that is served."""
    ask = Scripted("answer", ConnectionError)
    guarded = circuit_breaker("ages", fail_max=99)(with_fallback(cached(ttl=3600))(ask))
    assert series("ages")["resilient_stale_age_seconds_count"] == 0
    guarded()
    for _ in range(2):
        virtual_time.advance(40)
        guarded()
    seen = series("ages")
    assert seen["resilient_stale_age_seconds_count"] == 2
    assert seen["resilient_stale_age_seconds_sum"] == pytest.approx(120)
    assert seen["resilient_stale_age_seconds_bucket{60.0}"] == 1


def test_an_answer_without_an_age_is_in_no_histogram_of_ages(virtual_time: VirtualTime) -> None:
    """A default has no age, and where nothing else is served there is no such series."""
    guarded = circuit_breaker("ageless", fail_max=99)(
        with_fallback("instead")(Scripted(ConnectionError))
    )
    guarded()
    assert not [name for name in series("ageless") if "stale_age" in name]


# Counters over time


def test_counters_never_fall_while_calls_run() -> None:
    """Each of many scrapes in the midst of calls shows at least what the one before showed."""
    guarded = circuit_breaker("never falls", fail_max=10**9)(
        with_fallback(default_of_sums)(Scripted(*[1, 2, ConnectionError] * 1000))
    )
    done = threading.Event()

    def call() -> None:
        while not done.is_set():
            guarded()

    callers = [threading.Thread(target=call) for _ in range(3)]
    for caller in callers:
        caller.start()
    try:
        last: dict[str, float] = {}
        for _ in range(100):
            seen = series("never falls")
            counters = {name: value for name, value in seen.items() if "circuit_state" not in name}
            fallen = {name for name, value in last.items() if counters[name] < value}
            assert not fallen
            last = counters
    finally:
        done.set()
        for caller in callers:
            caller.join()


def default_of_sums() -> int:
    return 0


def test_what_comes_back_begins_at_zero(virtual_time: VirtualTime) -> None:
    """A dependency that was gone and is made again counts anew, as after a restart."""
    for _ in range(2):
        guarded = circuit_breaker("comes back", fail_max=9)(Scripted("answer"))
        guarded()
        assert series("comes back")["resilient_attempts_total"] == 1
        del guarded
        gc.collect()
        assert series("comes back") == {}


def test_a_block_that_outlives_the_clock_of_its_test_took_no_negative_time() -> None:
    """Prometheus refuses a page with a sum that falls, also that of somebody else's test."""
    with VirtualTime() as virtual, ExitStack() as block:
        virtual.advance(100)
        breaker = circuit_breaker("outlives its clock", fail_max=9)
        block.enter_context(breaker)
        outliving = block.pop_all()
    outliving.close()
    seen = series("outlives its clock")
    assert seen["resilient_call_duration_seconds_count"] == 1
    assert seen["resilient_call_duration_seconds_sum"] == 0


def test_counts_may_be_written_less_often_than_the_platform_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The thread that writes them waits for as long as it can, and does not end."""
    monkeypatch.setattr(processes, "FIRST", 0.0)
    publisher = Publisher()
    publisher._thread = threading.current_thread()  # it runs already, for all that it knows
    publisher.start(1e308)
    publisher._thread = None
    with waiting_for_ever():
        publisher._run()
