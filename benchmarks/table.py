"""What was found as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.contention import CALL_SECONDS, THREADS
from benchmarks.harness import Spread
from benchmarks.report import Compared, Report, Table

__all__ = ["markdown"]


def markdown(report: Report) -> str:
    """Return all tables, and what they were measured with."""
    parts = [_facts(report), *map(_section, report.tables)]
    if report.speedups:
        parts.append(_speedups(report))
    parts.append(_comparisons(report.comparisons))
    return "\n\n".join(parts)


def _facts(report: Report) -> str:
    listed = ", ".join(f"{name} {value}" for name, value in report.facts.items())
    return f"Measured with {listed}; medians of {report.rounds} rounds, and quartiles."


def _section(table: Table) -> str:
    rows = ((one.name, _time(one.seconds.median), _times(one.times)) for one in table.lines)
    return _grid((table.title, "a call", "x do-nothing wrapper"), rows)


def _speedups(report: Report) -> str:
    title = f"{THREADS} threads x {CALL_SECONDS * 1000:.0f} ms through one breaker"
    return _grid(
        (title, "x one thread"), ((one.name, _times(one.times)) for one in report.speedups)
    )


def _comparisons(comparisons: Sequence[Compared]) -> str:
    unit = "do-nothing wrapper"
    rows = ((one.row, one.to or unit, _times(one.times), _bar(one)) for one in comparisons)
    return _grid(("a call of", "in calls of", "times", "bar"), rows, texts=2)


def _bar(one: Compared) -> str:
    if one.at_most is None:
        return ""
    return f"at most {one.at_most:g}: {'met' if one.is_met else 'NOT met'}"


def _grid(header: Sequence[str], rows: Iterable[Sequence[str]], *, texts: int = 1) -> str:
    """Return a table of which the first `texts` columns are text, and the others numbers."""
    rule = ["---"] * texts + ["---:"] * (len(header) - texts)
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, rule, *rows))


def _times(spread: Spread) -> str:
    limits = (0.0995, 9.95, 99.5)
    digits = 3 - sum(spread.median >= limit for limit in limits)
    low, middle, high = (f"{one:.{digits}f}" for one in (spread.low, spread.median, spread.high))
    return f"{middle} ({low} to {high})"


def _time(seconds: float) -> str:
    """Return a duration in the unit in which it is read most easily."""
    if seconds < 0.995e-6:
        return f"{seconds * 1e9:.0f} ns"
    return f"{seconds * 1e6:.2f} us" if seconds < 9.95e-6 else f"{seconds * 1e6:.1f} us"
