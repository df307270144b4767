"""Metrics of several processes on one page, by way of prometheus-client's files.

Under `PROMETHEUS_MULTIPROC_DIR` each process writes what it counts into files of its own, and a
page adds up the files. prometheus-client writes at each count, which a call does not pay for here:
a thread writes what has been added since the last time, every few seconds, as do a scrape and the
end of the process.
"""

from __future__ import annotations

import atexit
import os
import struct
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from math import inf
from typing import Any, final

from prometheus_client import CollectorRegistry, Metric, values
from prometheus_client.multiprocess import MultiProcessCollector

from resilient.engine import clock, signals
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
#: How often files are read that others are making meanwhile.
ATTEMPTS = 10
#: Seconds to wait for another thread that is writing.
PATIENCE = 5.0

#: What is absent when it is gone, and not only because it could not be read for once.
_COUNTED = frozenset(family.name for family in Counted().all())

#: What a gauge that has gone must be for the values of other processes to be shown.
_ABSENT = {"sum": 0, "max": 0, "min": inf}

#: The values of a metric's labels.
Labels = tuple[str, ...]


def folder() -> str | None:
    """Return where the files are, or None if each process is to be seen alone."""
    return os.environ.get("PROMETHEUS_MULTIPROC_DIR") or None


def are_many() -> bool:
    """Whether there may be other processes on the page, as prometheus-client has decided too."""
    return folder() is not None and values.ValueClass is not values.MutexValue


def of_all() -> CollectorRegistry:
    """Return a registry of what all processes have counted, this one until now."""
    publisher.publish()
    path = folder() or ""
    with suppress(OSError):  # whoever may only read the files forgets nobody
        ended.forget_ended(path)
    with ended.reading(path):
        found = _Found(_read(path))
    registry = CollectorRegistry()
    registry.register(found)
    return registry


def _read(path: str) -> list[Metric]:
    files: Any = MultiProcessCollector
    for _ in range(ATTEMPTS - 1):
        with suppress(struct.error, FileNotFoundError):  # one is being made, or has just gone
            return list(files(None, path).collect())
        time.sleep(0.01)
    return list(files(None, path).collect())


@final
class _Found:
    """What was in the files of all processes, as a registry takes it."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> list[Metric]:
        return self._metrics


@final
class Publisher:
    """Writes the counts of this process into its files; nothing before it has been started."""

    def __init__(self) -> None:
        self._lock = new_lock()
        self._writing = False
        self._held = False
        self._every = EVERY
        self._thread: threading.Thread | None = None
        #: By metric and labels: what is in the files of this process, or not its own; what
        #: gauges say there; and where that is.
        self._told: dict[str, dict[Labels, tuple[float, ...]]] = {}
        self._shown: dict[str, dict[Labels, float]] = {}
        self._gauges: dict[str, Family] = {}
        self._cells: dict[str, dict[Labels, list[Any]]] = {}
        self._has_forked = False
        self._has_counted = False

    def start(self, every: float | None = None) -> None:
        """Write each `every` seconds from now on, in forked children too."""
        with self._lock:
            if every is not None:
                self._every = min(every, clock.LONGEST)
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
                self._write_locked()
        finally:
            self._lock.release()

    def _write_locked(self) -> None:
        self._writing = True
        try:
            families = all_families()
            self._write_counts_locked(families)
            self._write_gauges_locked(families)
        finally:
            self._writing = False

    def _write_counts_locked(self, families: list[Family]) -> None:
        for family in families:
            if family.kind != "gauge":
                isolated("metrics", None, self._count_locked, family)

    def _count_locked(self, family: Family) -> None:
        told = self._told.setdefault(family.name, {})
        if family.name in _COUNTED:
            for labels in told.keys() - family.series:
                del told[labels]  # should it come back, it begins at zero
        for labels, value in family.series.items():
            numbers, before = _numbers(value), told.get(labels)
            if numbers == before:
                continue
            cells = self._cells_of(family, labels, value)
            if before is None or any(new < old for new, old in zip(numbers, before, strict=True)):
                before = (0,) * len(numbers)  # it has begun anew
            for cell, new, old in zip(cells, numbers, before, strict=True):
                if new != old:
                    cell.inc(new - old)
                    self._has_counted = True
            told[labels] = numbers

    def _write_gauges_locked(self, families: list[Family]) -> None:
        # A parent that only forks has the circuits of its children, and has never called anybody.
        hidden = self._has_forked and not self._has_counted
        gauges = {one.name: one for one in families if one.kind == "gauge" and not hidden}
        for family in (self._gauges | gauges).values():
            series = family.series if family.name in gauges else {}
            isolated("metrics", None, self._show_locked, family, series)
        self._gauges = gauges

    def _show_locked(self, family: Family, series: dict[Labels, Any]) -> None:
        shown = self._shown.setdefault(family.name, {})
        for labels in shown.keys() - series:
            self._cells_of(family, labels, 0)[0].set(_ABSENT[family.across])
            del shown[labels]
        for labels, value in series.items():
            if shown.get(labels) != value:
                self._cells_of(family, labels, value)[0].set(value)
                shown[labels] = value

    def _cells_of(self, family: Family, labels: Labels, value: Any) -> list[Any]:
        """Return the places in the files for one series."""
        cells = self._cells.setdefault(family.name, {})
        if labels not in cells:
            if (path := folder()) is not None:
                ended.check_room(path)
            cells[labels] = _cells(family, labels, value)
        return cells[labels]

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
        self._shown, self._gauges = {}, {}
        for family in isolated("metrics", [], counted_families):
            if family.kind != "gauge":
                told = {labels: _numbers(value) for labels, value in family.series.items()}
                self._told[family.name] = told
        self._begin_locked()


def _numbers(value: float | Histogram) -> tuple[float, ...]:
    return (*value.counts, value.sum) if isinstance(value, Histogram) else (value,)


def _cells(family: Family, values_of_labels: Labels, value: float | Histogram) -> list[Any]:
    """Return prometheus-client's values for one series, in the order of `_numbers`."""

    def cell(suffix: str, labels: Labels, values_: Labels) -> Any:
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
