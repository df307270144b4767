"""What was found as Markdown: for the terminal, and for the page of the documentation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.report import Bar, Report, Table
from benchmarks.spread import Spread

__all__ = ["amount", "markdown", "page_with"]

BEGIN = "<!-- measured: what `make bench` writes begins here -->"
END = "<!-- measured: what `make bench` writes ends here -->"


def markdown(report: Report, *, pictures: str | None = None) -> str:
    """Return the bars, all tables, and what they were measured with.

    `pictures` is the folder of the tables' charts, if they are to be shown.
    """
    shown = [("bars", "Bars", _bars(report.bars))]
    shown += [(table.name, table.title, _table(table)) for table in report.tables]
    parts = [_facts(report)]
    for name, title, grid in shown:
        parts += [f"### {title}", grid]
        if pictures is not None:
            parts.append(f"![{title}]({pictures}/{name}.svg)")
    return "\n\n".join(parts)


def page_with(page: str, report: Report, *, pictures: str) -> str:
    """Return `page` with what was found between its two marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin, "the page has no place for the tables"
    assert end, "the page does not say where the tables end"
    return f"{before}{BEGIN}\n\n{markdown(report, pictures=pictures)}\n\n{END}{after}"


def _facts(report: Report) -> str:
    listed = ", ".join(f"{name} {value}" for name, value in report.facts.items())
    return f"Measured with {listed}; medians of {report.rounds} rounds, and quartiles."


def _bars(bars: Sequence[Bar]) -> str:
    rows = (
        (bar.row, bar.to, _spread(bar.found, bar.unit), _bar(bar), _verdict(bar)) for bar in bars
    )
    met = sum(one.is_met for one in bars)
    header = ("row", "next to", "found", "bar", f"{met} of {len(bars)} met")
    return _grid(header, rows, texts=2)


def _verdict(bar: Bar) -> str:
    return "met" if bar.is_met else "MISSED"


def _bar(bar: Bar) -> str:
    if bar.at_least is not None:
        return f"at least {amount(bar.at_least, bar.unit)}"
    assert bar.at_most is not None
    return f"at most {amount(bar.at_most, bar.unit)}"


def _table(table: Table) -> str:
    header = [table.title, f"{table.of or 'time'}"]
    if table.unit == "times":
        header[1] = f"x {table.of}"
    compared = any(line.times is not None for line in table.lines)
    if compared:
        header.append(f"x {table.times_of}")
    rows: list[list[str]] = []
    for line in table.lines:
        if line.times is not None:
            cells = [amount(line.value.median, table.unit), _spread(line.times)]
        else:
            cells = [_spread(line.value, table.unit), *([""] if compared else [])]
        rows.append([line.name, *cells])
    return _grid(header, rows)


def _grid(header: Sequence[str], rows: Iterable[Sequence[str]], *, texts: int = 1) -> str:
    """Return a table of which the first `texts` columns are text, and the others numbers."""
    rule = ["---"] * texts + ["---:"] * (len(header) - texts)
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, rule, *rows))


def _spread(spread: Spread, unit: str = "times") -> str:
    if spread.low == spread.high:
        return amount(spread.median, unit)
    low, middle, high = (
        amount(one, unit, like=spread.median) for one in (spread.low, spread.median, spread.high)
    )
    return f"{middle} ({low} to {high})"


def amount(value: float, unit: str, *, like: float | None = None) -> str:
    """Return `value` in the unit in which it, or `like`, is read most easily."""
    like = value if like is None else like
    if unit == "bytes":
        return f"{value / 1024:.1f} KiB"
    if unit == "times":
        return f"{value:,.{_digits(like)}f}"
    for limit, factor, name in ((0.995e-6, 1e9, "ns"), (0.995e-3, 1e6, "us"), (0.995, 1e3, "ms")):
        if like < limit:
            digits = 0 if name == "ns" else _digits(like * factor)
            return f"{value * factor:.{digits}f} {name}"
    return f"{value:.2f} s"


def _digits(value: float) -> int:
    """Return how many digits behind the point mean something."""
    return 3 - sum(value >= limit for limit in (0.0995, 9.95, 99.5))
