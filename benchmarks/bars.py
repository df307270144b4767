"""The bars that are to be met, and how far from each a run fails.

A run fails where a bar that once was met is missed by a margin that no machine explains. Everything
else is told, and nothing is hidden.
"""

from __future__ import annotations

from benchmarks import caching
from benchmarks.contention import THREADS
from benchmarks.findings import OURS_CONTENDED, Findings
from benchmarks.peers.limits import ASYNCIO_TIMEOUT, EXECUTOR, PYRESILIENCE
from benchmarks.peers.stacks import TENACITY_AROUND_PYBREAKER
from benchmarks.report import Bar
from benchmarks.rows import failing
from benchmarks.rows.failing import rejections_of_peers
from benchmarks.rows.success import CACHED, LIMITED_ASYNC, STACK, STACK_ASYNC, TIMEOUT
from benchmarks.rows.telling import BY_HAND, OBSERVED, WITHOUT_METRICS
from benchmarks.rows.windows import window_of
from benchmarks.spread import Spread

__all__ = ["bars"]

KIB = 1024
UNIT, UNIT_ASYNC = "do-nothing wrapper", "do-nothing wrapper, async"


def bars(found: Findings) -> tuple[Bar, ...]:
    """Return every bar with what was found."""
    calls = found.calls

    def bar(
        row: str, to: str | None, at_most: float, fails_beyond: float | None = None, unit: str = ""
    ) -> Bar:
        shown = to or unit or UNIT
        spread = calls.times(row, to)
        return Bar(row, shown, spread, at_most=at_most, fails_beyond=fails_beyond)

    return (
        bar(STACK, None, 3.0, 4.0),
        bar(STACK, "circuitbreaker: breaker alone", 1.0, 1.25),
        bar(STACK, "pybreaker: breaker alone", 1 / 4, 1 / 2),
        bar(STACK, TENACITY_AROUND_PYBREAKER, 1 / 35, 1 / 20),
        bar(CACHED, None, 7.0, 10.0),
        *_kept(found),
        bar(STACK_ASYNC, None, 2.5, 3.5, UNIT_ASYNC),
        bar(LIMITED_ASYNC, ASYNCIO_TIMEOUT, 0.45, 0.75),
        bar(TIMEOUT, EXECUTOR, 0.75),
        bar(TIMEOUT, PYRESILIENCE, 0.5),
        *(
            bar(ours, calls.fastest(rejections_of_peers(found.sections, ours)), 1.0)
            for ours in (
                failing.OPEN,
                failing.OPEN_WITH_DEFAULT,
                failing.OPEN_ASYNC,
                failing.OPEN_WITH_DEFAULT_ASYNC,
            )
        ),
        bar(failing.ATTEMPTS, f"tenacity: {failing.ATTEMPTS}", 1 / 20),
        bar(failing.ATTEMPTS_ASYNC, f"tenacity: {failing.ATTEMPTS_ASYNC}", 1 / 20),
        Bar(
            f"{THREADS} threads x 20 ms through one breaker",
            "one thread",
            Spread.of(found.contended[OURS_CONTENDED]),
            at_least=7.5,
            fails_beyond=4.0,
        ),
        bar(OBSERVED, BY_HAND, 1.0, 3.0),
        bar(STACK, WITHOUT_METRICS, 1.15, 1.5),
        bar(window_of(100_000), window_of(10), 1.1, 1.5),
        Bar(
            "scrape of 1,000 dependencies, off the event loop",
            "prometheus-client's own of as many series",
            Spread.of_ratios(found.scrapes[1_000]["ours"], found.scrapes[1_000]["theirs"]),
            at_most=1.0,
        ),
        Bar(
            "memory of an idle dependency, with one guarded function",
            "",
            Spread.of([found.idle[1_000]]),
            unit="bytes",
            at_most=8 * KIB,
            fails_beyond=32 * KIB,
        ),
        Bar(
            "memory of a busy dependency",
            "",
            Spread.of([found.busy[1_000]]),
            unit="bytes",
            at_most=40 * KIB,
            fails_beyond=80 * KIB,
        ),
        Bar(
            "import resilient",
            "import tenacity",
            Spread.of_ratios(found.imports["resilient"], found.imports["tenacity"]),
            at_most=0.6,
            fails_beyond=1.2,
        ),
    )


def _kept(found: Findings) -> list[Bar]:
    """Return what keeping an answer adds to a call; Redis only where there is one."""
    limits = {caching.MEMORY: 4.0, caching.REDIS: 6.0}
    return [
        Bar(
            f"{row}, more than without",
            UNIT,
            caching.added(found.kept, row),
            at_most=at_most,
            fails_beyond=2 * at_most,
        )
        for row, at_most in limits.items()
        if row in found.kept.units
    ]
