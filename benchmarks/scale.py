"""What so many dependencies cost: `python -m benchmarks.scale making|memory|scrape COUNT [HOW]`.

Each has one guarded asynchronous function, and everything in the standard order that can be had: a
total limit, a bulkhead, a retry, a breaker with a window of 100 calls, a limit for each attempt. It
is a program of its own, because what is measured is a whole process: seconds are those of the
processor, which other programs do not lengthen.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import py_compile
import sys
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import Any

from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from benchmarks.quiet import show_nothing
from resilient import Dependency, circuit_breaker, register_metrics, retry
from resilient.telemetry.metrics import exposition

__all__ = ["main", "mirror"]

Function = Callable[..., Any]

WINDOW = 100
FAILURES = 5
#: A journal holds 256 durations; this is as full as it gets.
FULL = 255

MODULE_HEAD = """\
from resilient import Dependency, circuit_breaker, retry
"""
MODULE_PART = """

dependency_{number} = Dependency(
    "module-{number}",
    total_timeout=5,
    timeout=2,
    retry=retry(on=ConnectionError, wait_initial=0),
    breaker=circuit_breaker(failure_rate=0.5, window=100),
    max_concurrent=20,
)

@dependency_{number}
async def function_{number}(key: str) -> str:
    return key
"""


def make(name: str) -> tuple[Dependency, Function]:
    """Return a dependency of that name, with its guarded function."""
    dependency = Dependency(
        name,
        total_timeout=5,
        timeout=2,
        retry=retry(on=ConnectionError, wait_initial=0),
        breaker=circuit_breaker(failure_rate=0.5, window=100),
        max_concurrent=20,
    )

    @dependency
    async def function(fails: bool) -> str:
        if fails:
            raise ConnectionError("the service is down")
        return "an answer"

    return dependency, function


def use(functions: list[Function], successes: int) -> None:
    """Call each function until its window is full, with some failures, then so often again."""

    async def calls() -> None:
        for function in functions:
            for _ in range(WINDOW):
                await function(False)
            for _ in range(FAILURES):
                try:
                    await function(True)
                except ConnectionError:
                    continue
            for _ in range(successes):
                await function(False)

    asyncio.run(calls())


def making(count: int) -> dict[str, float]:
    """Return the seconds for making `count` dependencies, and for importing a module of them."""
    kept = [make("warm-up")]
    started = process_time()
    kept += [make(f"service-{number}") for number in range(count)]
    creation = process_time() - started
    with TemporaryDirectory() as folder:
        page = Path(folder) / "many_dependencies.py"
        parts = (MODULE_PART.format(number=number) for number in range(count))
        page.write_text(MODULE_HEAD + "".join(parts), encoding="utf-8")
        py_compile.compile(str(page), doraise=True)
        sys.path.insert(0, folder)
        started = process_time()
        module = importlib.import_module("many_dependencies")
        imported = process_time() - started
    assert len([name for name in vars(module) if name.startswith("function_")]) == count
    return {"creation": creation, "import": imported}


def memory(count: int, how: str) -> dict[str, float]:
    """Return the bytes that a dependency holds, `idle` or `busy`, with everything loaded before."""
    register_metrics()
    warm_up = [make(f"warm-up-{number}") for number in range(2)]
    use([function for _, function in warm_up], FULL)
    exposition()
    kept: list[Any] = [None] * count
    names = [f"service-{number}" for number in range(count)]
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(count):
        kept[number] = make(names[number])
    if how == "busy":
        use([function for _, function in kept], FULL)
    gc.collect()
    held = tracemalloc.get_traced_memory()[0] - before
    if how == "busy":
        failures = {one.breaker.measures.calls["failure"] for one, _ in kept}
        assert failures == {FAILURES}, f"{failures} failures"
    return {"bytes": held / count}


def mirror(registry: CollectorRegistry) -> CollectorRegistry:
    """Return a registry with prometheus-client's own metrics, of the same series and values."""
    kinds = {"counter": Counter, "gauge": Gauge, "histogram": Histogram}
    copy = CollectorRegistry()
    for family in registry.collect():
        if not family.samples:
            continue
        labels = _labels_of(family)
        kind = kinds[family.type]
        more: dict[str, Any] = {}
        if family.type == "histogram":
            bounds = {one.labels["le"] for one in family.samples if "le" in one.labels}
            more["buckets"] = sorted(map(float, bounds))
        metric: Any = kind(family.name, family.documentation, labels, registry=copy, **more)
        for values in {tuple(one.labels[name] for name in labels) for one in family.samples}:
            child = metric.labels(*values) if labels else metric
            (child.observe if family.type == "histogram" else child.inc)(1)
    return copy


def _labels_of(family: Any) -> list[str]:
    names: dict[str, None] = {}
    for sample in family.samples:
        names |= dict.fromkeys(sample.labels)
    names.pop("le", None)
    return list(names)


def lines_of(page: bytes) -> int:
    """Return how many series a page has."""
    return sum(not line.startswith(b"#") for line in page.splitlines())


def scrape(count: int, rounds: int) -> dict[str, Any]:
    """Return the seconds for a scrape, next to prometheus-client's own of as many series.

    `wait` is the longest that an event loop was kept waiting while another thread scraped.
    """
    kept = [make(f"service-{number}") for number in range(count)]
    use([function for _, function in kept], 0)
    for collector in list(REGISTRY._collector_to_names):
        REGISTRY.unregister(collector)
    register_metrics()
    disable_created_metrics()
    native = mirror(REGISTRY)
    ours, theirs = lines_of(exposition()[0]), lines_of(generate_latest(native))
    assert ours == theirs, f"{ours} series, and {theirs} of prometheus-client's"
    assert ours >= 20 * count, f"{ours} series of {count} dependencies"
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    gc.collect()
    gc.freeze()
    for _ in range(rounds):
        started = process_time()
        exposition()
        between = process_time()
        generate_latest(native)
        seconds["theirs"].append(process_time() - between)
        seconds["ours"].append(between - started)
    waits = [asyncio.run(longest_wait()) for _ in range(rounds)]
    return {"series": ours, **seconds, "waits": waits}


async def longest_wait() -> float:
    """Return the longest that this loop waits for its turn while a thread scrapes."""
    thread = threading.Thread(target=exposition)
    thread.start()
    longest, last = 0.0, perf_counter()
    scraping = True
    while scraping:
        scraping = thread.is_alive()
        await asyncio.sleep(0)
        now = perf_counter()
        longest, last = max(longest, now - last), now
    thread.join()
    return longest


def main(what: str, count: str, how: str = "") -> None:
    """Measure, and print what was found as JSON."""
    show_nothing()
    found = (
        making(int(count))
        if what == "making"
        else memory(int(count), how)
        if what == "memory"
        else scrape(int(count), int(how))
    )
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
