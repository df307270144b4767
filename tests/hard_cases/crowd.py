"""Many callers at once, and what they find."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from prometheus_client import CollectorRegistry

from resilient import register_metrics
from tests.waiting import PATIENCE


def crowd(size: int, act: Callable[[int], Any]) -> list[Any]:
    """Call `act(index)` from `size` threads that begin together; return values or errors."""
    results: list[Any] = [None] * size
    begin = threading.Barrier(size + 1)

    def run(index: int) -> None:
        begin.wait()
        try:
            results[index] = act(index)
        except BaseException as error:
            results[index] = error

    threads = [threading.Thread(target=run, args=(index,), daemon=True) for index in range(size)]
    for thread in threads:
        thread.start()
    begin.wait()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive(), "a caller hangs"
    return results


def errors(results: list[Any]) -> list[BaseException]:
    """Return what was raised among `results`."""
    return [one for one in results if isinstance(one, BaseException)]


class Inside:
    """Counts who is inside, and the most at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.now = self.most = self.total = 0

    def __enter__(self) -> None:
        with self._lock:
            self.now += 1
            self.total += 1
            self.most = max(self.most, self.now)

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self.now -= 1


class Stopwatch:
    """The real seconds that a block took."""

    seconds = 0.0


@contextmanager
def stopwatch() -> Generator[Stopwatch]:
    """Measure how long the block takes."""
    watch, began = Stopwatch(), time.monotonic()
    try:
        yield watch
    finally:
        watch.seconds = time.monotonic() - began


class Metrics:
    """The library's metrics as Prometheus would see them, read at each look."""

    def __init__(self, dependency: str) -> None:
        self._dependency = dependency
        self._registry = CollectorRegistry()
        register_metrics(self._registry)

    def value(self, name: str, **labels: str) -> float:
        """Return the value of one series; 0 if there is none."""
        labels["dependency"] = self._dependency
        return self._registry.get_sample_value(f"resilient_{name}", labels) or 0.0

    def calls(self) -> dict[str, float]:
        """Return the outcomes of calls that were counted, without those that never came."""
        outcomes = ("success", "degraded", "failure", "timeout", "rejected", "cancelled")
        counts = {one: self.value("calls_total", outcome=one) for one in outcomes}
        return {one: count for one, count in counts.items() if count}
