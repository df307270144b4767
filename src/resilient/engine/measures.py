"""What was counted, for each dependency; read by metrics, health and whoever asks.

Counting is exact. Successes of the fast lane arrive here in batches, when a reader or a failure
settles the journals of the pipelines that feed a dependency.
"""

from __future__ import annotations

import weakref
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import cache
from math import hypot
from typing import TYPE_CHECKING, final

from resilient.engine import signals
from resilient.engine.leftovers import Leftovers
from resilient.engine.locks import new_lock
from resilient.engine.weak import WeakList, alive

if TYPE_CHECKING:
    from resilient.engine.pipeline import Pipeline

__all__ = [
    "AGE_BOUNDS",
    "LATENCY_BOUNDS",
    "OUTAGE_BOUNDS",
    "OUTCOMES",
    "Histogram",
    "Measures",
    "all_measures",
    "every_measures",
]

#: The ways in which a call can end, as labels of `resilient_calls_total`.
OUTCOMES = ("success", "degraded", "failure", "timeout", "rejected", "cancelled")
#: Upper bounds, in seconds, for the durations of calls.
LATENCY_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
#: Upper bounds, in seconds, for how long detection and recovery take.
OUTAGE_BOUNDS = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0)
#: Upper bounds, in seconds, for the ages of answers that are served in place of new ones.
AGE_BOUNDS = (1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0, 604800.0)
#: At most so many different labels are kept apart; the rest are counted together.
MOST_LABELS = 50


@final
class Histogram:
    """Counts of seconds by upper bound, the last for all that is above."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        # Zeros for all that have counted nothing yet, which are most.
        self.counts: list[int] | tuple[int, ...] = _zeros(len(bounds) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one value."""
        # A call may outlive the clock of the test that it began in.
        if seconds < 0.0:
            seconds = 0.0
        counts = self.counts
        if type(counts) is tuple:
            counts = self._own_counts()
        counts[bisect_left(self.bounds, seconds)] += 1  # type: ignore[index]
        self.sum += seconds

    def observe_all(self, batch: list[float], total: float) -> None:
        """Count the values of `batch`, which is sorted on the way and comes to `total`."""
        self.sum += total
        counts = self._own_counts()
        # No value is above the root of the sum of all squares, which is found in a quarter of the
        # time: for 256 calls of up to 60 us there is no need to look for the longest.
        if hypot(*batch) < 0.999 * self.bounds[0] or max(batch) <= self.bounds[0]:
            counts[0] += len(batch)
            return
        batch.sort()
        below = 0
        for index, bound in enumerate(self.bounds):
            upto = bisect_right(batch, bound, below)
            counts[index] += upto - below
            below = upto
        counts[-1] += len(batch) - below

    def _own_counts(self) -> list[int]:
        counts = self.counts
        if isinstance(counts, tuple):
            counts = self.counts = list(counts)
        return counts


@cache
def _zeros(number: int) -> tuple[int, ...]:
    return (0,) * number


@final
class Measures:
    """The counts of one dependency, over all functions that are guarded under its name."""

    __slots__ = (
        "__weakref__",
        "attempts",
        "calls",
        "detection",
        "durations",
        "fallbacks",
        "leftovers",
        "lock",
        "name",
        "pipelines",
        "recovery",
        "rejections",
        "retries",
        "stale_ages",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.lock = new_lock()
        self.calls: dict[str, int] = dict.fromkeys(OUTCOMES, 0)
        self.durations = Histogram(LATENCY_BOUNDS)
        self.attempts = 0
        self.retries = 0
        self.fallbacks: dict[str, int] = {}
        self.rejections: dict[str, int] = {}
        self.detection = Histogram(OUTAGE_BOUNDS)
        self.recovery = Histogram(OUTAGE_BOUNDS)
        self.stale_ages = Histogram(AGE_BOUNDS)
        self.pipelines: WeakList[Pipeline] = WeakList()
        #: The journals of pipelines that are gone.
        self.leftovers = Leftovers()

    def settle(self) -> None:
        """Bring the counts up to date with the journals."""
        for pipeline in self.pipelines:
            pipeline.settle()
        self._take_up_leftovers()

    def join(self, pipeline: Pipeline) -> None:
        """Take note of a pipeline whose calls are counted here."""
        self.pipelines.add(pipeline)
        if self.leftovers.are_many:
            self._take_up_leftovers()

    def _take_up_leftovers(self) -> None:
        self.leftovers.take_up(lambda durations, _when: self.returned(durations, sum(durations)))

    def returned(self, durations: list[float], seconds: float) -> None:
        """Count successful calls of one attempt each, of `seconds` together."""
        with self.lock:
            self.calls["success"] += len(durations)
            self.attempts += len(durations)
            self.durations.observe_all(durations, seconds)

    def ended(self, outcome: str, duration: float, attempts: int, retries: int) -> None:
        """Count one call that went through the slow lane."""
        with self.lock:
            self.calls[outcome] += 1
            self.attempts += attempts
            self.retries += retries
            self.durations.observe(duration)

    def refused(self, durations: list[float], reason: str, tier: str | None) -> None:
        """Count calls that were turned away on the spot, and answered by `tier` if there is one."""
        count = len(durations)
        with self.lock:
            self.calls["rejected" if tier is None else "degraded"] += count
            self.durations.observe_all(durations, sum(durations))
            self._count_locked(self.rejections, reason, count)
            if tier is not None:
                self._count_locked(self.fallbacks, tier, count)

    def served(self, tier: str, age: float | None = None) -> None:
        """Count an answer of a fallback's tier, and how old it is if that is known."""
        with self.lock:
            if tier in self.fallbacks:
                self.fallbacks[tier] += 1
            else:
                self._count_locked(self.fallbacks, tier)
            if age is not None:
                self.stale_ages.observe(age)

    def rejected(self, reason: str, retry_after: float | None = None) -> None:
        """Count and tell of a call that was not made, and may be in `retry_after` seconds."""
        with self.lock:
            self._count_locked(self.rejections, reason)
        self.tell_rejected(reason, retry_after)

    def tell_rejected(self, reason: str, retry_after: float | None, count: int = 1) -> None:
        """Tell of a call that was not made, or of `count` of them."""
        signals.emit(
            "resilient.call_rejected",
            dependency=self.name,
            reason=reason,
            retry_in_seconds=retry_after,
            **({} if count == 1 else {"count": count}),
        )

    def detected(self, seconds: float) -> None:
        """Count an outage that was noticed `seconds` after its first failure."""
        with self.lock:
            self.detection.observe(seconds)

    def recovered(self, seconds: float) -> None:
        """Count an outage that was over `seconds` after its first failure."""
        with self.lock:
            self.recovery.observe(seconds)

    def _count_locked(self, counts: dict[str, int], label: str, count: int = 1) -> None:
        if label not in counts and len(counts) >= MOST_LABELS:
            label = "other"
        counts[label] = counts.get(label, 0) + count

    @classmethod
    def of(cls, name: str) -> Measures:
        """Return the measures under `name`, made on first use and gone with the last user."""
        with _registry_lock:
            measures = _registry.get(name)
            if measures is None:
                measures = _registry[name] = cls(name)
            return measures


_registry: weakref.WeakValueDictionary[str, Measures] = weakref.WeakValueDictionary()
_registry_lock = new_lock()


def every_measures() -> list[Measures]:
    """Return the measures of everything that is guarded now, as they are."""
    with _registry_lock:  # others may be made meanwhile
        return alive(_registry)


def all_measures() -> list[Measures]:
    """Return the measures of everything that is guarded now, ordered by name, settled."""
    found = every_measures()
    found.sort(key=lambda measures: measures.name)
    for measures in found:
        measures.settle()
    return found
