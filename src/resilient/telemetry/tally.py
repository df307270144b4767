"""How often an event has come to what, and how long it took: its metrics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import final

from resilient.engine.locks import new_lock
from resilient.engine.measures import LATENCY_BOUNDS, Histogram
from resilient.engine.reported import Reading, Reported

__all__ = ["OUTCOMES", "Tally"]

#: The ways in which an observed call can end, besides those of expected errors.
OUTCOMES = ("succeeded", "failed", "cancelled")
#: More names, and more outcomes of one name, are counted together: labels must be few.
MOST_NAMES = 1000
MOST_OUTCOMES = 50
OTHER = "other"


@final
class Tally(Reported):
    """The counts of one event, over all functions and blocks that are observed under its name."""

    __slots__ = ("_lock", "audit_failures", "durations", "name", "outcomes")

    def __init__(self, name: str) -> None:
        self.name = name
        self._lock = new_lock()
        self.outcomes: dict[str, int] = dict.fromkeys(OUTCOMES, 0)
        self.durations = Histogram(LATENCY_BOUNDS)
        #: How often a sink has failed in audit mode; None if it has never been in that.
        self.audit_failures: int | None = None
        self.report()

    def expect(self, outcomes: Iterable[str], *, audit: bool) -> None:
        """Show further outcomes, from the start at zero."""
        with self._lock:
            for outcome in outcomes:
                if len(self.outcomes) < MOST_OUTCOMES:
                    self.outcomes.setdefault(outcome, 0)
            if audit and self.audit_failures is None:
                self.audit_failures = 0

    def count(self, outcome: str, seconds: float) -> None:
        """Count one call."""
        with self._lock:
            if outcome not in self.outcomes:
                outcome = OTHER
            self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
            self.durations.observe(seconds)

    def audit_failed(self) -> None:
        """Count an event that did not get to where it should have gone."""
        with self._lock:
            self.audit_failures = (self.audit_failures or 0) + 1

    def readings(self) -> Iterator[Reading]:
        """Return the counts by outcome, and the durations."""
        event = {"event": self.name}
        for outcome, count in list(self.outcomes.items()):
            yield Reading(
                "events",
                "Events by what they came to",
                "counter",
                {**event, "outcome": outcome},
                count,
            )
        yield Reading(
            "event_duration_seconds",
            "Seconds from the start of an event to its end",
            "histogram",
            event,
            self.durations,
        )
        if self.audit_failures is not None:
            yield Reading(
                "audit_failures",
                "Events of audit mode that a sink has not taken",
                "counter",
                event,
                self.audit_failures,
            )

    @classmethod
    def of(cls, name: str) -> Tally:
        """Return the tally of `name`, which stays: counts that vanish are worse than none."""
        with _registry_lock:
            if name not in _registry and len(_registry) >= MOST_NAMES:
                name = OTHER
            if name not in _registry:
                _registry[name] = cls(name)
            return _registry[name]


_registry: dict[str, Tally] = {}
_registry_lock = new_lock()
