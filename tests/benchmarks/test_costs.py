"""The costs in the README are those that were measured."""

from __future__ import annotations

import json

from benchmarks.costs import README, RESULTS, SHOWN, costs, readme_with
from benchmarks.report import Report

STORED = Report.from_data(json.loads(RESULTS.read_text(encoding="utf-8")))


def test_the_table_of_costs_agrees_with_the_results() -> None:
    """The README is what it would be if the table were made anew from the stored results."""
    readme = README.read_text(encoding="utf-8")
    assert readme_with(readme, STORED) == readme


def test_each_cost_has_a_row_with_a_unit() -> None:
    """No figure stands there without what it is in."""
    rows = costs(STORED).splitlines()
    assert len(rows) == len(SHOWN)
    assert all(row.split(" | ")[1].split()[1] in ("ns", "us", "ms", "KiB") for row in rows)
