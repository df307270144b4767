"""What a forked child has of the strategies of its parent: all of it, as it was, for itself."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from resilient import (
    CircuitOpen,
    RateLimited,
    RetryBudget,
    cached,
    circuit_breaker,
    deadline,
    failover_to,
    observe,
    rate_limit,
    register_metrics,
    remaining,
    with_fallback,
)
from tests.doubles import Scripted
from tests.faults.children import holds_in_a_child


def test_a_forked_child_is_under_the_deadline_of_its_parent() -> None:
    """What was left when it was forked is left in the child."""
    with deadline(60):
        assert holds_in_a_child(lambda: 50 < (remaining() or 0) <= 60)


def test_a_forked_child_has_a_budget_of_its_own() -> None:
    """It begins with what the budget held, and what it spends is not missed by its parent."""
    budget = RetryBudget(2)
    budget.take()

    assert holds_in_a_child(lambda: budget.take() and not budget.take())
    assert budget.take()


def test_a_forked_child_has_tokens_of_its_own() -> None:
    """It has what was left in the bucket, and what it takes is not missed by its parent."""
    limit = rate_limit(2, per=3600)
    ask = limit(Scripted("answer"))
    ask()

    def claim() -> bool:
        ask()
        with pytest.raises(RateLimited):
            ask()
        return True

    assert holds_in_a_child(claim)
    assert ask() == "answer"


def test_a_forked_child_has_a_circuit_of_its_own() -> None:
    """It begins with the state of its parent, and a change in it is none of the parent's."""
    breaker = circuit_breaker("forked", fail_max=1, reset_timeout=60)
    ask = breaker(Scripted(ConnectionError))
    with pytest.raises(ConnectionError):
        ask()

    def claim() -> bool:
        with pytest.raises(CircuitOpen):
            ask()
        breaker.reset()
        return breaker.current_state == "closed"

    assert holds_in_a_child(claim)
    assert breaker.current_state == "open"


def test_a_forked_child_keeps_answers_of_its_own() -> None:
    """It knows what its parent had in memory; what it keeps itself, its parent does not know."""
    ask = with_fallback(cached(ttl=60, key="answer"))(
        Scripted("first", ConnectionError, "second", ConnectionError)
    )
    assert ask() == "first"

    assert holds_in_a_child(lambda: [ask(), ask(), ask()] == ["first", "second", "second"])
    assert ask() == "first"


def test_a_forked_child_fails_over_by_itself() -> None:
    """It asks first whom its parent asked, and what it finds is not its parent's business."""
    replica = Scripted("replica", "replica", ConnectionError)
    load = failover_to(replica, switch_after=1)(Scripted(ConnectionError, "primary"))
    assert load() == "replica"
    assert holds_in_a_child(lambda: [load(), load()] == ["replica", "primary"])
    assert load() == "replica"


def succeeded(event: str) -> float | None:
    """Return how often `event` has succeeded, as Prometheus would read it."""
    registry = CollectorRegistry()
    register_metrics(registry)
    labels = {"event": event, "outcome": "succeeded"}
    return registry.get_sample_value("resilient_events_total", labels)


def test_a_forked_child_counts_events_of_its_own() -> None:
    """It counts on from where its parent was, and what it counts is not counted there."""
    work = observe("forked_work", started=False)(Scripted("done", "done"))
    work()

    def claim() -> bool:
        work()
        return succeeded("forked_work") == 2

    assert holds_in_a_child(claim)
    assert succeeded("forked_work") == 1
