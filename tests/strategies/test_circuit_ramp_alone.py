"""The ramp by itself, call by call: what the breaker's tests see only as shares of many calls."""

from __future__ import annotations

import pytest

from resilient.strategies.breaker.ramp import Ramp


def admitted(ramp: Ramp, calls: int) -> str:
    """Ask for some calls; say "+" for each that passes and "-" for each that is held back."""
    return "".join("+" if ramp.admits() else "-" for _ in range(calls))


def note(ramp: Ramp, *, good: int = 0, bad: int = 0) -> None:
    """Count calls, the good ones first."""
    for number in range(good + bad):
        ramp.record(good=number < good)


def test_after_ten_calls_exactly_each_tenth_passes() -> None:
    """Ten tenths are one, however they are rounded."""
    ramp = Ramp(0.0)

    assert admitted(ramp, 10) == "+" * 10
    assert admitted(ramp, 40) == "---------+" * 4


def test_the_first_call_of_a_doubled_share_passes_at_once() -> None:
    """Where there are few calls, none waits for shares to add up; then each fifth passes."""
    ramp = Ramp(0.0)
    admitted(ramp, 15)
    note(ramp, good=10)
    assert ramp.verdict(0.25) is None

    assert ramp.share == 0.2
    assert admitted(ramp, 11) == "+---+----+-"


@pytest.mark.parametrize(
    ("good", "bad", "share"),
    [
        (1, 0, 0.2),
        (9, 1, 0.2),
        (19, 2, 0.2),
        (8, 1, 0.05),
        (17, 2, 0.05),
        (1, 1, 0.05),
        (0, 1, 0.05),
    ],
)
def test_a_tenth_of_the_calls_may_fail_and_no_more(good: int, bad: int, share: float) -> None:
    """The share doubles up to exactly a tenth of failures, and halves above."""
    ramp = Ramp(0.0)
    note(ramp, good=good, bad=bad)

    assert ramp.verdict(0.25) is None
    assert ramp.share == share


def test_the_share_moves_after_exactly_a_quarter_of_a_second_with_calls() -> None:
    """Not sooner, not without calls, and then a quarter of a second after it has moved."""
    ramp = Ramp(4.0)
    assert ramp.next_tick(4.0) == 0.25
    assert ramp.verdict(4.5) is None
    assert ramp.share == 0.1
    note(ramp, good=1)
    assert ramp.next_tick(4.125) == 0.125
    assert ramp.next_tick(4.5) == 0.0
    assert ramp.verdict(4.125) is None
    assert ramp.share == 0.1
    assert ramp.verdict(4.25) is None
    assert ramp.share == 0.2
    note(ramp, good=1)
    assert ramp.next_tick(4.25) == 0.25
    assert ramp.verdict(4.375) is None
    assert ramp.share == 0.2


def test_each_quarter_of_a_second_is_judged_by_its_own_calls() -> None:
    """Twenty good ones before do not make up for one of two that fails now."""
    ramp = Ramp(0.0)
    note(ramp, good=20)
    ramp.verdict(0.25)
    note(ramp, good=8, bad=1)
    ramp.verdict(0.5)

    assert ramp.share == 0.1


def test_five_failures_in_a_row_end_the_way_back_at_once() -> None:
    """Not four, and not five that a success has interrupted."""
    ramp = Ramp(0.0)
    note(ramp, bad=4)
    assert ramp.verdict(0.0) is None
    note(ramp, good=1, bad=4)
    assert ramp.verdict(0.0) is None
    note(ramp, bad=1)
    assert ramp.verdict(0.0) is False


def test_a_share_that_is_halved_four_times_ends_the_way_back() -> None:
    """An eightieth is still a way back; half of that is none."""
    ramp = Ramp(0.0)
    verdicts = []
    for tick in range(1, 5):
        note(ramp, good=1, bad=1)
        verdicts.append(ramp.verdict(tick * 0.25))

    assert verdicts == [None, None, None, False]


def test_the_way_back_ends_well_when_the_share_has_reached_all() -> None:
    """A tenth, doubled four times."""
    ramp = Ramp(0.0)
    verdicts = []
    for tick in range(1, 5):
        note(ramp, good=1)
        verdicts.append(ramp.verdict(tick * 0.25))

    assert verdicts == [None, None, None, True]


def test_a_good_probe_speaks_for_all_calls_while_there_are_none() -> None:
    """Then all pass from now on; where there are calls, they go on to be counted."""
    idle, busy = Ramp(0.0), Ramp(0.0)
    busy.admits()
    for ramp in (idle, busy):
        ramp.probed(good=True)

    assert (idle.share, idle.verdict(0.0)) == (1.0, True)
    assert (busy.share, busy.verdict(0.0)) == (0.1, None)


def test_a_good_probe_begins_anew_from_the_first_share() -> None:
    """Whatever the share has come down to; one that has grown stays."""
    fallen, grown = Ramp(0.0), Ramp(0.0)
    for ramp, bad in ((fallen, 1), (grown, 0)):
        ramp.admits()
        note(ramp, good=1, bad=bad)
        ramp.verdict(0.25)
        ramp.probed(good=True)

    assert (fallen.share, grown.share) == (0.1, 0.2)


def test_probes_count_as_calls() -> None:
    """Five that fail end the way back, and a good one starts the count anew."""
    ramp = Ramp(0.0)
    for good in (False, False, False, False, True, False, False, False, False):
        ramp.probed(good=good)
        assert ramp.verdict(0.0) is not False
        ramp.admits()
    ramp.probed(good=False)

    assert ramp.verdict(0.0) is False
