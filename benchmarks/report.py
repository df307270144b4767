"""What was found, ready to be shown or stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.contention import Speedup
from benchmarks.harness import Bench, Spread
from benchmarks.subjects import Comparison, Section

__all__ = ["Compared", "Line", "Report", "Table", "report_of"]


@dataclass(frozen=True, slots=True)
class Line:
    """One row: seconds for a call, and how many calls of the do-nothing wrapper that is."""

    name: str
    seconds: Spread
    times: Spread


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of one section."""

    title: str
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Compared:
    """One row in units of another, or of the do-nothing wrapper, with the bar if there is one."""

    row: str
    to: str | None
    times: Spread
    at_most: float | None

    @property
    def is_met(self) -> bool:
        """Whether the bar is met in the median, or there is none."""
        return self.at_most is None or self.times.median <= self.at_most


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that one run has found."""

    facts: dict[str, str]
    rounds: int
    tables: tuple[Table, ...]
    comparisons: tuple[Compared, ...]
    speedups: tuple[Speedup, ...]

    @property
    def missed(self) -> tuple[Compared, ...]:
        """The bars that are not met."""
        return tuple(one for one in self.comparisons if not one.is_met)

    def as_data(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON."""
        return asdict(self)


def report_of(
    bench: Bench,
    sections: Sequence[Section],
    comparisons: Sequence[Comparison],
    speedups: Sequence[Speedup],
    *,
    facts: dict[str, str],
    rounds: int,
) -> Report:
    """Put together what was measured."""
    tables = tuple(
        Table(
            section.title,
            tuple(
                Line(name, bench.seconds(name), bench.times(name))
                for name in (row.subject.name for row in section.rows)
            ),
        )
        for section in sections
    )
    compared = tuple(
        Compared(one.row, one.to, bench.times(one.row, one.to), one.at_most) for one in comparisons
    )
    return Report(facts, rounds, tables, compared, tuple(speedups))
