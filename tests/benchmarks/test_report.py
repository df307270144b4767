"""What is shown of what was found, and that the documentation shows what is stored."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from benchmarks.charts import digest, pictured
from benchmarks.markdown import BEGIN, END, amount, markdown, page_with
from benchmarks.report import Bar, Line, Report, Table
from benchmarks.spread import Spread
from tests.project.tree import ROOT

RESULTS = ROOT / "benchmarks" / "results.json"
PAGE = ROOT / "docs" / "performance.md"
PICTURES = ROOT / "docs" / "benchmarks"

SPREAD = Spread(1.0, 4.0, 9.0)


def reported(*bars: Bar, lines: tuple[Line, ...] = ()) -> Report:
    """Return a report of these bars, and of one table."""
    table = Table("success", "Success", "seconds", "a call", "do-nothing wrapper", lines)
    return Report({"Python": "3"}, 3, bars, (table,))


def test_a_bar_is_met_up_to_its_value() -> None:
    """The median decides, and a bar that it just reaches is met."""
    assert Bar("a", "b", SPREAD, at_most=4.0).is_met
    assert not Bar("a", "b", SPREAD, at_most=3.99).is_met
    assert Bar("a", "b", SPREAD, at_least=4.0).is_met
    assert not Bar("a", "b", SPREAD, at_least=4.01).is_met


@pytest.mark.parametrize(
    ("limits", "fails"),
    [
        ({"at_most": 3.0}, False),
        ({"at_most": 3.0, "fails_beyond": 4.0}, False),
        ({"at_most": 3.0, "fails_beyond": 3.9}, True),
        ({"at_least": 7.5, "fails_beyond": 4.0}, False),
        ({"at_least": 7.5, "fails_beyond": 4.1}, True),
    ],
)
def test_a_run_fails_only_far_beyond_a_bar(limits: dict[str, Any], fails: bool) -> None:
    """A bar that is missed is told, and fails the run only beyond its margin."""
    bar = Bar("a", "b", SPREAD, **limits)

    assert not bar.is_met
    assert bar.fails == fails


def test_every_bar_is_said_to_be_met_or_missed() -> None:
    """A table in front of all others says so plainly, and counts."""
    report = reported(
        Bar("a", "do-nothing wrapper", SPREAD, at_most=3.0),
        Bar("b", "one thread", Spread.of([7.97]), at_least=7.5),
        Bar("c", "", Spread.of([10240.0]), unit="bytes", at_most=8192.0),
    )

    shown = markdown(report)

    assert "| row | next to | found | bar | 1 of 3 met |" in shown
    assert "| a | do-nothing wrapper | 4.00 (1.00 to 9.00) | at most 3.00 | MISSED |" in shown
    assert "| b | one thread | 7.97 | at least 7.50 | met |" in shown
    assert "| c |  | 10.0 KiB | at most 8.0 KiB | MISSED |" in shown


def test_a_table_shows_times_in_the_unit_that_is_read_most_easily() -> None:
    """Nanoseconds below a microsecond, and as many digits as mean something."""
    lines = (
        Line("a", Spread.of([349.6e-9]), Spread(3.0, 3.268, 3.5)),
        Line("b", Spread(0.001, 0.0014, 0.002)),
    )

    shown = markdown(reported(lines=lines))

    assert "| Success | a call | x do-nothing wrapper |" in shown
    assert "| a | 350 ns | 3.27 (3.00 to 3.50) |" in shown
    assert "| b | 1.40 ms (1.00 ms to 2.00 ms) |  |" in shown


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (12.34e-6, "seconds", "12.3 us"),
        (0.0235, "seconds", "23.5 ms"),
        (1.5, "seconds", "1.50 s"),
        (1 / 35, "times", "0.029"),
        (1234.5, "times", "1,234"),
        (8192, "bytes", "8.0 KiB"),
    ],
)
def test_an_amount_has_three_digits_that_mean_something(
    value: float, unit: str, shown: str
) -> None:
    """A figure is neither cut short nor more exact than it was measured."""
    assert amount(value, unit) == shown


def test_a_report_comes_back_from_its_file_as_it_was() -> None:
    """What is stored as JSON holds everything that is shown."""
    report = reported(
        Bar("a", "b", SPREAD, at_most=3.0, fails_beyond=5.0),
        lines=(Line("a", SPREAD, SPREAD, "ours"), Line("b", SPREAD)),
    )

    assert Report.from_data(json.loads(json.dumps(report.as_data()))) == report


def test_only_what_is_between_the_marks_of_a_page_is_written_anew() -> None:
    """What somebody has written around the tables stays as it is."""
    page = f"before\n\n{BEGIN}\nold\n{END}\n\nafter\n"

    written = page_with(page, reported(), pictures="charts")

    assert written.startswith(f"before\n\n{BEGIN}\n\nMeasured with")
    assert "![Success](charts/success.svg)" in written
    assert written.endswith(f"{END}\n\nafter\n")
    assert page_with(written, reported(), pictures="charts") == written


def test_a_page_without_marks_is_refused() -> None:
    """Nothing is written where nobody has made a place for it."""
    with pytest.raises(AssertionError, match="no place"):
        page_with("before and after", reported(), pictures="charts")


def stored() -> Report:
    """Return what was found when the documentation was written."""
    return Report.from_data(json.loads(RESULTS.read_text(encoding="utf-8")))


def test_the_documentation_shows_what_was_measured() -> None:
    """The tables of the page are those that the stored figures give."""
    page = PAGE.read_text(encoding="utf-8")

    assert page_with(page, stored(), pictures=PICTURES.name) == page


def test_every_picture_is_of_the_figures_next_to_it() -> None:
    """There is one picture for each table, drawn from the stored figures, and no other."""
    drawn = {
        path.stem: re.findall("<dc:description>(.*)</dc:description>", path.read_text("utf-8"))
        for path in PICTURES.glob("*.svg")
    }

    assert drawn == {table.name: [digest(table)] for table in pictured(stored())}


def test_a_share_of_a_bar_is_1_where_it_is_just_met() -> None:
    """What is to be large and what is to be small are drawn on one scale."""
    bars = (
        Bar("small", "b", Spread(1.0, 2.0, 3.0), at_most=2.0),
        Bar("large", "", Spread(2.0, 4.0, 8.0), at_least=8.0),
    )

    small, large = pictured(reported(*bars))[0].lines

    assert (small.name, small.value, small.kind) == ("small / b", Spread(0.5, 1.0, 1.5), "ours")
    assert (large.name, large.value, large.kind) == ("large", Spread(1.0, 2.0, 4.0), "other")
