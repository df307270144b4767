"""Calls of 20 ms from eight threads through one breaker: it must not make them wait in line."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.crowds import seconds_of_threads
from benchmarks.harness import ARGUMENT

__all__ = ["CALL_SECONDS", "THREADS", "seconds_for", "speedups"]

Function = Callable[..., Any]

THREADS = 8
CALL_SECONDS = 0.02


def speedups(
    breakers: Mapping[str, Callable[[Function], Function]], *, rounds: int, calls: int
) -> dict[str, list[float]]:
    """Return how many times as many calls eight threads make as one, round by round.

    Each breaker takes its turn in each of `rounds` rounds, with `calls` calls on each thread.
    """
    made = {name: make(_call) for name, make in breakers.items()}
    times: dict[str, list[float]] = {name: [] for name in made}
    for _ in range(rounds):
        for name, call in made.items():
            one = seconds_for(call, threads=1, calls=calls)
            times[name].append(THREADS * one / seconds_for(call, threads=THREADS, calls=calls))
    return times


def _call(_key: str) -> None:
    time.sleep(CALL_SECONDS)


def seconds_for(call: Function, *, threads: int, calls: int) -> float:
    """Return the seconds until each of `threads` threads has made `calls` calls."""

    def work() -> None:
        for _ in range(calls):
            call(ARGUMENT)

    return seconds_of_threads(work, threads)
