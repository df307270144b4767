"""Measure what a guarded call costs: `python benchmarks/run.py [--quick] [--write]`.

The exit status is 1 if a bar is missed by far; what is missed is told in any case.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.bars import bars
from benchmarks.charts import draw
from benchmarks.costs import README, readme_with
from benchmarks.facts import facts
from benchmarks.findings import FULL, QUICK, measured
from benchmarks.markdown import amount, markdown, page_with
from benchmarks.quiet import show_nothing
from benchmarks.report import Bar, Report
from benchmarks.tables import tables

__all__ = ["PAGE", "PICTURES", "RESULTS", "main"]

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results.json"
PAGE = ROOT / "docs" / "performance.md"
PICTURES = ROOT / "docs" / "benchmarks"


def main(arguments: Sequence[str] | None = None) -> int:
    """Show that everything works, measure it, print the tables, and return the exit status."""
    parser = argparse.ArgumentParser(description="Measure what a guarded call costs.")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found there too")
    parser.add_argument(
        "--write", action="store_true", help="put it into the documentation, with its charts"
    )
    parser.add_argument(
        "--render", action="store_true", help="only make the documentation's part of it anew"
    )
    options = parser.parse_args(arguments)
    if options.render:
        render(Report.from_data(json.loads(RESULTS.read_text(encoding="utf-8"))))
        return 0
    show_nothing()
    effort = QUICK if options.quick else FULL
    found = measured(effort)
    report = Report(facts(), effort.rounds, bars(found), tables(found))
    print(markdown(report))
    for path in (options.json, RESULTS if options.write else None):
        if path is not None:
            path.write_text(json.dumps(report.as_data(), indent=1) + "\n", encoding="utf-8")
    if options.write:
        render(report)
    for bar in report.bars:
        if not bar.is_met:
            print(f"Missed: {described(bar)}", file=sys.stderr)
    return 1 if any(bar.fails for bar in report.bars) else 0


def render(report: Report) -> None:
    """Put the tables and their charts into the documentation."""
    page = page_with(PAGE.read_text(encoding="utf-8"), report, pictures=PICTURES.name)
    PAGE.write_text(page, encoding="utf-8")
    README.write_text(readme_with(README.read_text(encoding="utf-8"), report), encoding="utf-8")
    draw(report, PICTURES)


def described(bar: Bar) -> str:
    """Return what was found and what the bar is, in one sentence."""
    found = amount(bar.found.median, bar.unit)
    limit = f"at most {amount(bar.at_most, bar.unit)}" if bar.at_most is not None else ""
    if bar.at_least is not None:
        limit = f"at least {amount(bar.at_least, bar.unit)}"
    to = f" next to {bar.to}" if bar.to else ""
    return f"{bar.row}{to}: {found}, and is to be {limit}{', by far' if bar.fails else ''}"


if __name__ == "__main__":
    sys.exit(main())
