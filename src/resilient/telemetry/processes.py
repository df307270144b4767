"""Metrics of several processes on one page, by way of prometheus-client's files.

Under `PROMETHEUS_MULTIPROC_DIR` each process writes what it counts into files of its own, and a
page adds up the files. prometheus-client writes at each count, which a call does not pay for here:
a thread writes what has been added since the last time, every few seconds, as do a scrape and the
end of the process.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from math import inf
from typing import Any, final

from prometheus_client import CollectorRegistry, values
from prometheus_client.multiprocess import MultiProcessCollector

from resilient.engine import signals
from resilient.engine.isolation import isolated
from resilient.engine.locks import new_lock
from resilient.engine.measures import Histogram
from resilient.telemetry import ended
from resilient.telemetry.families import (
    Counted,
    Family,
    all_families,
    bucket_labels,
    counted_families,
)

__all__ = ["Publisher", "are_many", "of_all", "publisher"]

#: Seconds between two writings.
EVERY = 5.0
#: Seconds until the first one, by which a parent of workers has forked them.
FIRST = 1.0
#: Seconds to wait for another thread that is writing.
PATIENCE = 5.0

#: What is absent when it is gone, and not only because it could not be read for once.
_COUNTED = frozenset(family.name for family in Counted().all())

#: What a gauge that has gone must be for the values of other processes to be shown.
_ABSENT = {"sum": 0, "max": 0, "min": inf}

#: A metric, and the values of its labels.
Series = tuple[str, tuple[str, ...]]


def folder() -> str | None:
    """Return where the files are, or None if each process is to be seen alone."""
    return os.environ.get("PROMETHEUS_MULTIPROC_DIR") or None


def are_many() -> bool:
    """Whether there may be other processes on the page, as prometheus-client has decided too."""
    return folder() is not None and values.ValueClass is not values.MutexValue


@contextmanager
def of_all() -> Generator[CollectorRegistry]:
    """Yield a registry of what all processes count, this one until now."""
    publisher.publish()
    path = folder() or ""
    with suppress(OSError):  # whoever may only read the files forgets nobody
        ended.forget_ended(path)
    with ended.reading(path):
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path)  # type: ignore[no-untyped-call]
        yield registry


@final
class Publisher:
    """Writes the counts of this process into its files; nothing before it has been started."""

    def __init__(self) -> None:
        self._lock = new_lock()
        self._writing = False
        self._held = False
        self._every = EVERY
        self._thread: threading.Thread | None = None
        #: What of each series is in the files, or is not this process's own.
        self._told: dict[Series, tuple[float, ...]] = {}
        self._cells: dict[Series, list[Any]] = {}
        #: The gauges in the files, and what each is set to when it has gone.
        self._gauges: dict[Series, float] = {}
        self._has_forked = False
        self._has_counted = False

    def start(self, every: float | None = None) -> None:
        """Write each `every` seconds from now on, in forked children too."""
        with self._lock:
            if every is not None:
                self._every = every
            if self._thread is not None:
                return
            self._begin_locked()
        os.register_at_fork(
            before=self._before_fork,
            after_in_parent=self._after_fork_in_parent,
            after_in_child=self._after_fork_in_child,
        )
        atexit.register(self.publish)
        signals.subscribe(self._hear)
        from multiprocessing.util import register_after_fork

        register_after_fork(self, _publish_at_exit)

    def _hear(self, name: str, fields: Mapping[str, Any]) -> None:
        if name == "resilient.drain_ended":  # maybe the last that is heard: uvicorn ends by signal
            self.publish()

    def _begin_locked(self) -> None:
        self._thread = threading.Thread(target=self._run, name="resilient-metrics", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        pause = threading.Event()
        pause.wait(min(FIRST, self._every))
        while True:
            self.publish()
            pause.wait(self._every)

    def publish(self) -> None:
        """Write what has been counted since the last time; nothing fails because of it."""
        if self._thread is not None:
            isolated("metrics", None, self._publish)

    def _publish(self) -> None:
        # Held while reading, or what was read first might be written last. Reading may run code of
        # the user's (a listener of a circuit, a part that reports itself), which may wait for
        # somebody who waits here, or come here itself: so nobody waits for ever.
        if not self._lock.acquire(timeout=PATIENCE):
            return
        try:
            if not self._writing:
                self._writing = True
                families = all_families()
                self._write_counts_locked(families)
                self._write_gauges_locked(families)
        finally:
            self._writing = False
            self._lock.release()

    def _write_counts_locked(self, families: list[Family]) -> None:
        there = {(one.name, labels) for one in families for labels in one.series}
        for series in [one for one in self._told if one[0] in _COUNTED and one not in there]:
            del self._told[series]  # should it come back, it begins at zero
        for family in families:
            if family.kind != "gauge":
                isolated("metrics", None, self._count_locked, family)

    def _write_gauges_locked(self, families: list[Family]) -> None:
        # A parent that only forks has the circuits of its children, and has never called anybody.
        hidden = self._has_forked and not self._has_counted
        gauges = [one for one in families if one.kind == "gauge" and not hidden]
        shown = {(one.name, labels): _ABSENT[one.across] for one in gauges for labels in one.series}
        for series in self._gauges.keys() - shown:
            self._cells[series][0].set(self._gauges[series])
        for family in gauges:
            for labels, value in family.series.items():
                self._cells_of(family, labels, value)[0].set(value)
        self._gauges = shown

    def _count_locked(self, family: Family) -> None:
        for labels, value in family.series.items():
            series, numbers = (family.name, labels), _numbers(value)
            told = self._told.get(series)
            if told == numbers:
                continue
            cells = self._cells_of(family, labels, value)
            if told is None or any(new < old for new, old in zip(numbers, told, strict=True)):
                told = (0,) * len(numbers)  # it has begun anew
            for cell, new, old in zip(cells, numbers, told, strict=True):
                if new != old:
                    cell.inc(new - old)
                    self._has_counted = True
            self._told[series] = numbers

    def _cells_of(self, family: Family, labels: tuple[str, ...], value: Any) -> list[Any]:
        """Return the places in the files for one series."""
        series = (family.name, labels)
        if series not in self._cells:
            self._cells[series] = _cells(family, labels, value)
        return self._cells[series]

    # Forks

    def _before_fork(self) -> None:
        # Held until the fork is over, for the sake of prometheus-client's lock further in.
        self._held = self._lock.acquire(timeout=PATIENCE)
        if self._held and not self._writing:
            isolated("metrics", None, lambda: self._write_counts_locked(all_families()))

    def _after_fork_in_parent(self) -> None:
        self._has_forked = True
        if self._held:
            self._lock.release()

    def _after_fork_in_child(self) -> None:
        # What has been counted until now is the parent's, and so is what its other threads have
        # counted since it was written. The lock is free, as all of ours are after a fork.
        self._has_forked = self._has_counted = self._writing = False
        self._gauges = {}
        self._told |= _counts(isolated("metrics", [], counted_families))
        self._begin_locked()


def _counts(families: list[Family]) -> dict[Series, tuple[float, ...]]:
    return {
        (family.name, labels): _numbers(value)
        for family in families
        if family.kind != "gauge"
        for labels, value in family.series.items()
    }


def _numbers(value: float | Histogram) -> tuple[float, ...]:
    return (*value.counts, value.sum) if isinstance(value, Histogram) else (value,)


def _cells(
    family: Family, values_of_labels: tuple[str, ...], value: float | Histogram
) -> list[Any]:
    """Return prometheus-client's values for one series, in the order of `_numbers`."""

    def cell(suffix: str, labels: tuple[str, ...], values_: tuple[str, ...]) -> Any:
        return values.ValueClass(
            family.kind,
            family.name,
            family.name + suffix,
            labels,
            values_,
            family.meaning,
            multiprocess_mode=f"live{family.across}",
        )

    if not isinstance(value, Histogram):
        suffix = "_total" if family.kind == "counter" else ""
        return [cell(suffix, family.labels, values_of_labels)]
    buckets = [
        cell("_bucket", (*family.labels, "le"), (*values_of_labels, bound))
        for bound in bucket_labels(tuple(value.bounds))
    ]
    return [*buckets, cell("_sum", family.labels, values_of_labels)]


def _publish_at_exit(publisher: Publisher) -> None:
    # A child of multiprocessing ends without what is registered for the end of a process.
    from multiprocessing.util import Finalize

    Finalize(None, publisher.publish, exitpriority=100)


publisher = Publisher()
