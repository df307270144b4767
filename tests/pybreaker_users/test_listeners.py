"""pybreaker's listeners are told what they are used to."""

from __future__ import annotations

from typing import Any

import pybreaker
import pytest

from resilient import CircuitBreaker
from resilient.testing import VirtualTime
from tests.circuits import WAYS, Upstream, outcome_of, outcomes_of


class Diary(pybreaker.CircuitBreakerListener):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.entries: list[Any] = []
        self.breakers: set[Any] = set()

    def before_call(self, cb: Any, func: Any, *args: Any, **kwargs: Any) -> None:
        self.breakers.add(cb)
        self.entries.append(("before_call", args, kwargs))

    def success(self, cb: Any) -> None:
        self.breakers.add(cb)
        self.entries.append(("success", cb.current_state))

    def failure(self, cb: Any, exc: BaseException) -> None:
        self.breakers.add(cb)
        self.entries.append(("failure", exc))

    def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
        self.breakers.add(cb)
        self.entries.append(("state_change", old_state.name, new_state.name))

    @property
    def words(self) -> list[str]:
        """What it was told, in a word each."""
        return ["-".join(map(str, one[1:])) if len(one) == 3 else one[0] for one in self.told()]

    def told(self) -> list[Any]:
        """Everything but the calls themselves."""
        return [one for one in self.entries if one[0] != "before_call"]


@pytest.fixture
def upstream(virtual_time: VirtualTime) -> Upstream:
    """A dependency in virtual time."""
    return Upstream(virtual_time)


@pytest.mark.parametrize("way", WAYS)
def test_a_listener_is_told_the_story_of_an_outage(upstream: Upstream, way: str) -> None:
    """Each call, what it came to, and each change of the state, of whatever is guarded."""
    diary = Diary()
    breaker = CircuitBreaker(fail_max=2, reset_timeout=60, listeners=[diary])
    call = upstream.guarded(breaker, way)
    outcome_of(call)
    upstream.down()
    outcomes_of(call, 5)
    upstream.up()
    upstream.time.advance(60)
    outcome_of(call)

    assert diary.words == [
        "success",
        "failure",
        "failure",
        "closed-open",
        "open-half-open",
        "success",
        "half-open-closed",
    ]
    assert diary.breakers == {breaker}
    assert len(diary.entries) - len(diary.told()) == 4


def test_a_listener_sees_the_arguments_of_a_call_and_the_error_itself(upstream: Upstream) -> None:
    """Arguments by position and by name, before the call; and the very exception."""
    diary = Diary()
    breaker = CircuitBreaker(fail_max=2, listeners=[diary])
    down = ConnectionError("down")

    def place(order: int, *, express: bool) -> None:
        raise down

    with pytest.raises(ConnectionError):
        breaker.call(place, 5, express=True)

    assert diary.entries == [("before_call", (5,), {"express": True}), ("failure", down)]


def test_a_rejected_call_is_not_told(upstream: Upstream) -> None:
    """It is no call of the dependency."""
    diary = Diary()
    breaker = CircuitBreaker(fail_max=1, listeners=[diary])
    breaker.open()
    diary.entries.clear()
    outcomes_of(upstream.guarded(breaker), 3)

    assert diary.entries == []


def test_an_excluded_error_is_told_as_neither(upstream: Upstream) -> None:
    """It is no failure, and with us no success either."""
    diary = Diary()
    breaker = CircuitBreaker(fail_max=1, exclude=[KeyError], listeners=[diary])
    upstream.error = KeyError("k")
    outcome_of(upstream.guarded(breaker))

    assert diary.told() == []


def test_listeners_can_be_added_and_removed(upstream: Upstream) -> None:
    """Also while the circuit is at rest, and calls go by without being looked at."""
    one, other, third = Diary(), Diary(), Diary()
    breaker = CircuitBreaker(fail_max=3)
    call = upstream.guarded(breaker)
    outcomes_of(call, 3)
    breaker.add_listener(one)
    breaker.add_listeners(other, third)
    assert breaker.listeners == (one, other, third)
    outcome_of(call)
    breaker.remove_listener(other)
    outcome_of(call)

    assert [len(diary.told()) for diary in (one, other, third)] == [2, 1, 2]
    assert breaker.listeners == (one, third)


def test_a_listener_may_use_the_breaker(upstream: Upstream) -> None:
    """No lock is held while it is told: it may look, and even close the circuit again."""

    class Closing(pybreaker.CircuitBreakerListener):
        def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
            if new_state.name == pybreaker.STATE_OPEN:
                cb.close()

    breaker = CircuitBreaker(fail_max=1, listeners=[Closing()])
    call = upstream.guarded(breaker)
    upstream.down()

    assert outcomes_of(call, 3) == ["ConnectionError"] * 3
    assert breaker.current_state == "closed"


def test_the_state_is_as_told_while_a_listener_is_told(upstream: Upstream) -> None:
    """A listener that looks at the breaker sees the new state."""
    seen: list[tuple[str, str]] = []

    class Looking(pybreaker.CircuitBreakerListener):
        def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
            seen.append((new_state.name, cb.current_state))

    breaker = CircuitBreaker(fail_max=1, reset_timeout=60, listeners=[Looking()])
    call = upstream.guarded(breaker)
    upstream.down()
    outcome_of(call)
    upstream.up()
    upstream.time.advance(60)
    outcome_of(call)

    assert seen == [("open", "open"), ("half-open", "half-open"), ("closed", "closed")]


def test_a_listener_of_failures_alone_leaves_successes_as_cheap_as_they_were(
    upstream: Upstream,
) -> None:
    """Who overrides nothing that is told of each call does not have each call looked at."""

    class Failures(pybreaker.CircuitBreakerListener):
        def failure(self, cb: Any, exc: BaseException) -> None:
            told.append(exc)

    told: list[BaseException] = []
    breaker = CircuitBreaker(fail_max=2, listeners=[Failures()])
    call = upstream.guarded(breaker)

    assert breaker.at_rest
    upstream.down()
    outcome_of(call)
    assert told == [upstream.error]
