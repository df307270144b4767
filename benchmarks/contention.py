"""Calls of 20 ms from eight threads through one breaker: it must not make them wait in line."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Barrier, Thread
from typing import Any

from benchmarks.harness import ARGUMENT, Spread

__all__ = ["CALL_SECONDS", "THREADS", "Speedup", "speedups"]

Function = Callable[..., Any]

THREADS = 8
CALL_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Speedup:
    """How many times as many calls eight threads make as one."""

    name: str
    times: Spread


def speedups(
    breakers: Mapping[str, Callable[[Function], Function]], *, rounds: int, calls: int
) -> list[Speedup]:
    """Measure each breaker `rounds` times in turns, with `calls` calls on each thread."""
    made = {name: make(_call) for name, make in breakers.items()}
    times: dict[str, list[float]] = {name: [] for name in made}
    for _ in range(rounds):
        for name, call in made.items():
            one = seconds_for(call, threads=1, calls=calls)
            times[name].append(THREADS * one / seconds_for(call, threads=THREADS, calls=calls))
    return [Speedup(name, Spread.of(samples)) for name, samples in times.items()]


def _call(_key: str) -> None:
    time.sleep(CALL_SECONDS)


def seconds_for(call: Function, *, threads: int, calls: int) -> float:
    """Return the seconds until each of `threads` threads has made `calls` calls."""
    ready = Barrier(threads + 1)

    def work() -> None:
        ready.wait()
        for _ in range(calls):
            call(ARGUMENT)

    workers = [Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    ready.wait()
    started = time.perf_counter()
    for worker in workers:
        worker.join()
    return time.perf_counter() - started
