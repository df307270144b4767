"""Metrics for Prometheus, read from the measures at scrape time: a call does not pay for them."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Iterator
from typing import final

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector

from resilient.degrade.fallback import Fallback
from resilient.engine.isolation import broken
from resilient.engine.locks import new_lock
from resilient.engine.measures import Histogram, Measures, all_measures
from resilient.strategies.breaker.circuit import CLOSED, HALF_OPEN, OPEN
from resilient.strategies.breaker.interface import all_breakers
from resilient.strategies.bulkhead import Bulkhead

__all__ = ["Collector", "exposition", "register_metrics"]

STATES = (CLOSED, OPEN, HALF_OPEN)


@final
class Collector:
    """Gives Prometheus what has been counted; one object for any number of registries."""

    def describe(self) -> Iterable[Metric]:
        """Return the names without the values, by which a registry finds clashes."""
        return _Families().all()

    def collect(self) -> Iterator[Metric]:
        """Return every metric, with all of its series present from the start at zero."""
        families = _Families()
        for measures in all_measures():
            families.add(measures)
        families.add_circuits()
        families.add_broken()
        yield from families.all()


class _Families:
    """The metrics of one scrape."""

    def __init__(self) -> None:
        dependency = ["dependency"]
        self.calls = CounterMetricFamily(
            "resilient_calls", "Calls by what they came to", labels=["dependency", "outcome"]
        )
        self.durations = HistogramMetricFamily(
            "resilient_call_duration_seconds",
            "Seconds for calls, with all of their attempts and pauses",
            labels=dependency,
        )
        self.attempts = CounterMetricFamily(
            "resilient_attempts", "Attempts, the first of each call included", labels=dependency
        )
        self.retries = CounterMetricFamily(
            "resilient_retries", "Attempts after the first", labels=dependency
        )
        self.fallbacks = CounterMetricFamily(
            "resilient_fallbacks",
            "Answers by the tier that served them",
            labels=["dependency", "tier"],
        )
        self.rejections = CounterMetricFamily(
            "resilient_rejections", "Calls that were not made", labels=["dependency", "reason"]
        )
        self.in_flight = GaugeMetricFamily(
            "resilient_in_flight", "Calls that a bulkhead has let in", labels=dependency
        )
        self.abandoned = GaugeMetricFamily(
            "resilient_abandoned_calls", "Timed-out calls that are still running", labels=dependency
        )
        self.detection = HistogramMetricFamily(
            "resilient_detection_seconds",
            "From the first failure until the circuit opened",
            labels=dependency,
        )
        self.recovery = HistogramMetricFamily(
            "resilient_recovery_seconds",
            "From the first failure until the circuit closed again",
            labels=dependency,
        )
        self.state = GaugeMetricFamily(
            "resilient_circuit_state",
            "1 for the state that the circuit is in, or how many are, with one for each key",
            labels=["dependency", "state"],
        )
        self.transitions = CounterMetricFamily(
            "resilient_circuit_transitions",
            "Changes of the circuit, by the new state",
            labels=["dependency", "state"],
        )
        self.broken = CounterMetricFamily(
            "resilient_hook_failures",
            "Failures of listeners, stores and other hooks",
            labels=["hook"],
        )

    def all(self) -> list[Metric]:
        return list(vars(self).values())

    def add(self, measures: Measures) -> None:
        name = [measures.name]
        for outcome, count in measures.calls.items():
            self.calls.add_metric([*name, outcome], count)
        _add_histogram(self.durations, name, measures.durations)
        self.attempts.add_metric(name, measures.attempts)
        self.retries.add_metric(name, measures.retries)
        _add_histogram(self.detection, name, measures.detection)
        _add_histogram(self.recovery, name, measures.recovery)
        strategies = {
            id(one): one for pipeline in measures.pipelines for one in pipeline.strategies
        }.values()
        tiers = {tier.name for one in strategies if isinstance(one, Fallback) for tier in one.tiers}
        for tier, count in _from_zero(tiers, measures.fallbacks):
            self.fallbacks.add_metric([*name, tier], count)
        reasons = {one.rejection.reason for one in strategies if one.rejection is not None}
        for reason, count in _from_zero(reasons, measures.rejections):
            self.rejections.add_metric([*name, reason], count)
        bulkheads = [one for one in strategies if isinstance(one, Bulkhead)]
        if bulkheads:
            self.in_flight.add_metric(name, sum(one.in_flight for one in bulkheads))
        pools = [one.workers for one in strategies if one.workers is not None]
        if pools:
            self.abandoned.add_metric(name, sum(pool.abandoned for pool in pools))

    def add_circuits(self) -> None:
        for breaker in all_breakers():
            name, states = breaker.name or "", breaker.states
            for state in STATES:
                self.state.add_metric([name, state], states[state])
                self.transitions.add_metric([name, state], breaker.transitions[state])

    def add_broken(self) -> None:
        for place, count in sorted(broken.items()):
            self.broken.add_metric([place], count)


def _from_zero(labels: set[str], counts: dict[str, int]) -> list[tuple[str, int]]:
    """Return `counts` with a 0 for each of `labels` that has not been counted yet, in order."""
    return sorted({**dict.fromkeys(labels, 0), **counts}.items())


def _add_histogram(family: HistogramMetricFamily, labels: list[str], histogram: Histogram) -> None:
    total = 0
    buckets: list[tuple[str, float]] = []
    for bound, count in zip([*map(str, histogram.bounds), "+Inf"], histogram.counts, strict=True):
        total += count
        buckets.append((bound, total))
    family.add_metric(labels, buckets, sum_value=histogram.sum)


_collector = Collector()
_registered: weakref.WeakSet[CollectorRegistry] = weakref.WeakSet()
_lock = new_lock()


def register_metrics(registry: CollectorRegistry = REGISTRY) -> None:
    """Have `registry` collect the library's metrics; harmless when it does already.

    Arguments:
        registry: prometheus-client's default registry, or one of your own.

    Example:
        >>> from prometheus_client import CollectorRegistry, generate_latest
        >>> from resilient import register_metrics
        >>> registry = CollectorRegistry()
        >>> register_metrics(registry)
        >>> b"resilient_calls_total" in generate_latest(registry)
        True
    """
    with _lock:
        if registry not in _registered:
            registry.register(_collector)
            _registered.add(registry)


def exposition(accept: str = "", registry: CollectorRegistry = REGISTRY) -> tuple[bytes, str]:
    """Return the page that Prometheus reads, and its content type.

    It takes milliseconds or more, and belongs on a thread where there is an event loop. Under
    `PROMETHEUS_MULTIPROC_DIR` the page is about all processes that share the directory.

    Arguments:
        accept: The `Accept` header of the request, which decides between Prometheus's text format
            and OpenMetrics.
        registry: What is on the page, other than under `PROMETHEUS_MULTIPROC_DIR`.

    Example:
        >>> from resilient.telemetry.metrics import exposition, register_metrics
        >>> register_metrics()
        >>> page, content_type = exposition()
        >>> b"resilient_calls_total" in page, content_type.startswith("text/plain")
        (True, True)
    """
    encode, content_type = choose_encoder(accept)
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return encode(registry), content_type
