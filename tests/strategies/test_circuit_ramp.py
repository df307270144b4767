"""The way back from an outage: little by little, as fast as the dependency can bear it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from resilient import CircuitBreaker, with_fallback
from resilient.testing import VirtualTime
from tests.circuits import Upstream, outcome_of, outcomes_of, rejection_of


@pytest.fixture
def upstream(virtual_time: VirtualTime) -> Upstream:
    """A dependency in virtual time."""
    return Upstream(virtual_time)


def on_the_way_back(
    upstream: Upstream, **settings: Any
) -> tuple[CircuitBreaker, Callable[[], Any]]:
    """Return a breaker whose first probe has just succeeded, and the call that it guards."""
    given: dict[str, Any] = {"reset_timeout": 10, "ramp": True, **settings}
    breaker = CircuitBreaker(fail_max=5, **given)
    call = upstream.guarded(breaker)
    outcomes_of(call, 100)
    upstream.down()
    while breaker.current_state == "closed":
        outcome_of(call)
    upstream.up()
    upstream.time.advance(10)
    assert outcome_of(call) == "answered"
    return breaker, call


def in_a_tick(upstream: Upstream, call: Callable[[], Any], calls: int) -> int:
    """Spread calls over a quarter of a second and return how many of them were let through."""
    before = upstream.calls
    for _ in range(calls):
        outcome_of(call)
        upstream.time.advance(0.25 / calls)
    return upstream.calls - before


def test_the_first_ten_calls_always_pass(upstream: Upstream) -> None:
    """A service with little traffic is not kept waiting for the sake of one with much."""
    _, call = on_the_way_back(upstream)

    assert outcomes_of(call, 10) == ["answered"] * 10
    assert "rejected" in outcomes_of(call, 5)


def test_at_first_a_tenth_of_the_calls_passes(upstream: Upstream) -> None:
    """After those ten, one call of ten."""
    _, call = on_the_way_back(upstream)
    outcomes_of(call, 10)

    assert outcomes_of(call, 100).count("answered") == pytest.approx(10, abs=1)


def test_the_share_doubles_each_quarter_of_a_second(upstream: Upstream) -> None:
    """A tenth, a fifth, two fifths, four fifths, and then all of it."""
    breaker, call = on_the_way_back(upstream)
    outcomes_of(call, 10)

    shares = [in_a_tick(upstream, call, 128) / 128 for _ in range(4)]
    assert shares == pytest.approx([0.1, 0.2, 0.4, 0.8], abs=0.02)
    assert in_a_tick(upstream, call, 128) == 128
    assert breaker.current_state == "closed"


def test_a_healthy_dependency_has_all_of_its_traffic_within_about_a_second(
    upstream: Upstream,
) -> None:
    """However much traffic there is."""
    breaker, call = on_the_way_back(upstream)
    began = upstream.time.now()
    while breaker.current_state != "closed":
        outcome_of(call)
        upstream.time.advance(0.001)

    assert 0.75 <= upstream.time.now() - began <= 1.25


def test_a_ramp_follows_what_it_sees_and_not_the_clock(upstream: Upstream) -> None:
    """Without calls nothing is known, and the share does not grow with the time."""
    breaker, call = on_the_way_back(upstream)
    outcomes_of(call, 10)
    upstream.time.advance(3600)
    assert breaker.current_state == "half-open"
    outcomes_of(call, 20)

    assert outcomes_of(call, 100).count("answered") <= 20


def test_what_is_held_back_is_served_as_while_open(upstream: Upstream) -> None:
    """A CircuitOpen with the last failure and a retry_after, for which the fallback steps in."""
    breaker, call = on_the_way_back(upstream)
    outcomes_of(call, 10)
    rejected = rejection_of(call)

    assert rejected.state == "half-open"
    assert isinstance(rejected.__cause__, ConnectionError)
    assert rejected.retry_after is not None
    assert 0 <= rejected.retry_after <= 0.25
    fallback = with_fallback("instead")(breaker(upstream.answer))
    assert [fallback() for _ in range(20)].count("instead") >= 18


def test_the_share_is_halved_when_calls_fail(upstream: Upstream) -> None:
    """A dependency that cannot bear a fifth of its traffic gets a tenth again."""
    breaker, call = on_the_way_back(upstream)
    outcomes_of(call, 10)
    in_a_tick(upstream, call, 128)
    assert in_a_tick(upstream, call, 128) == pytest.approx(26, abs=2)

    failing = iter([True, False] * 1000)
    upstream_answer = upstream.answer

    def every_other_fails() -> str:
        upstream.error = ConnectionError("busy") if next(failing) else None
        return upstream_answer()

    sick = breaker(every_other_fails)
    assert in_a_tick(upstream, sick, 128) == pytest.approx(51, abs=3)
    upstream.up()
    assert in_a_tick(upstream, call, 128) == pytest.approx(26, abs=3)
    assert breaker.current_state == "half-open"


def test_the_share_is_halved_when_calls_are_slower_than_usual(upstream: Upstream) -> None:
    """One that starts slowly is not run over: it answers, but three times as slowly as usual."""
    breaker = CircuitBreaker(fail_max=5, reset_timeout=10, ramp=True)
    call = upstream.guarded(breaker)
    upstream.seconds = 0.1
    outcomes_of(call, 100)
    upstream.down()
    outcomes_of(call, 5)
    upstream.up()
    upstream.time.advance(10)
    upstream.seconds = 0.5
    for _ in range(12):
        outcome_of(call)

    assert breaker.current_state != "closed"


def test_a_usual_speed_is_enough_however_slow_that_is(upstream: Upstream) -> None:
    """A dependency that always takes two seconds is well when it takes two seconds."""
    breaker = CircuitBreaker(fail_max=5, reset_timeout=10, ramp=True)
    call = upstream.guarded(breaker)
    upstream.seconds = 2.0
    outcomes_of(call, 100)
    upstream.down()
    outcomes_of(call, 5)
    upstream.up()
    upstream.time.advance(10)
    outcomes_of(call, 5)

    assert breaker.current_state == "closed"


def test_a_dependency_that_fails_on_the_way_back_opens_the_circuit(upstream: Upstream) -> None:
    """With a longer period than before, if that may grow."""
    breaker, call = on_the_way_back(upstream, max_reset_timeout=60)
    upstream.down()
    outcomes = outcomes_of(call, 30)

    assert breaker.current_state == "open"
    assert outcomes.count("ConnectionError") <= 10
    assert breaker.retry_after is not None
    assert 16 <= breaker.retry_after <= 20


def test_an_error_that_is_excluded_counts_neither_way(upstream: Upstream) -> None:
    """On the way back as before."""
    breaker, call = on_the_way_back(upstream, exclude=[LookupError])
    upstream.error = KeyError("no such order")
    for _ in range(40):
        in_a_tick(upstream, call, 4)

    assert breaker.current_state == "half-open"


@pytest.mark.parametrize(
    ("settings", "has_ramp"),
    [
        ({}, False),
        ({"ramp": True}, True),
        ({"probe": lambda: False}, True),
        ({"probe": lambda: False, "ramp": False}, False),
    ],
    ids=["nothing", "ramp", "probe", "probe without ramp"],
)
def test_a_ramp_is_on_where_there_is_a_probe_or_it_is_asked_for(
    upstream: Upstream, settings: dict[str, Any], has_ramp: bool
) -> None:
    """Else the first success gives all of the traffic back."""
    breaker = CircuitBreaker(fail_max=1, reset_timeout=10, probe_every=100, **settings)
    call = upstream.guarded(breaker)
    upstream.down()
    outcome_of(call)
    upstream.up()
    upstream.time.advance(10)
    outcome_of(call)

    assert breaker.current_state == ("half-open" if has_ramp else "closed")


def test_a_probe_in_the_background_begins_the_ramp(upstream: Upstream) -> None:
    """When the dependency is back, calls come back within probe_every and about a second more."""
    breaker = CircuitBreaker(fail_max=1, reset_timeout=3600, probe=upstream.answer)
    call = upstream.guarded(breaker)
    upstream.down()
    outcome_of(call)
    for _ in range(500):
        upstream.time.advance(0.01)
        outcome_of(call)
    upstream.up()
    returned = upstream.time.now()
    while breaker.current_state != "closed":
        upstream.time.advance(0.01)
        outcome_of(call)

    assert upstream.time.now() - returned <= 1.0 + 1.25


def test_failures_of_the_ramp_are_not_in_the_next_window(upstream: Upstream) -> None:
    """Closing starts an empty window, and with it the count of failures in a row."""
    breaker, call = on_the_way_back(upstream)
    upstream.down()
    outcomes_of(call, 2)
    upstream.up()
    while breaker.current_state != "closed":
        in_a_tick(upstream, call, 64)
    upstream.down()

    assert outcomes_of(call, 6) == ["ConnectionError"] * 5 + ["rejected"]


def test_a_rejection_on_the_way_back_says_when_the_share_can_change(upstream: Upstream) -> None:
    """Its retry_after is that of the tick."""
    _, call = on_the_way_back(upstream)
    outcomes_of(call, 10)
    upstream.time.advance(0.125)

    assert rejection_of(call).retry_after == 0.125
