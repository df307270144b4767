"""What is in the journal of a pipeline that goes is not lost with it."""

from __future__ import annotations

import pytest

from resilient import circuit_breaker, retry
from resilient.engine.leftovers import MOST
from resilient.engine.measures import Measures
from resilient.testing import VirtualTime


def down() -> None:
    raise ConnectionError


def test_a_success_between_two_failures_counts_when_its_function_is_gone(
    virtual_time: VirtualTime,
) -> None:
    """A breaker that guards inline, as pybreaker's users write it, sees failures in a row only."""
    breaker = circuit_breaker("guarding inline", fail_max=2)
    for _ in range(5):
        with pytest.raises(ConnectionError):
            breaker(down)()
        assert breaker(lambda: "answer")() == "answer"
    assert breaker.current_state == "closed"
    measures = Measures.of("guarding inline")
    measures.settle()
    assert measures.calls["success"] == measures.calls["failure"] == 5


def test_the_budget_gets_what_functions_that_are_gone_have_earned(
    virtual_time: VirtualTime,
) -> None:
    """Ten successes earn one retry, whether or not their functions are still there."""
    careful = retry(on=ConnectionError, wait_initial=0)
    assert careful.budget is not None
    while careful.budget.take():
        pass
    for _ in range(10):
        careful(lambda: "answer")()
    careful.settle()
    assert careful.budget.left == pytest.approx(1.0)


def test_leftovers_are_taken_up_although_nobody_asks(virtual_time: VirtualTime) -> None:
    """Many thousands of inline guards leave a bounded number of journals."""
    breaker = circuit_breaker("many inline guards", fail_max=2)
    for _ in range(4 * MOST):
        breaker(lambda: None)()
    assert len(breaker.leftovers._journals) <= MOST
    measures = Measures.of("many inline guards")
    measures.settle()
    assert measures.calls["success"] == 4 * MOST
