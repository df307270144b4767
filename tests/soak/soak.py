"""All strategies together for as long as it takes, with faults drawn at random.

    python -m tests.soak.soak --minutes 10

It fails if anything grows that must stay as it is (memory, threads, file descriptors, tasks,
timers), or if what was called, what came of it and what was counted do not add up exactly.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import random
import sys
import tempfile
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from resilient import (
    CallRejected,
    CallTimeout,
    CircuitBreaker,
    Degradation,
    MemoryStore,
    Outbox,
    Receipt,
    SQLiteStore,
    bulkhead,
    cached,
    degradation_scope,
    pipeline_of,
    queued,
    retry,
    timeout,
    with_fallback,
)
from resilient.engine import clock

THREADS = 6
TASKS = 12
#: So many samples are taken; growth is what the last third has more than the middle one.
SAMPLES = 24
#: Beyond these, something grows: bytes of Python's own, and numbers of the others.
MOST_GROWN = {"memory": 512 * 1024, "threads": 12, "descriptors": 8, "tasks": 4, "timers": 60}


class Upstream:
    """Fails, hangs and answers as it is drawn, in spells that are good or bad."""

    def __init__(self) -> None:
        self._draw = random.Random(7)
        self.calls = 0

    def _fate(self) -> float:
        self.calls += 1
        is_bad = int(time.monotonic() / 2) % 2 == 1
        return self._draw.random() * (0.5 if is_bad else 4.0)

    def __call__(self, number: int) -> int:
        fate = self._fate()
        if fate < 0.15:
            time.sleep(0.06)  # longer than it may take
        elif fate < 0.4:
            raise ConnectionError("reset by peer")
        return number

    async def in_a_task(self, number: int) -> int:
        fate = self._fate()
        if fate < 0.15:
            await asyncio.sleep(0.06)
        elif fate < 0.4:
            raise ConnectionError("reset by peer")
        await asyncio.sleep(0)
        return number

    def ping(self) -> bool:
        return self._fate() > 0.4


@dataclass
class Sample:
    """What the process holds at one moment."""

    memory: int
    threads: int
    descriptors: int
    tasks: int
    timers: int


@dataclass
class Soak:
    """One run; `leak` is called with each call's number, for a test of the soak itself."""

    seconds: float
    folder: Path
    leak: Callable[[int], object] | None = None
    made: Counter[str] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)
    samples: list[Sample] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.upstream = Upstream()
        self._done = threading.Event()
        self._counting = threading.Lock()
        self.outbox = Outbox(self.folder / "outbox.db", name="soak")
        in_file = SQLiteStore(self.folder / "cache.db", name="soak")
        self.breakers = [
            CircuitBreaker(
                f"soak {name}",
                failure_rate=0.5,
                min_calls=10,
                reset_timeout=0.1,
                probe=self.upstream.ping,
                probe_every=0.05,
            )
            for name in ("threads", "tasks", "receipts")
        ]

        @with_fallback(cached(ttl=60, key="{number}", store=MemoryStore(500, name="soak")), -1)
        @bulkhead(4, max_waiting=4, max_wait=0.05)
        @retry(on=(ConnectionError, CallTimeout), attempts=2, wait_initial=0.001)
        @self.breakers[0]
        @timeout(0.03, max_workers=4, max_abandoned=8)
        def on_threads(number: int) -> int:
            return self.upstream(number)

        @with_fallback(cached(ttl=60, fresh_for=0.01, key="{number}", store=in_file))
        @bulkhead(8, max_waiting=4, max_wait=0.05)
        @retry(on=(ConnectionError, CallTimeout), attempts=2, wait_initial=0.001)
        @self.breakers[1]
        @timeout(0.03)
        async def on_tasks(number: int) -> int:
            return await self.upstream.in_a_task(number)

        @with_fallback(queued(self.outbox, name="soak receipt"))
        @self.breakers[2]
        def with_receipt(number: int) -> int:
            return self.upstream(number)

        self.on_threads, self.on_tasks, self.with_receipt = on_threads, on_tasks, with_receipt

    def run(self) -> list[str]:
        """Run, and return what is wrong at the end."""
        callers = range(THREADS)
        threads = [threading.Thread(target=self._call_on_threads, args=(n,)) for n in callers]
        tracemalloc.start()
        try:
            for thread in threads:
                thread.start()
            asyncio.run(self._on_a_loop())
        finally:
            self._done.set()
            for thread in threads:
                thread.join()
            tracemalloc.stop()
        return [*self._grown(), *self._miscounted()]

    def _note(self, function: str, outcome: str) -> None:
        with self._counting:
            self.made[function] += 1
            self.seen[f"{function} {outcome}"] += 1

    def _outcome(self, call: Callable[[], Any]) -> str:
        with degradation_scope() as degraded:
            try:
                value = call()
            except BaseException as error:
                return _failed(error)
            return _answered(value, degraded)

    def _call_on_threads(self, seed: int) -> None:
        draw = random.Random(seed)
        while not self._done.is_set():
            number = draw.randrange(1000)
            if self.leak is not None:
                self.leak(number)
            self._note("threads", self._outcome(lambda n=number: self.on_threads(n)))
            if draw.random() < 0.05:
                self._note("receipts", self._outcome(lambda n=number: self.with_receipt(n)))
            time.sleep(0.001)

    async def _on_a_loop(self) -> None:
        until = time.monotonic() + self.seconds
        with self.outbox.worker():
            callers = [asyncio.create_task(self._call_in_a_task(n)) for n in range(TASKS)]
            try:
                for _ in range(SAMPLES):
                    await asyncio.sleep(self.seconds / SAMPLES)
                    self.samples.append(self._sample())
                await asyncio.sleep(max(0.0, until - time.monotonic()))
            finally:
                self._done.set()
                for one in callers:
                    await one

    async def _call_in_a_task(self, seed: int) -> None:
        draw = random.Random(seed)
        while not self._done.is_set():
            number = draw.randrange(1000)
            with degradation_scope() as degraded:
                try:
                    async with asyncio.timeout(0.02 if draw.random() < 0.05 else 10):
                        value = await self.on_tasks(number)
                except TimeoutError as error:
                    outcome = _failed(error) if isinstance(error, CallTimeout) else "cancelled"
                except Exception as error:
                    outcome = _failed(error)
                else:
                    outcome = _answered(value, degraded)
            self._note("tasks", outcome)
            await asyncio.sleep(0.001)

    def _sample(self) -> Sample:
        gc.collect()
        return Sample(
            tracemalloc.get_traced_memory()[0],
            threading.active_count(),
            sum(1 for _ in Path("/proc/self/fd").iterdir()),
            len(asyncio.all_tasks()),
            len(clock.system._due),
        )

    def _grown(self) -> list[str]:
        third = len(self.samples) // 3
        problems = []
        for name, most in MOST_GROWN.items():
            values = [getattr(sample, name) for sample in self.samples]
            # The least of each part: what is there for a moment is no growth.
            before, after = min(values[third:-third]), min(values[-third:])
            if after - before > most:
                problems.append(f"{name} grew from {before} to {after}")
        return problems

    def _miscounted(self) -> list[str]:
        problems = []
        for function, guarded in (
            ("threads", self.on_threads),
            ("tasks", self.on_tasks),
            ("receipts", self.with_receipt),
        ):
            measures = pipeline_of(guarded).measures
            measures.settle()
            counted = {name: count for name, count in measures.calls.items() if count}
            seen = {
                name: self.seen[f"{function} {name}"]
                for name in measures.calls
                if self.seen[f"{function} {name}"]
            }
            if function == "receipts":
                # What was put off has been made later, once each, and is counted as well.
                put_off = seen.get("degraded", 0)
                left = len(self.outbox.pending(10**6)) + len(self.outbox.dead(10**6))
                made_later = counted.get("success", 0) - seen.get("success", 0)
                if counted.get("degraded", 0) != put_off or made_later != put_off - left:
                    problems.append(f"receipts: {put_off=}, {left=}, {made_later=}")
            elif counted != seen or sum(seen.values()) != self.made[function]:
                problems.append(f"{function}: {self.made[function]} made, {seen=}, {counted=}")
        for strategy in (
            *pipeline_of(self.on_threads).strategies,
            *pipeline_of(self.on_tasks).strategies,
        ):
            held = getattr(strategy, "in_flight", 0) + getattr(strategy, "waiting", 0)
            problems += [f"{strategy} holds permits that nobody has"] if held else []
        return problems

    def told(self) -> str:
        """Return what was done, and what is held at the end."""
        last = self.samples[-1]
        return (
            f"{sum(self.made.values())} calls, {self.upstream.calls} upstream; at the end "
            f"{last.memory / 1e6:.1f} MB, {last.threads} threads, {last.descriptors} descriptors, "
            f"{last.tasks} tasks, {last.timers} timers; {dict(sorted(self.seen.items()))}"
        )


def _failed(error: BaseException) -> str:
    if isinstance(error, CallTimeout):
        return "timeout"
    return "rejected" if isinstance(error, CallRejected) else "failure"


def _answered(value: Any, degraded: list[Degradation]) -> str:
    return "degraded" if degraded or isinstance(value, Receipt) else "success"


def main() -> int:
    """Soak for some minutes, and say what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    minutes = parser.parse_args().minutes
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(minutes * 60, Path(folder))
        problems = soak.run()
        print(soak.told())
    for problem in problems:
        print(f"WRONG: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
