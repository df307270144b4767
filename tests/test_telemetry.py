"""What is seen of calls: events with their keys, and metrics that add up."""

# What returns Any may be a coroutine, for all that a type checker knows.
# pyright: reportUnusedCoroutine=false, reportIndexIssue=false, reportAttributeAccessIssue=false

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pybreaker
import pytest
import structlog
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from resilient import (
    Dependency,
    bulkhead,
    cached,
    circuit_breaker,
    failover,
    rate_limit,
    register_metrics,
    retry,
    timeout,
    with_fallback,
)
from resilient.engine import signals
from resilient.engine.isolation import broken
from resilient.telemetry.events import EVENTS
from resilient.testing import VirtualTime
from tests.doubles import Scripted, calls, series

# Events


def outage(virtual: VirtualTime, name: str) -> Any:
    """Return a guarded function that has been down for two seconds and is well again."""
    ask = Scripted(*[ConnectionError] * 4, "answer")
    guarded = circuit_breaker(name, fail_max=3, reset_timeout=5)(ask)
    for _ in range(3):
        with pytest.raises(ConnectionError):
            guarded()
        virtual.advance(1)
    return guarded


def test_an_outage_is_told_from_beginning_to_end(virtual_time: VirtualTime) -> None:
    """Opened, half-opened, opened again, half-opened, closed, recovered: each event once."""
    with capture_logs() as logs:
        guarded = outage(virtual_time, "told in full")
        virtual_time.advance(4)
        with pytest.raises(ConnectionError):
            guarded()  # a probe that fails
        virtual_time.advance(5)
        guarded()
    assert [log["event"].removeprefix("resilient.") for log in logs] == [
        "circuit_opened",
        "circuit_half_opened",
        "circuit_opened",
        "circuit_half_opened",
        "circuit_closed",
        "recovered",
    ]
    assert {log["dependency"] for log in logs} == {"told in full"}
    opened, *_, recovered = logs
    assert opened == {
        "event": "resilient.circuit_opened",
        "log_level": "error",
        "dependency": "told in full",
        "reason": "consecutive_failures",
        "failures": 3,
        "calls": 3,
        "retry_in_seconds": 5,
        "failing_for_seconds": 2,
        "error": "ConnectionError",
        "served_instead": "nothing",
    }
    assert recovered["recovery_seconds"] == 12
    assert recovered["log_level"] == "info"


def test_a_call_that_succeeds_is_no_event(virtual_time: VirtualTime) -> None:
    """Nothing is logged for calls that go well, however many strategies there are."""
    guarded = with_fallback(cached(ttl=60))(
        circuit_breaker("quiet", fail_max=3)(
            retry(on=OSError)(bulkhead(3)(rate_limit(9000)(timeout(5)(Scripted("answer")))))
        )
    )
    with capture_logs() as logs:
        for _ in range(1000):
            guarded()
    assert logs == []


def test_every_event_has_a_level_that_structlog_knows() -> None:
    """Names are dotted, and levels are methods of a logger."""
    logger = structlog.get_logger()
    for name, event in EVENTS.items():
        assert name.startswith("resilient.")
        assert callable(getattr(logger, event.level))


def test_fields_without_a_value_are_left_out(virtual_time: VirtualTime) -> None:
    """An answer whose age is not known has no age in its event, rather than None."""
    guarded = with_fallback("instead")(Scripted(ConnectionError))
    with capture_logs() as logs:
        guarded()
    assert "age_seconds" not in logs[0]
    assert None not in logs[0].values()


def test_the_library_configures_neither_structlog_nor_logging(virtual_time: VirtualTime) -> None:
    """What has been configured by others is as it was after any number of events."""
    before = structlog.get_config(), logging.getLogger().handlers[:], logging.getLogger().level
    outage(virtual_time, "configures nothing")
    after = structlog.get_config(), logging.getLogger().handlers[:], logging.getLogger().level
    assert before == after


def test_events_carry_what_the_caller_has_bound(virtual_time: VirtualTime) -> None:
    """Context variables of structlog are those of the caller, such as a request's id."""
    seen: list[dict[str, Any]] = []

    def keep(_logger: Any, _name: str, event: Any) -> Any:
        seen.append(dict(event))
        raise structlog.DropEvent

    structlog.configure(processors=[structlog.contextvars.merge_contextvars, keep])
    try:
        with structlog.contextvars.bound_contextvars(request_id="r1"):
            with_fallback("instead")(Scripted(ConnectionError))()
    finally:
        structlog.reset_defaults()
    assert [one["request_id"] for one in seen] == ["r1"]


# Listeners and sinks that raise


@pytest.fixture
def listener() -> Iterator[Any]:
    """A listener of all signals that raises each time, and counts."""

    class BrokenListener:
        heard = 0

        def __call__(self, name: str, fields: Any) -> None:
            self.heard += 1
            raise self.error_type("a broken sink")

        class error_type(Exception):  # noqa: N801
            """New for each test, as each kind is reported once for a process."""

    one = BrokenListener()
    signals.subscribe(one)
    yield one
    signals.unsubscribe(one)


def test_a_sink_that_raises_changes_no_result(virtual_time: VirtualTime, listener: Any) -> None:
    """Calls come to what they come to, and each failure of the sink is counted."""
    before = broken["signal listener"]
    guarded = with_fallback("instead")(retry(on=ConnectionError)(Scripted(ConnectionError)))
    assert [guarded() for _ in range(5)] == ["instead"] * 5
    assert listener.heard >= 5
    assert broken["signal listener"] - before == listener.heard


def test_a_sink_that_raises_is_logged_once(virtual_time: VirtualTime, listener: Any) -> None:
    """The first failure is an event; a thousand more are not."""
    guarded = with_fallback("instead")(Scripted(ConnectionError))
    with capture_logs() as logs:
        for _ in range(100):
            guarded()
    failed = [log for log in logs if log["event"] == "resilient.hook_failed"]
    assert [(log["hook"], log["error"]) for log in failed] == [("signal listener", "error_type")]
    assert len([log for log in logs if log["event"] == "resilient.fallback_served"]) == 1


def test_a_listener_of_a_breaker_that_raises_is_counted_and_logged_once(
    virtual_time: VirtualTime,
) -> None:
    """The breaker still trips, the other listeners are told, and the metrics show the failures."""

    class OwnKindError(Exception):
        pass

    class BrokenListener(pybreaker.CircuitBreakerListener):
        def failure(self, cb: Any, exc: BaseException) -> None:
            raise OwnKindError

    told: list[BaseException] = []

    class Listener(pybreaker.CircuitBreakerListener):
        def failure(self, cb: Any, exc: BaseException) -> None:
            told.append(exc)

    breaker = circuit_breaker(
        "with a broken listener",
        fail_max=3,
        reset_timeout=60,
        listeners=[BrokenListener(), Listener()],
    )
    guarded = breaker(Scripted(ConnectionError))
    before = broken["breaker listener"]
    with capture_logs() as logs:
        for _ in range(3):
            with pytest.raises(ConnectionError):
                guarded()
    assert breaker.current_state == "open"
    assert len(told) == 3
    assert broken["breaker listener"] - before == 3
    assert [log["event"] for log in logs].count("resilient.hook_failed") == 1
    registry = CollectorRegistry()
    register_metrics(registry)
    shown = registry.get_sample_value("resilient_hook_failures_total", {"hook": "breaker listener"})
    assert shown == broken["breaker listener"]


# Metrics


def test_every_series_is_there_from_the_start_at_zero(virtual_time: VirtualTime) -> None:
    """Before the first call, everything that can be counted is there, as zero."""
    shop = Dependency(
        "from zero",
        retry=retry(attempts=2),
        breaker=circuit_breaker(),
        timeout=1,
        max_concurrent=5,
        rate_limit=rate_limit(100),
    )
    guarded = shop.with_fallback(cached(ttl=60), failover(Scripted("replica")), "instead")(
        Scripted("answer")
    )
    seen = series("from zero")
    outcomes = ["success", "degraded", "failure", "timeout", "rejected", "cancelled"]
    reasons = ["circuit_open", "bulkhead_full", "rate_limited", "saturated"]
    expected = [
        *(f"resilient_calls_total{{{outcome}}}" for outcome in outcomes),
        *(f"resilient_rejections_total{{{reason}}}" for reason in reasons),
        *(f"resilient_fallbacks_total{{{tier}}}" for tier in ("cached", "failover", "default")),
        *(f"resilient_circuit_transitions_total{{{s}}}" for s in ("closed", "open", "half-open")),
        "resilient_attempts_total",
        "resilient_retries_total",
        "resilient_call_duration_seconds_count",
        "resilient_call_duration_seconds_sum",
        "resilient_detection_seconds_count",
        "resilient_recovery_seconds_count",
        "resilient_in_flight",
        "resilient_abandoned_calls",
        "resilient_circuit_state{open}",
        "resilient_circuit_state{half-open}",
    ]
    assert {name: seen.get(name) for name in expected} == dict.fromkeys(expected, 0)
    assert seen["resilient_circuit_state{closed}"] == 1
    assert guarded() == "answer"


def test_every_outcome_is_counted_once_and_exactly(virtual_time: VirtualTime) -> None:
    """Calls of every kind add up, in the lane of success and out of it."""
    breaker = circuit_breaker("all outcomes", fail_max=99, reset_timeout=60)
    ask = Scripted(*["answer"] * 300, *[ConnectionError] * 3, *["answer"] * 300)
    guarded = breaker(timeout(1)(ask))
    served = with_fallback("instead")(breaker(Scripted(KeyError)))
    for _ in range(603):
        try:
            guarded()
        except ConnectionError:
            continue
    for _ in range(4):
        served()
    slow = breaker(timeout(1)(virtual_time.sleep))
    for _ in range(2):
        with pytest.raises(TimeoutError):
            slow(60)
    with pytest.raises(KeyboardInterrupt):
        breaker(Scripted(KeyboardInterrupt))()
    breaker.force_open()
    for _ in range(5):
        with pytest.raises(Exception, match="circuit open"):
            guarded()
    assert calls("all outcomes") == {
        "success": 600,
        "failure": 3,
        "degraded": 4,
        "timeout": 2,
        "cancelled": 1,
        "rejected": 5,
    }
    seen = series("all outcomes")
    assert seen["resilient_call_duration_seconds_count"] == 615
    assert seen["resilient_attempts_total"] == 610
    assert seen["resilient_rejections_total{circuit_open}"] == 5


def test_metrics_can_be_read_while_calls_are_made() -> None:
    """Counts add up exactly, however often they are read in between."""
    guarded = circuit_breaker("read meanwhile", fail_max=99)(retry(on=OSError)(lambda: None))
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            series("read meanwhile")

    reader = threading.Thread(target=read)
    reader.start()
    callers = [threading.Thread(target=lambda: [guarded() for _ in range(2000)]) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    done.set()
    reader.join()
    assert calls("read meanwhile") == {"success": 8000}
    assert series("read meanwhile")["resilient_call_duration_seconds_count"] == 8000


def test_durations_fall_into_their_buckets(virtual_time: VirtualTime) -> None:
    """Each call is in the buckets at and above its duration."""
    guarded = circuit_breaker("in buckets", fail_max=9)(virtual_time.sleep)
    for seconds in (0, 0.2, 0.25, 3, 60):
        guarded(seconds)
    seen = series("in buckets")
    buckets = {
        name.split("{")[1].rstrip("}"): count
        for name, count in seen.items()
        if name.startswith("resilient_call_duration_seconds_bucket")
    }
    assert [buckets[bound] for bound in ("0.1", "0.25", "0.5", "2.5", "5.0", "+Inf")] == [
        1,
        3,
        3,
        3,
        4,
        5,
    ]
    assert seen["resilient_call_duration_seconds_sum"] == pytest.approx(63.45)


def test_detection_and_recovery_are_measured_from_the_first_failure(
    virtual_time: VirtualTime,
) -> None:
    """Two seconds until the circuit opened, eleven until it was closed again."""
    guarded = outage(virtual_time, "measured")
    seen = series("measured")
    assert seen["resilient_detection_seconds_count"] == 1
    assert seen["resilient_detection_seconds_sum"] == 2
    assert seen["resilient_recovery_seconds_count"] == 0
    virtual_time.advance(4)
    with pytest.raises(ConnectionError):
        guarded()
    virtual_time.advance(5)
    guarded()
    seen = series("measured")
    assert seen["resilient_detection_seconds_count"] == 1
    assert seen["resilient_recovery_seconds_count"] == 1
    assert seen["resilient_recovery_seconds_sum"] == 12
    assert seen["resilient_circuit_transitions_total{open}"] == 2
    assert seen["resilient_circuit_transitions_total{half-open}"] == 2
    assert seen["resilient_circuit_transitions_total{closed}"] == 1


def test_exactly_one_state_of_a_circuit_is_one(virtual_time: VirtualTime) -> None:
    """The gauge follows the circuit on time, without any call."""

    def states() -> list[float]:
        seen = series("one state")
        return [seen[f"resilient_circuit_state{{{s}}}"] for s in ("closed", "open", "half-open")]

    ask = Scripted(ConnectionError, "answer")
    guarded = circuit_breaker("one state", fail_max=1, reset_timeout=5)(ask)
    assert states() == [1, 0, 0]
    with pytest.raises(ConnectionError):
        guarded()
    assert states() == [0, 1, 0]
    virtual_time.advance(5)
    assert states() == [0, 0, 1]
    guarded()
    assert states() == [1, 0, 0]


def test_tiers_are_counted_apart(virtual_time: VirtualTime) -> None:
    """What each tier served is a series of its own."""
    ask = Scripted("answer", ConnectionError)
    guarded = circuit_breaker("by tier", fail_max=99)(
        with_fallback(cached(ttl=10), failover(Scripted("replica", KeyError)), "instead")(ask)
    )
    guarded()
    guarded()
    virtual_time.advance(11)
    for _ in range(3):
        guarded()
    seen = series("by tier")
    assert [
        seen[f"resilient_fallbacks_total{{{t}}}"] for t in ("cached", "failover", "default")
    ] == [
        1,
        1,
        2,
    ]


def test_a_cancelled_call_has_an_outcome_of_its_own() -> None:
    """Cancellation is neither success nor failure."""
    guarded = circuit_breaker("cancelled calls", fail_max=1)(asyncio.sleep)

    async def main() -> None:
        task = asyncio.create_task(guarded(60))
        await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(main())
    assert calls("cancelled calls") == {"cancelled": 1}


def test_the_exposition_can_be_parsed_and_has_base_units() -> None:
    """Every metric has the prefix, a help text and a proper unit in its name."""
    guarded = circuit_breaker("exposed", fail_max=9)(Scripted("answer"))
    guarded()
    registry = CollectorRegistry()
    register_metrics(registry)
    families = list(text_string_to_metric_families(generate_latest(registry).decode()))
    assert len({family.name for family in families}) == len(families) >= 12
    for family in families:
        assert family.name.startswith("resilient_")
        assert family.documentation
        assert not family.name.endswith(("_ms", "_milliseconds", "_minutes"))


def test_what_is_gone_leaves_no_series(virtual_time: VirtualTime) -> None:
    """Functions that are not used any more do not fill the exposition for ever."""
    import gc

    guarded = circuit_breaker("soon gone", fail_max=9)(Scripted("answer"))
    guarded()
    assert series("soon gone")
    del guarded
    gc.collect()
    assert series("soon gone") == {}
