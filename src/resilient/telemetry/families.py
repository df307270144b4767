"""What the metrics are and what they say now, read from the engine when somebody looks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from itertools import accumulate
from typing import Literal, final

from prometheus_client import Metric
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

from resilient.degrade.cached import Cached
from resilient.degrade.fallback import Fallback
from resilient.engine.isolation import broken, isolated
from resilient.engine.measures import Histogram, Measures, all_measures
from resilient.engine.reported import Reading, all_readings
from resilient.errors import InvalidUse
from resilient.strategies.breaker.registry import all_breakers
from resilient.strategies.breaker.states import CLOSED, HALF_OPEN, OPEN
from resilient.strategies.bulkhead import Bulkhead
from resilient.telemetry import exemplars

__all__ = ["Counted", "Family", "all_families", "bucket_labels", "counted_families"]

PREFIX = "resilient_"
STATES = (CLOSED, OPEN, HALF_OPEN)

Kind = Literal["counter", "gauge", "histogram"]
Across = Literal["sum", "max", "min"]


@final
class Family:
    """One metric, and its series by the values of their labels."""

    __slots__ = ("across", "kind", "labels", "meaning", "name", "series")

    def __init__(
        self, name: str, kind: Kind, meaning: str, *labels: str, across: Across = "sum"
    ) -> None:
        self.name = PREFIX + name
        self.kind = kind
        self.meaning = meaning
        self.labels = labels
        #: What the values of several processes come to, if it is a gauge.
        self.across: Across = across
        self.series: dict[tuple[str, ...], float | Histogram] = {}

    def add(self, labels: tuple[str, ...], value: float | Histogram) -> None:
        """Add a series, or to the one that there is: parts that go by one name are one."""
        there = self.series.get(labels)
        if isinstance(there, Histogram) and isinstance(value, Histogram):
            value = _sum(there, value)
        elif isinstance(there, int | float) and isinstance(value, int | float):
            value += there
        self.series[labels] = value

    def metric(self) -> Metric:
        """Return it in prometheus-client's terms."""
        metric = Metric(self.name, self.meaning, self.kind)
        name = f"{self.name}_total" if self.kind == "counter" else self.name
        samples: list[Sample] = []
        for values, value in self.series.items():
            labels = dict(zip(self.labels, values, strict=True))
            if not isinstance(value, Histogram):
                exemplar = exemplars.of(self.name, labels) if self.kind == "counter" else None
                samples.append(Sample(name, labels, value, exemplar=exemplar))
                continue
            total = 0
            counts = accumulate(value.counts[:])
            for bound, total in zip(bucket_labels(tuple(value.bounds)), counts, strict=True):
                samples.append(Sample(f"{name}_bucket", {**labels, "le": bound}, total))
            samples.append(Sample(f"{name}_count", labels, total))
            samples.append(Sample(f"{name}_sum", labels, value.sum))
        metric.samples = samples
        return metric


@cache
def bucket_labels(bounds: tuple[float, ...]) -> tuple[str, ...]:
    """Return the upper bounds as Prometheus writes them, with that of the last bucket."""
    return (*map(floatToGoString, bounds), "+Inf")


def _sum(one: Histogram, other: Histogram) -> Histogram:
    if one.bounds != other.bounds:
        raise InvalidUse("two histograms of one name and labels have different bounds")
    both = Histogram(one.bounds)
    both.counts = [mine + its for mine, its in zip(one.counts, other.counts, strict=True)]
    both.sum = one.sum + other.sum
    return both


def all_families() -> list[Family]:
    """Return every metric, with all of its series present from the start at zero."""
    counted = Counted()
    names = {family.name for family in counted.all()}
    reported = _reported_families(names)
    counted.read()
    return counted.all() + reported


def counted_families() -> list[Family]:
    """Return what is counted for each dependency, which is in memory."""
    counted = Counted()
    counted.read()
    return counted.all()


@final
class Counted:
    """The metrics that the engine counts for each dependency."""

    def __init__(self) -> None:
        self.calls = _counter("calls", "Calls by what they came to", "outcome")
        self.durations = _histogram(
            "call_duration_seconds", "Seconds for calls, with all of their attempts and pauses"
        )
        self.attempts = _counter("attempts", "Attempts, the first of each call included")
        self.retries = _counter("retries", "Attempts after the first")
        self.fallbacks = _counter("fallbacks", "Answers by the tier that served them", "tier")
        self.stale_ages = _histogram(
            "stale_age_seconds",
            "How old the answers were that a fallback served, where that is known",
        )
        self.rejections = _counter("rejections", "Calls that were not made", "reason")
        self.in_flight = _gauge("in_flight", "Calls that a bulkhead has let in")
        self.abandoned = _gauge("abandoned_calls", "Timed-out calls that are still running")
        self.detection = _histogram(
            "detection_seconds", "From the first failure until the circuit opened"
        )
        self.recovery = _histogram(
            "recovery_seconds", "From the first failure until the circuit closed again"
        )
        self.state = _gauge(
            "circuit_state",
            "1 for the state that the circuit is in, or how many are, with one for each key",
            "state",
        )
        self.transitions = _counter(
            "circuit_transitions", "Changes of the circuit, by the new state", "state"
        )
        self.broken = Family(
            "hook_failures", "counter", "Failures of listeners, stores and other hooks", "hook"
        )

    def all(self) -> list[Family]:
        """Return the families in the order in which they are shown."""
        return list(vars(self).values())

    def read(self) -> None:
        """Take every count as it is now."""
        for measures in all_measures():
            self._read(measures)
        for breaker in all_breakers():
            name, states = breaker.name or "", breaker.states
            for state in STATES:
                self.state.series[name, state] = states[state]
                self.transitions.series[name, state] = breaker.transitions[state]
        for place, count in sorted(broken.copy().items()):
            self.broken.series[place,] = count

    def _read(self, measures: Measures) -> None:
        name = measures.name
        for outcome, count in measures.calls.items():
            self.calls.series[name, outcome] = count
        self.durations.series[name,] = measures.durations
        self.attempts.series[name,] = measures.attempts
        self.retries.series[name,] = measures.retries
        self.detection.series[name,] = measures.detection
        self.recovery.series[name,] = measures.recovery
        strategies = {
            id(one): one for pipeline in measures.pipelines for one in pipeline.strategies
        }.values()
        tiers = [tier for one in strategies if isinstance(one, Fallback) for tier in one.tiers]
        for tier, count in _from_zero((tier.name for tier in tiers), measures.fallbacks):
            self.fallbacks.series[name, tier] = count
        if any(isinstance(tier, Cached) for tier in tiers) or any(measures.stale_ages.counts):
            self.stale_ages.series[name,] = measures.stale_ages
        reasons = (one.rejection.reason for one in strategies if one.rejection is not None)
        for reason, count in _from_zero(reasons, measures.rejections):
            self.rejections.series[name, reason] = count
        bulkheads = [one for one in strategies if isinstance(one, Bulkhead)]
        if bulkheads:
            self.in_flight.series[name,] = sum(one.in_flight for one in bulkheads)
        pools = [one.workers for one in strategies if one.workers is not None]
        if pools:
            self.abandoned.series[name,] = sum(pool.abandoned for pool in pools)


def _counter(name: str, meaning: str, *labels: str) -> Family:
    return Family(name, "counter", meaning, "dependency", *labels)


def _gauge(name: str, meaning: str, *labels: str) -> Family:
    return Family(name, "gauge", meaning, "dependency", *labels)


def _histogram(name: str, meaning: str) -> Family:
    return Family(name, "histogram", meaning, "dependency")


def _from_zero(labels: Iterable[str], counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return `counts` with a 0 for each of `labels` that has not been counted yet, in order."""
    return sorted({**dict.fromkeys(labels, 0), **counts}.items())


_METRIC = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


def _reported_families(taken: set[str]) -> list[Family]:
    """Return what parts of the library report themselves; a reading that clashes is isolated."""
    families: dict[str, Family] = {}
    for reading in all_readings():
        isolated(f"metric {reading.name}", None, _place, reading, families, taken)
    return list(families.values())


def _place(reading: Reading, families: dict[str, Family], taken: set[str]) -> None:
    family = families.get(reading.name)
    if family is None:
        family = Family(
            reading.name, reading.kind, reading.help, *reading.labels, across=reading.across
        )
        if family.name in taken:
            raise InvalidUse(f"{family.name} is a metric of another part")
        if not all(map(_METRIC.fullmatch, (reading.name, *reading.labels))):
            raise InvalidUse(f"{family.name} or one of its labels is no name for Prometheus")
    if reading.kind != family.kind or set(reading.labels) != set(family.labels):
        raise InvalidUse(f"{family.name} is a {family.kind} by {', '.join(family.labels)}")
    is_histogram = isinstance(reading.value, Histogram)
    if is_histogram != (family.kind == "histogram"):
        raise InvalidUse(f"the value of a {family.kind} cannot be {reading.value!r}")
    family.add(
        tuple(str(reading.labels[label]) for label in family.labels),
        reading.value if isinstance(reading.value, Histogram) else float(reading.value),
    )
    families[reading.name] = family
