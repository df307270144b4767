"""Measure what a guarded call costs: `python benchmarks/run.py [--quick] [--json FILE]`.

The exit status is 1 if a bar is not met in the median.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from benchmarks.contention import speedups
from benchmarks.facts import facts
from benchmarks.harness import Bench
from benchmarks.report import Report, report_of
from benchmarks.rows import BREAKERS, COMPARISONS, sections
from benchmarks.subjects import UNIT, UNIT_ASYNC, Section
from benchmarks.table import markdown

__all__ = ["main"]


@dataclass(frozen=True, slots=True)
class Effort:
    """How much time is spent."""

    rounds: int
    sample_seconds: float
    speedup_rounds: int
    speedup_calls: int


QUICK = Effort(rounds=60, sample_seconds=0.004, speedup_rounds=1, speedup_calls=15)
FULL = Effort(rounds=300, sample_seconds=0.008, speedup_rounds=5, speedup_calls=25)


def main(arguments: Sequence[str] | None = None) -> int:
    """Show that everything works, measure it, print the tables, and return the exit status."""
    parser = argparse.ArgumentParser(description="Measure what a guarded call costs.")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found there too")
    options = parser.parse_args(arguments)
    # As in a service that shows nothing below this: events are made, and filtered by structlog.
    level = structlog.make_filtering_bound_logger(logging.CRITICAL)
    structlog.configure(wrapper_class=level, cache_logger_on_first_use=True)
    logging.disable(logging.CRITICAL)
    report = measured(QUICK if options.quick else FULL)
    print(markdown(report))
    if options.json is not None:
        options.json.write_text(json.dumps(report.as_data(), indent=2) + "\n", encoding="utf-8")
    for one in report.missed:
        print(
            f"\nNot met: {one.row} costs {one.times.median:.2f} times "
            f"{one.to or 'the do-nothing wrapper'}, and may cost {one.at_most:g} times it",
            file=sys.stderr,
        )
    return 1 if report.missed else 0


def measured(effort: Effort) -> Report:
    """Show that everything does its work, then measure it."""
    made = sections()
    _prove(made)
    bench = Bench()
    bench.run(
        [row.subject for section in made for row in section.rows],
        unit=UNIT,
        unit_async=UNIT_ASYNC,
        rounds=effort.rounds,
        sample_seconds=effort.sample_seconds,
    )
    through_one = speedups(BREAKERS, rounds=effort.speedup_rounds, calls=effort.speedup_calls)
    return report_of(bench, made, COMPARISONS, through_one, facts=facts(), rounds=effort.rounds)


def _prove(made: Sequence[Section]) -> None:
    for section in made:
        for row in section.rows:
            for proof in row.proofs:
                proof()


if __name__ == "__main__":
    sys.exit(main())
