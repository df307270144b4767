"""What stores tell metrics and health: how often they had an answer, and how much they hold."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, final

from resilient.engine.locks import new_lock
from resilient.engine.reported import Condition, Reading, Reported
from resilient.engine.weak import WeakGroup

__all__ = ["Counts"]

Event = Literal["hit", "miss", "unavailable", "rubbish", "written", "dropped", "failed"]

_LOOKUPS: tuple[Event, ...] = ("hit", "miss", "unavailable", "rubbish")
_WRITES: tuple[Event, ...] = ("written", "dropped", "failed")


@final
class Counts(Reported):
    """The counts of all stores of one name.

    A lookup is a hit, a miss, unavailable (the store did not answer in time or at all, so the call
    went on without it) or rubbish (there was something that is no answer of ours). A write that is
    put behind the call is written, dropped (there was no room to wait) or failed.
    """

    __slots__ = ("_counts", "_lock", "_stores", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self._lock = new_lock()
        self._counts: dict[Event, int] = dict.fromkeys((*_LOOKUPS, *_WRITES), 0)
        self._stores: WeakGroup[Any] = WeakGroup()
        self.report()

    @staticmethod
    def of(name: str) -> Counts:
        """Return the counts under `name`, the same for all who ask."""
        with _making:
            if name not in _by_name:
                _by_name[name] = Counts(name)
            return _by_name[name]

    def watch(self, store: Any) -> None:
        """Show what `store` holds, for as long as it lives."""
        with self._lock:
            self._stores.add(store)

    def add(self, event: Event) -> None:
        """Count one event."""
        with self._lock:
            self._counts[event] += 1

    def __getitem__(self, event: Event) -> int:
        return self._counts[event]

    def _sum(self, attribute: str) -> int:
        with self._lock:
            stores = list(self._stores)
        return sum(getattr(one, attribute, 0) for one in stores)

    def readings(self) -> Iterable[Reading]:
        """Return the counts, and how much is held and waits to be written."""
        for name, described, events in (
            ("cache_lookups", "Lookups in a cache's store by what they came to", _LOOKUPS),
            ("cache_writes", "Writes behind calls to a cache's store", _WRITES),
        ):
            for event in events:
                labels = {"store": self.name, "result": event}
                yield Reading(name, described, "counter", labels, self._counts[event])
        for name, described, attribute in (
            ("cache_entries", "Answers in memory", "entries"),
            ("cache_bytes", "About how much memory they take", "bytes"),
            ("cache_waiting_writes", "Writes that have not reached the store yet", "waiting"),
        ):
            yield Reading(name, described, "gauge", {"store": self.name}, self._sum(attribute))

    def conditions(self) -> Iterable[Condition]:
        """Return whether the store is asked, if it is one that can be down."""
        with self._lock:
            guarded = [one for one in self._stores if hasattr(one, "lost")]
        if guarded:
            lost = [(what, breaker) for one in guarded for what, breaker in one.lost.items()]
            details: dict[str, Any] = {"componentType": "datastore"}
            if lost:
                kinds = ", ".join(sorted({what for what, _ in lost}))
                details["output"] = f"left alone until it is well again: {kinds}"
                details |= _outage([breaker for _, breaker in lost])
            yield Condition(f"{self.name}:cache", "warn" if lost else "pass", details)


def _outage(breakers: list[Any]) -> dict[str, Any]:
    """Return what has failed last, since when something has, and when it is asked again."""
    errors = [one.last_failure for one in breakers if one.last_failure is not None]
    since = [one.failing_since for one in breakers if one.failing_since is not None]
    waits = [one.retry_after for one in breakers if one.retry_after is not None]
    said: dict[str, Any] = {}
    if errors:
        said["lastFailure"] = type(errors[-1]).__name__
    if since:
        said["failingForSeconds"] = round(max(since), 3)
    if waits:
        said["retryInSeconds"] = round(min(waits), 3)
    return said


_by_name: dict[str, Counts] = {}
_making = new_lock()
