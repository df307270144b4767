"""What is counted for a dependency, number by number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from resilient import circuit_breaker, subscribe, unsubscribe
from resilient.engine import measures as counting
from resilient.engine.measures import Histogram, Measures, all_measures, every_measures
from resilient.testing import VirtualTime

BOUNDS = (0.5, 2.0, 4.0)


def histogram(*seconds: float) -> Histogram:
    """Return a histogram in which these have been counted one by one."""
    found = Histogram(BOUNDS)
    for one in seconds:
        found.observe(one)
    return found


# Histograms


def test_the_bounds_are_those_that_dashboards_are_built_on() -> None:
    """Who changes a bound changes what every stored quantile means."""
    assert (
        *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
    ) == counting.LATENCY_BOUNDS
    assert counting.OUTAGE_BOUNDS == (0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300, 1800, 7200)
    assert counting.AGE_BOUNDS == (1, 10, 60, 300, 900, 3600, 14_400, 86_400, 604_800)


@pytest.mark.parametrize(
    ("seconds", "counts"),
    [
        (0.0, [1, 0, 0, 0]),
        (0.25, [1, 0, 0, 0]),
        (0.5, [1, 0, 0, 0]),
        (1.5, [0, 1, 0, 0]),
        (4.0, [0, 0, 1, 0]),
        (4.5, [0, 0, 0, 1]),
    ],
)
def test_a_value_falls_under_the_first_bound_that_it_does_not_exceed(
    seconds: float, counts: list[int]
) -> None:
    """A bound belongs to what is below it, as in Prometheus; the last count is of all above."""
    one_by_one, at_once = histogram(seconds), Histogram(BOUNDS)
    at_once.observe_all([seconds], seconds)
    assert one_by_one.counts == at_once.counts == counts
    assert one_by_one.sum == at_once.sum == seconds


@pytest.mark.parametrize(
    "batch",
    [
        [0.1, 0.2],
        [0.4] * 3,
        [0.5, 0.25],
        [0.75],
        [1.5],
        [0.0005] * 256,
        [5.0, 0.5, 1.5, 2.0, 3.0, 0.25, 4.0, 9.0],
    ],
    ids=str,
)
def test_a_batch_counts_as_its_values_do(batch: list[float]) -> None:
    """Whether values come one by one or in batches, on top of others, makes no difference."""
    one_by_one, at_once = histogram(3.0, *batch), histogram(3.0)
    at_once.observe_all(batch.copy(), sum(batch))
    assert at_once.counts == one_by_one.counts
    assert at_once.sum == pytest.approx(one_by_one.sum)


@pytest.mark.parametrize("batch", [[0.2, 0.1], [0.45, 0.4, 0.35], [0.5, 0.25]], ids=str)
def test_a_batch_of_quick_calls_is_not_sorted(batch: list[float]) -> None:
    """Where all are under the first bound, as most are, that is seen without any sorting."""
    given = batch.copy()
    Histogram(BOUNDS).observe_all(given, sum(given))
    assert given == batch


def test_a_value_below_zero_counts_as_zero() -> None:
    """A call that has outlived the clock of a test took no time, and not less than none."""
    found = histogram(-3.0, -0.5)
    assert (found.counts, found.sum) == ([2, 0, 0, 0], 0.0)


def test_histograms_that_have_counted_nothing_share_their_zeros() -> None:
    """Most dependencies are well: what they would count in an outage takes no room."""
    first, second = Histogram(BOUNDS), Histogram(BOUNDS)
    assert first.counts is second.counts
    first.observe(0.5)
    first.observe_all([0.5], 0.5)
    assert (first.counts, second.counts) == ([2, 0, 0, 0], (0, 0, 0, 0))


# Counts of a dependency


def counts(measures: Measures) -> dict[str, int]:
    """Return the outcomes that have been counted, those of zero left out."""
    return {outcome: count for outcome, count in measures.calls.items() if count}


def test_a_dependency_begins_at_zero_in_each_outcome() -> None:
    """What has never happened is seen as zero, not as nothing."""
    measures = Measures("begins at zero")
    assert measures.calls == dict.fromkeys(counting.OUTCOMES, 0)
    assert (measures.attempts, measures.retries) == (0, 0)
    histograms: Sequence[Histogram] = (
        measures.durations,
        measures.detection,
        measures.recovery,
        measures.stale_ages,
    )
    assert [(sum(one.counts), one.sum) for one in histograms] == [(0, 0.0)] * 4


def test_successes_of_the_fast_lane_are_calls_of_one_attempt_each() -> None:
    """A batch of three adds three calls, three attempts, and their durations."""
    measures = Measures("returned")
    measures.returned([0.1, 0.2, 0.3], 0.6)
    measures.returned([0.4], 0.4)
    assert counts(measures) == {"success": 4}
    assert (measures.attempts, measures.retries) == (4, 0)
    assert (sum(measures.durations.counts), measures.durations.sum) == (4, pytest.approx(1.0))


def test_a_call_of_the_slow_lane_brings_its_attempts_and_retries() -> None:
    """One call of three attempts, two of which were retries, is one call."""
    measures = Measures("ended")
    measures.ended("failure", 2.0, 3, 2)
    measures.ended("failure", 1.0, 1, 0)
    measures.ended("timeout", 4.0, 1, 0)
    assert counts(measures) == {"failure": 2, "timeout": 1}
    assert (measures.attempts, measures.retries) == (5, 2)
    assert (sum(measures.durations.counts), measures.durations.sum) == (3, 7.0)


@pytest.mark.parametrize(("tier", "outcome"), [(None, "rejected"), ("default", "degraded")])
def test_calls_that_are_turned_away_on_the_spot_are_counted_by_what_they_come_to(
    tier: str | None, outcome: str
) -> None:
    """With something in their place they are degraded, and a rejection all the same."""
    measures = Measures("refused")
    measures.refused([0.1, 0.2], "circuit_open", tier)
    measures.refused([0.3], "circuit_open", tier)
    assert counts(measures) == {outcome: 3}
    assert measures.rejections == {"circuit_open": 3}
    assert measures.fallbacks == ({} if tier is None else {tier: 3})
    assert measures.attempts == 0
    assert (sum(measures.durations.counts), measures.durations.sum) == (3, pytest.approx(0.6))


def test_what_a_tier_serves_is_counted_with_its_age_if_it_has_one() -> None:
    """Ages are those of answers that were kept; a default has none."""
    measures = Measures("served")
    measures.served("cached", 20.0)
    measures.served("cached", 0.0)
    measures.served("default")
    assert measures.fallbacks == {"cached": 2, "default": 1}
    assert (sum(measures.stale_ages.counts), measures.stale_ages.sum) == (2, 20.0)


def test_an_outage_is_counted_by_how_long_it_took_to_see_and_to_end() -> None:
    """Detection and recovery are histograms of their own."""
    measures = Measures("an outage")
    measures.detected(1.0)
    measures.recovered(20.0)
    measures.recovered(40.0)
    assert (sum(measures.detection.counts), measures.detection.sum) == (1, 1.0)
    assert (sum(measures.recovery.counts), measures.recovery.sum) == (2, 60.0)


def test_a_rejection_is_counted_and_told_of() -> None:
    """The event has the reason and the time; a count only where it stands for more than one."""
    measures = Measures("rejecting and telling")
    heard: list[Any] = []

    def listen(event: str, fields: Any) -> None:
        if fields.get("dependency") == measures.name:
            heard.append((event, dict(fields)))

    subscribe(listen)
    try:
        measures.rejected("bulkhead_full")
        measures.rejected("bulkhead_full", 2.0)
        measures.tell_rejected("circuit_open", 3.0, 7)
    finally:
        unsubscribe(listen)
    assert measures.rejections == {"bulkhead_full": 2}
    told = {"dependency": measures.name, "reason": "bulkhead_full"}
    assert heard == [
        ("resilient.call_rejected", {**told, "retry_in_seconds": None}),
        ("resilient.call_rejected", {**told, "retry_in_seconds": 2.0}),
        (
            "resilient.call_rejected",
            {**told, "reason": "circuit_open", "retry_in_seconds": 3.0, "count": 7},
        ),
    ]


def test_labels_beyond_fifty_are_counted_together() -> None:
    """Those that are known are kept apart, and the rest are one more, called other."""
    measures = Measures("many labels")
    for number in range(52):
        measures.served(f"tier {number}")
    measures.served("tier 49")
    assert len(measures.fallbacks) == 51
    assert (measures.fallbacks["tier 49"], measures.fallbacks["other"]) == (2, 2)


# All of them


def test_measures_are_one_object_for_a_name_and_go_with_their_last_user() -> None:
    """Who asks by the same name shares the counts; afterwards nothing is left of them."""
    first = Measures.of("one for a name")
    first.served("default")
    assert Measures.of("one for a name") is first
    assert first in every_measures()
    del first
    assert "one for a name" not in [one.name for one in every_measures()]
    assert Measures.of("one for a name").fallbacks == {}


def test_all_measures_come_ordered_by_name_and_up_to_date(virtual_time: VirtualTime) -> None:
    """Whoever reads them all has counted what the journals hold, and what gone functions left."""
    names = [f"up to date, {letter}" for letter in "cab"]
    breakers = [circuit_breaker(name) for name in names]
    guarded = [breaker(virtual_time.sleep) for breaker in breakers]
    for function in guarded:
        function(1)
    for breaker in breakers:
        breaker(virtual_time.sleep)(2)
    found = [one for one in all_measures() if one.name in names]
    assert [one.name for one in found] == sorted(names)
    assert [counts(one) for one in found] == [{"success": 2}] * 3
    assert [one.durations.sum for one in found] == [3.0] * 3


def test_what_many_functions_have_left_is_taken_up_when_the_next_one_joins(
    virtual_time: VirtualTime,
) -> None:
    """Guarding inline, call after call, the journals are counted 256 at a time."""
    measures = Measures.of("inline, again and again")
    breaker = circuit_breaker(measures.name)
    for _ in range(300):
        breaker(virtual_time.sleep)(0.5)
    assert (measures.calls["success"], len(measures.leftovers._journals)) == (256, 44)
