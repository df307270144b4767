"""What keeping answers adds to a call: in memory, and in Redis, whose writes are counted apart.

Run it alone with `python -m benchmarks.caching`.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import ours
from benchmarks.harness import ARGUMENT, Bench
from benchmarks.rows.row import unit_of
from benchmarks.services import answer
from benchmarks.spread import Spread
from resilient import RedisStore, cached, with_fallback
from resilient.degrade.stores.counts import Counts
from tests.servers import RedisServer

__all__ = ["MEMORY", "REDIS", "added", "measured"]

Function = Callable[..., Any]

PLAIN = "breaker alone"
MEMORY = "cached in memory + breaker"
REDIS = "cached in Redis + breaker"


def measured(*, rounds: int = 60, sample_seconds: float = 0.004) -> Bench:
    """Measure a call as it is, with its answers kept in memory, and with them kept in Redis."""
    unit = unit_of(is_async=False)
    bench = Bench()
    with _redis() as store:
        subjects = [
            unit.beside(PLAIN, ours.breaker_alone(answer), is_ours=True),
            unit.beside(MEMORY, ours.cached_alone(ours.breaker_alone(answer)), is_ours=True),
        ]
        if store is not None:
            kept = _cached_in(store)(ours.breaker_alone(answer))
            subjects.append(unit.beside(REDIS, kept, is_ours=True))
        for subject in subjects:
            assert subject.call(ARGUMENT) == ARGUMENT
        bench.run(subjects, rounds=rounds, sample_seconds=sample_seconds)
    return bench


def added(bench: Bench, row: str, to: str = PLAIN) -> Spread:
    """Return how many calls of the do-nothing wrapper `row` takes more than another one."""
    pairs = zip(bench.units[row], bench.units[to], strict=True)
    return Spread.of([one - other for one, other in pairs])


def _cached_in(store: RedisStore) -> Callable[[Function], Function]:
    return with_fallback(cached(ttl=ours.FOR_LONG, key="answer:{key}", store=store))


@contextmanager
def _redis() -> Generator[RedisStore | None]:
    """Run a Redis of our own, where there is one."""
    program = shutil.which("redis-server")
    if program is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder, RedisServer(program, Path(folder)) as server:
        store = RedisStore(server.url, name="benchmark")
        yield store
        store.close()


def main() -> None:
    """Print what was found."""
    bench = measured()
    for row in (MEMORY, REDIS):
        if row in bench.units:
            spread = added(bench, row)
            print(f"{row}: adds {spread.median:.2f} ({spread.low:.2f} to {spread.high:.2f}) units")
    if REDIS in bench.units:
        spread = added(bench, REDIS, MEMORY)
        print(f"Redis next to memory: {spread.median:.2f} units more")
        print(f"written meanwhile: {Counts.of('benchmark')['written']}")


if __name__ == "__main__":
    main()
