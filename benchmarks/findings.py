"""Everything that is measured, in the order in which it is: it takes minutes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

from benchmarks import caching, fresh, ours
from benchmarks.contention import speedups
from benchmarks.harness import Bench
from benchmarks.peers.breakers import BREAKERS
from benchmarks.rows.crowded import tasks, threads
from benchmarks.rows.failing import attempts, rejections
from benchmarks.rows.row import Section
from benchmarks.rows.success import limits, success, success_async
from benchmarks.rows.telling import telling
from benchmarks.rows.windows import windows

__all__ = ["FULL", "OURS_CONTENDED", "QUICK", "Effort", "Findings", "measured"]

OURS_CONTENDED = "resilient"
SCALES = (1, 10, 100, 1_000, 10_000)


@dataclass(frozen=True, slots=True)
class Effort:
    """How much time is spent."""

    rounds: int
    sample_seconds: float
    crowd_rounds: int
    speedup_rounds: int
    speedup_calls: int
    import_rounds: int
    scrape_rounds: int
    most_dependencies: int


QUICK = Effort(
    rounds=30,
    sample_seconds=0.001,
    crowd_rounds=3,
    speedup_rounds=1,
    speedup_calls=8,
    import_rounds=3,
    scrape_rounds=3,
    most_dependencies=1_000,
)
FULL = Effort(
    rounds=200,
    sample_seconds=0.002,
    crowd_rounds=12,
    speedup_rounds=5,
    speedup_calls=15,
    import_rounds=11,
    scrape_rounds=3,
    most_dependencies=10_000,
)


@dataclass(frozen=True, slots=True)
class Findings:
    """All samples of one run.

    `making`, `idle`, `busy` and `scrapes` are by the number of dependencies.
    """

    effort: Effort
    sections: tuple[Section, ...]
    calls: Bench
    contended: dict[str, list[float]]
    imports: dict[str, list[float]]
    uses: dict[str, list[float]]
    making: dict[int, list[dict[str, float]]]
    idle: dict[int, float]
    busy: dict[int, float]
    scrapes: dict[int, dict[str, Any]]
    #: Calls whose answers are kept, next to the same ones without.
    kept: Bench


def measured(effort: Effort) -> Findings:
    """Show that everything does its work, then measure it."""
    tell = _Progress()
    alone = (
        success(),
        success_async(),
        limits(),
        *rejections(is_async=False),
        *rejections(is_async=True),
        attempts(is_async=False),
        attempts(is_async=True),
        windows(),
        telling(),
    )
    crowded = (threads(), tasks())
    tell("that everything does its work")
    for section in (*alone, *crowded):
        _prove(section)
    bench = Bench()
    tell("calls")
    bench.run(_subjects(alone), rounds=effort.rounds, sample_seconds=effort.sample_seconds)
    tell("calls of many threads and tasks")
    bench.run(_subjects(crowded), rounds=effort.crowd_rounds, sample_seconds=effort.sample_seconds)
    tell("keeping answers")
    kept = caching.measured(rounds=effort.rounds, sample_seconds=effort.sample_seconds)
    tell("contention on one breaker")
    breakers: dict[str, Callable[..., Any]] = {OURS_CONTENDED: ours.breaker_alone}
    breakers |= {peer.name: peer.make for peer in BREAKERS if False in peer.colours}
    contended = speedups(breakers, rounds=effort.speedup_rounds, calls=effort.speedup_calls)
    tell("imports in fresh processes")
    imports = fresh.seconds_of_statements(fresh.IMPORTS, rounds=effort.import_rounds)
    tell("the first use of each part")
    uses = fresh.seconds_of_statements(
        fresh.USES, rounds=effort.import_rounds, setup="import resilient"
    )
    tell("many dependencies")
    counts = [count for count in SCALES if count <= effort.most_dependencies]
    making = {
        count: [_scale("making", count) for _ in range(_rounds(count, 3))] for count in counts
    }
    idle = {count: _scale("memory", count, "idle")["bytes"] for count in counts}
    busy = {count: _scale("memory", count, "busy")["bytes"] for count in counts if count <= 1_000}
    tell("scrapes")
    scrapes = {
        count: _scale("scrape", count, str(_rounds(count, effort.scrape_rounds)))
        for count in counts
        if count > 1
    }
    tell("done")
    return Findings(
        effort,
        (*alone, *crowded),
        bench,
        contended,
        imports,
        uses,
        making,
        idle,
        busy,
        scrapes,
        kept,
    )


def _subjects(sections: Sequence[Section]) -> list[Any]:
    return [row.subject for section in sections for row in section.rows]


def _prove(section: Section) -> None:
    for row in section.rows:
        for proof in row.proofs:
            try:
                proof()
            except Exception as error:
                error.add_note(f"while showing that this does its work: {row.subject.name}")
                raise


def _rounds(count: int, rounds: int) -> int:
    """Return fewer rounds for what takes most of a minute."""
    return min(2, rounds) if count > 1_000 else rounds


def _scale(what: str, count: int, how: str = "") -> dict[str, Any]:
    found: dict[str, Any] = fresh.in_fresh_process(
        "-m", "benchmarks.scale", what, str(count), *filter(None, [how])
    )
    return found


class _Progress:
    """Tells on the standard error output what is being measured."""

    def __init__(self) -> None:
        self._started = monotonic()

    def __call__(self, what: str) -> None:
        print(f"{monotonic() - self._started:4.0f} s: {what}", file=sys.stderr)
