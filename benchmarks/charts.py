"""One picture for each table: bars on a logarithmic scale, with the quartiles.

The same figures give the same file, whose description says which figures they are. There is no
background, and the text is of a grey that can be read on white and on black.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.markdown import amount
from benchmarks.report import Bar, Line, Report, Table
from benchmarks.spread import Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["digest", "draw", "pictured"]

TEXT = "#808080"
COLOURS = {"ours": "#2a7fd4", "unit": "#808080", "other": "#c08a3e"}
INCHES_A_LINE, INCHES_AROUND, INCHES_WIDE = 0.24, 0.9, 9.0
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "resilient",
    "font.size": 9,
    "text.color": TEXT,
    "axes.edgecolor": TEXT,
    "axes.labelcolor": TEXT,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
}


def digest(table: Table) -> str:
    """Return what tells the figures of one table from others."""
    return sha256(json.dumps(asdict(table), sort_keys=True).encode()).hexdigest()


def draw(report: Report, folder: Path) -> None:
    """Write the picture of each table into `folder`, in place of those that are there."""
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.svg"):
        old.unlink()
    for table in pictured(report):
        _draw(table, folder / f"{table.name}.svg")


def pictured(report: Report) -> tuple[Table, ...]:
    """Return what there is a picture of: the bars, as shares of what they may be, and all tables.

    A share of up to 1 is met, whether a bar is to be reached from above or from below.
    """
    lines = tuple(
        Line(f"{bar.row} / {bar.to}" if bar.to else bar.row, _share(bar), kind=_kind(bar))
        for bar in report.bars
    )
    return (Table("bars", "Bars: 1 or less is met", "times", "the bar", "", lines), *report.tables)


def _kind(bar: Bar) -> str:
    return "ours" if bar.is_met else "other"


def _share(bar: Bar) -> Spread:
    found = bar.found
    if bar.at_least is not None:
        return Spread(*(bar.at_least / one for one in (found.high, found.median, found.low)))
    assert bar.at_most is not None
    return Spread(*(one / bar.at_most for one in (found.low, found.median, found.high)))


def _draw(table: Table, path: Path) -> None:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        height = INCHES_AROUND + INCHES_A_LINE * len(table.lines)
        figure = Figure(figsize=(INCHES_WIDE, height), layout="constrained")
        _fill(figure.add_subplot(), table)
        what: dict[str, Any] = {"Date": None, "Creator": None, "Description": digest(table)}
        figure.savefig(path, format="svg", transparent=True, metadata=what)
    # matplotlib leaves blanks at the ends of lines.
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(map(str.rstrip, lines)) + "\n", encoding="utf-8")


def _fill(axes: Axes, table: Table) -> None:
    shown = [_shown(line, table) for line in table.lines]
    medians = [spread.median for spread, _ in shown]
    errors = [
        [spread.median - spread.low for spread, _ in shown],
        [spread.high - spread.median for spread, _ in shown],
    ]
    places = range(len(shown))
    axes.barh(
        places,
        medians,
        xerr=errors,
        color=[COLOURS[line.kind] for line in table.lines],
        ecolor=TEXT,
        height=0.7,
    )
    axes.set_yticks(places, [line.name for line in table.lines])
    axes.margins(y=0.01)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(min(medians) / 2, max(medians) * 4)
    axes.set_xlabel(_label(table))
    axes.set_title(table.title, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    for place, (spread, unit) in enumerate(shown):
        axes.annotate(
            amount(spread.median, unit),
            (spread.high, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
        )


def _is_compared(table: Table) -> bool:
    return all(line.times is not None for line in table.lines)


def _shown(line: Line, table: Table) -> tuple[Spread, str]:
    """Return what is drawn of a line: how many times something else, where all lines have that."""
    if line.times is not None and _is_compared(table):
        return line.times, "times"
    return line.value, table.unit


def _label(table: Table) -> str:
    if _is_compared(table):
        return f"times {table.times_of}"
    if table.unit == "times":
        return f"times {table.of}"
    return f"{table.unit} {table.of}".strip()
