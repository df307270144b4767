"""The smaller parts of a circuit by themselves: since when it fails, and how long calls take."""

from __future__ import annotations

import pytest

from resilient.strategies.breaker.onset import MOST, Onset
from resilient.strategies.breaker.pace import Pace


def onset(calls: str) -> Onset:
    """Return the onset after some calls, a second apart: "F" for those that failed."""
    found = Onset()
    for second, one in enumerate(calls):
        if one == "F":
            found.failed(float(second))
        else:
            found.passed()
    return found


@pytest.mark.parametrize(
    ("calls", "first"),
    [
        ("", 99.0),
        ("....", 99.0),
        ("F", 0.0),
        ("...FFF", 3.0),
        ("F..F", 0.0),
        ("F...F", 4.0),
        ("F.....FF.F", 6.0),
        ("F.F.....FFF", 8.0),
    ],
)
def test_an_outage_begins_where_half_of_the_calls_begin_to_fail(calls: str, first: float) -> None:
    """From the first failure on, at least so many of the calls failed; older ones are stray."""
    assert onset(calls).first(0.5, 99.0) == first


def test_successes_come_in_batches_as_well() -> None:
    """Three at once are three calls."""
    found = onset("F")
    found.passed(3)
    found.failed(4.0)
    assert found.first(0.5, 99.0) == 4.0
    assert found.first(0.4, 99.0) == 0.0


def test_what_was_before_a_recovery_is_forgotten() -> None:
    """The next outage has an onset of its own."""
    found = onset("FFF")
    found.forget()
    assert found.first(0.5, 99.0) == 99.0
    found.failed(5.0)
    assert found.first(0.5, 99.0) == 5.0


def test_a_thousand_failures_are_looked_at_and_no_more() -> None:
    """An outage that opens nothing for hours takes a bounded amount of memory."""
    found = onset("F" * 1500)
    assert MOST == 1000
    assert found.first(0.5, 9999.0) == 500.0


def test_what_is_usual_is_not_known_before_the_first_call() -> None:
    """Nothing is unusual before there is anything to compare it with."""
    assert not Pace().is_unusual(1e9)


def unusual_from(pace: Pace, seconds: float) -> bool:
    """Whether exactly what takes longer than `seconds` is unusual."""
    return not pace.is_unusual(seconds - 1e-6) and pace.is_unusual(seconds + 1e-6)


def test_what_takes_three_times_as_long_as_usual_is_unusual() -> None:
    """Exactly three times as long is not."""
    pace = Pace()
    pace.learn(1.0)
    assert not pace.is_unusual(3.0)
    assert unusual_from(pace, 3.0)


def test_a_twentieth_of_a_second_more_is_never_unusual() -> None:
    """Calls of a millisecond vary by more than their own length."""
    pace = Pace()
    pace.learn(0.0)
    assert not pace.is_unusual(0.05)
    assert unusual_from(pace, 0.05)
    pace.learn(0.02)
    assert unusual_from(pace, 0.06)


def test_usual_is_the_mean_of_the_first_hundred_calls() -> None:
    """Whether they come one by one or in batches."""
    one_by_one, at_once = Pace(), Pace()
    for pace in (one_by_one, at_once):
        pace.learn(1.0)
    for _ in range(99):
        one_by_one.learn(3.0)
    at_once.learn(3.0, 99)
    for pace in (one_by_one, at_once):
        assert unusual_from(pace, 3 * 2.98)


def test_after_a_hundred_calls_each_one_counts_a_hundredth() -> None:
    """What was usual is forgotten slowly."""
    pace = Pace()
    pace.learn(1.0, 100)
    pace.learn(101.0)
    assert unusual_from(pace, 6.0)


@pytest.mark.parametrize("count", [100, 250])
def test_a_hundred_calls_at_once_are_all_that_counts(count: int) -> None:
    """A batch of more does not count for more than everything."""
    pace = Pace()
    pace.learn(1.0, 100)
    pace.learn(2.0, count)
    assert unusual_from(pace, 6.0)
