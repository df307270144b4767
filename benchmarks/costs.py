"""The few figures that the README shows, taken from what `make bench ARGS=--write` has stored."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.markdown import amount
from benchmarks.report import Report

__all__ = ["costs", "readme_with"]

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results.json"
BEGIN, END = "<!-- costs: begin -->", "<!-- costs: end -->"
TODAY = "fallback + retry + breaker (100 calls) + metrics"

#: What is shown: in words, the table and row of it, and what it is shown next to.
SHOWN = (
    (
        "a call that succeeds, through fallback, retry, breaker and metrics",
        ("success", TODAY),
        (
            ("do-nothing wrapper", "a wrapper that does nothing"),
            ("circuitbreaker: breaker alone", "circuitbreaker, the breaker alone"),
            ("tenacity around pybreaker", "tenacity around pybreaker"),
        ),
    ),
    (
        "the same, `async`",
        ("success-async", f"{TODAY}, async"),
        (("do-nothing wrapper, async", "a wrapper that does nothing"),),
    ),
    (
        "a call while the circuit is open, with a default served",
        ("default-sync", "open circuit, default served"),
        (("circuitbreaker: open circuit, default served", "circuitbreaker"),),
    ),
    (
        "a hard time limit on a synchronous call",
        ("limits", "timeout, sync"),
        (("ThreadPoolExecutor.submit().result()", "`ThreadPoolExecutor`"),),
    ),
    (
        "`import resilient`",
        ("imports", "import resilient"),
        (("import tenacity", "`import tenacity`"),),
    ),
    ("memory of a dependency that is used", ("memory", "busy, 1,000 of them"), ()),
)


def costs(report: Report) -> str:
    """Return the rows of the README's table."""
    found = {
        (table.name, line.name): amount(line.value.median, table.unit)
        for table in report.tables
        for line in table.lines
    }
    lines = []
    for what, (table, row), others in SHOWN:
        beside = "; ".join(f"{name}: {found[table, other]}" for other, name in others)
        lines.append(f"| {what} | {found[table, row]} | {beside} |")
    return "\n".join(lines)


def readme_with(readme: str, report: Report) -> str:
    """Return `readme` with the table between its two marks."""
    before, _, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert end, "the README has no place for the costs"
    head = "| what it costs, measured by `make bench` | here | next to |\n|---|---:|---|"
    return f"{before}{BEGIN}\n{head}\n{costs(report)}\n{END}{after}"


if __name__ == "__main__":
    stored = Report.from_data(json.loads(RESULTS.read_text(encoding="utf-8")))
    README.write_text(readme_with(README.read_text(encoding="utf-8"), stored), encoding="utf-8")
