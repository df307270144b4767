"""The state of the library under every order of steps, and under a short switch interval.

The suite explores what is small, and walks at random through the rest; `make proof` goes further.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest

from tests.interleavings import scenarios
from tests.interleavings.explorer import Plan, explore, random_walks, steered

#: Parts by themselves, whose steps are few: all orders with one preemption, and with two.
SMALL = (
    scenarios.places_in_the_queue,
    scenarios.drained_budget,
    scenarios.full_budget,
    scenarios.subscribers,
    scenarios.replaced_value,
    scenarios.name_for_one,
)
#: Whole calls of real functions.
WHOLE = (
    scenarios.full_bulkhead,
    scenarios.queued_bulkhead,
    scenarios.impatient_bulkhead,
    scenarios.failing_bulkhead,
    scenarios.retries_on_a_budget,
    scenarios.limited_rate,
    scenarios.settled_journal,
    scenarios.dropped_pipeline,
    scenarios.tripping_breaker,
    scenarios.half_open_breaker,
    scenarios.failing_probe,
    scenarios.steered_by_hand,
    scenarios.shadowing_breaker,
    scenarios.refused_calls,
    scenarios.shared_worker,
    scenarios.abandoned_worker,
    scenarios.worker_that_cannot_begin,
    scenarios.shared_flight,
    scenarios.full_store,
    scenarios.written_behind,
    scenarios.switching_failover,
    scenarios.returning_failover,
    scenarios.drained_process,
)
#: So many runs are made at the most, so that a busy machine comes to an end.
MOST_SMALL, MOST_WHOLE = 6000, 2000
#: Those of them that are explored with two callers, and walked through with three.
FOR_TWO = (
    scenarios.full_bulkhead,
    scenarios.queued_bulkhead,
    scenarios.impatient_bulkhead,
    scenarios.failing_bulkhead,
    scenarios.settled_journal,
    scenarios.dropped_pipeline,
    scenarios.tripping_breaker,
    scenarios.half_open_breaker,
    scenarios.refused_calls,
)


@pytest.fixture(autouse=True)
def _steered() -> Iterator[None]:
    with steered():
        yield


def named(scenario: Callable[..., Plan]) -> str:
    return scenario.__name__


@pytest.mark.parametrize("scenario", SMALL, ids=named)
def test_every_order_with_one_preemption_is_right(scenario: Callable[[], Plan]) -> None:
    """A part by itself, with all that one thread can do between any two steps of another."""
    assert explore(scenario, preemptions=1).complete


@pytest.mark.parametrize("scenario", WHOLE, ids=named)
def test_orders_drawn_at_random_are_right(scenario: Callable[[], Plan]) -> None:
    """Whole calls, by a few seeds."""
    assert random_walks(scenario, seeds=range(12)).runs == 12


@pytest.mark.proof
@pytest.mark.parametrize("scenario", SMALL, ids=named)
def test_every_order_with_two_preemptions_is_right(scenario: Callable[[], Plan]) -> None:
    """Most races need no more than two (Musuvathi and Qadeer, PLDI 2007)."""
    report = explore(scenario, preemptions=2, most=MOST_SMALL)
    assert report.complete or report.runs == MOST_SMALL


@pytest.mark.proof
@pytest.mark.parametrize("scenario", WHOLE, ids=named)
def test_every_order_of_whole_calls_with_one_preemption_is_right(
    scenario: Callable[..., Plan],
) -> None:
    """Two callers, with all that one can do between any two steps of the other."""
    for_two = partial(scenario, callers=2) if scenario in FOR_TWO else scenario
    report = explore(for_two, preemptions=1, most=MOST_WHOLE)
    assert report.complete or report.runs == MOST_WHOLE


@pytest.mark.proof
@pytest.mark.parametrize("scenario", WHOLE, ids=named)
def test_many_orders_drawn_at_random_are_right(scenario: Callable[[], Plan]) -> None:
    """More callers and more preemptions than can be gone through one by one."""
    assert random_walks(scenario, seeds=range(300)).runs == 300
