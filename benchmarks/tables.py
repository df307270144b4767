"""What was found, put together in tables."""

from __future__ import annotations

from benchmarks.contention import CALL_SECONDS, THREADS
from benchmarks.findings import Findings
from benchmarks.report import Line, Table
from benchmarks.rows.row import Section
from benchmarks.spread import Spread

__all__ = ["tables"]


def tables(found: Findings) -> tuple[Table, ...]:
    """Return every table, in the order in which they are shown."""
    return (
        *(_calls(section, found) for section in found.sections),
        _contended(found),
        _imports(found),
        _uses(found),
        _making(found),
        _memory(found),
        _scrapes(found),
    )


def _calls(section: Section, found: Findings) -> Table:
    lines = []
    for subject in (row.subject for row in section.rows):
        kind = "ours" if subject.is_ours else "unit" if subject.unit is None else "other"
        seconds, times = found.calls.seconds(subject.name), found.calls.times(subject.name)
        lines.append(Line(subject.name, seconds, times, kind))
    return Table(
        section.name, section.title, "seconds", "a call", "do-nothing wrapper", tuple(lines)
    )


def _contended(found: Findings) -> Table:
    title = f"{THREADS} threads x {CALL_SECONDS * 1000:.0f} ms through one breaker"
    lines = (
        Line(name, Spread.of(times), kind="ours" if name == "resilient" else "other")
        for name, times in found.contended.items()
    )
    return Table("contention", title, "times", "calls of one thread", "", tuple(lines))


def _imports(found: Findings) -> Table:
    to = found.imports["tenacity"]
    lines = (
        Line(
            f"import {name}",
            Spread.of(seconds),
            Spread.of_ratios(seconds, to),
            "ours" if name == "resilient" else "other",
        )
        for name, seconds in found.imports.items()
    )
    return Table(
        "imports",
        "Import in a fresh process",
        "seconds",
        "of the processor",
        "import tenacity",
        tuple(lines),
    )


def _uses(found: Findings) -> Table:
    lines = (Line(name, Spread.of(taken), kind="ours") for name, taken in found.uses.items())
    title = "First use in a fresh process, after the import"
    return Table("first-use", title, "seconds", "of the processor", "", tuple(lines))


def _making(found: Findings) -> Table:
    lines = (
        Line(
            f"{shown} {count:,} of them",
            Spread.of([one[what] / count for one in rounds]),
            kind="ours",
        )
        for what, shown in (("creation", "creation,"), ("import", "import of a module with"))
        for count, rounds in found.making.items()
    )
    return Table(
        "making", "Making dependencies", "seconds", "of the processor, each", "", tuple(lines)
    )


def _memory(found: Findings) -> Table:
    lines = (
        Line(f"{how}, {count:,} of them", Spread.of([held]), kind="ours")
        for how, by_count in (("idle", found.idle), ("busy", found.busy))
        for count, held in by_count.items()
    )
    title = "Memory of a dependency with one guarded function"
    return Table("memory", title, "bytes", "each", "", tuple(lines))


def _scrapes(found: Findings) -> Table:
    lines: list[Line] = []
    for count, one in found.scrapes.items():
        who = f"{count:,} dependencies, {one['series']:,} series"
        lines += [
            Line(who, Spread.of(one["ours"]), Spread.of_ratios(one["ours"], one["theirs"]), "ours"),
            Line(f"prometheus-client's own of {one['series']:,} series", Spread.of(one["theirs"])),
            Line(f"longest wait of an event loop meanwhile, {count:,}", Spread.of(one["waits"])),
        ]
    return Table(
        "scrape", "A scrape", "seconds", "of the processor", "prometheus-client's own", tuple(lines)
    )
