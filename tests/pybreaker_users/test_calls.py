"""What users of pybreaker write goes on to work: calls, blocks, states, exclusions, errors."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Iterator
from typing import Any

import pybreaker
import pytest

from resilient import CircuitBreaker, CircuitOpen, InvalidSetting
from resilient.testing import VirtualTime
from tests.circuits import Upstream, outcome_of, outcomes_of


@pytest.fixture
def upstream(virtual_time: VirtualTime) -> Upstream:
    """A dependency in virtual time."""
    return Upstream(virtual_time)


def test_it_is_a_breaker_of_pybreaker(virtual_time: VirtualTime) -> None:
    """Whoever asks for one by its type is content, and its error is one of pybreaker's."""
    breaker = CircuitBreaker("orders", fail_max=5, reset_timeout=60)

    assert isinstance(breaker, pybreaker.CircuitBreaker)
    assert issubclass(CircuitOpen, pybreaker.CircuitBreakerError)


def test_the_arguments_of_its_constructor_have_the_same_names(virtual_time: VirtualTime) -> None:
    """All of them, and they can be read back under the same names."""
    storage = pybreaker.CircuitMemoryStorage(pybreaker.STATE_CLOSED)
    listener = pybreaker.CircuitBreakerListener()
    breaker = CircuitBreaker(
        fail_max=3,
        reset_timeout=30,
        success_threshold=2,
        exclude=[KeyError],
        listeners=[listener],
        state_storage=storage,
        name="orders",
        throw_new_error_on_trip=True,
    )

    assert (breaker.fail_max, breaker.reset_timeout, breaker.success_threshold) == (3, 30, 2)
    assert breaker.excluded_exceptions == (KeyError,)
    assert breaker.listeners == (listener,)
    assert breaker.name == "orders"
    assert (breaker.fail_counter, breaker.success_counter) == (0, 0)


def test_it_is_a_decorator(upstream: Upstream) -> None:
    """With the arguments and the result of the function."""
    breaker = CircuitBreaker(fail_max=2)

    @breaker
    def add(one: int, other: int = 1) -> int:
        """Add."""
        return one + other

    assert (add(1), add(1, other=2)) == (2, 3)
    assert add.__doc__ == "Add."


def test_it_calls_a_function(upstream: Upstream) -> None:
    """`call` hands over the arguments and returns the result."""
    breaker = CircuitBreaker(fail_max=2)

    assert breaker.call(max, 1, 2) == 2
    assert breaker.call(sorted, [2, 1], reverse=True) == [2, 1]


def test_call_returns_the_awaitable_of_an_asynchronous_function(upstream: Upstream) -> None:
    """And counts what it comes to, which pybreaker does not see."""
    breaker = CircuitBreaker(fail_max=2, reset_timeout=60)
    upstream.down()

    assert outcomes_of(upstream.guarded(breaker, "call async"), 3) == [
        "ConnectionError",
        "ConnectionError",
        "rejected",
    ]


def test_call_async_needs_no_tornado(upstream: Upstream) -> None:
    """It awaits a native coroutine function."""
    breaker = CircuitBreaker(fail_max=2, reset_timeout=60)
    upstream.down()

    def call() -> Any:
        async def main() -> Any:
            return await breaker.call_async(upstream.answer_async)

        return asyncio.run(main())

    assert outcomes_of(call, 3) == ["ConnectionError", "ConnectionError", "rejected"]


def test_call_guards_a_generator_to_its_end(upstream: Upstream) -> None:
    """An error in the middle of it counts, as with pybreaker."""
    breaker = CircuitBreaker(fail_max=2, reset_timeout=60)

    def items(number: int) -> Iterator[int]:
        yield number
        raise ConnectionError("broke off")

    for _ in range(2):
        with pytest.raises(ConnectionError):
            list(breaker.call(items, 1))
    with pytest.raises(pybreaker.CircuitBreakerError):
        list(breaker.call(items, 1))


def test_call_guards_an_asynchronous_generator_to_its_end(virtual_time: VirtualTime) -> None:
    """As it does a generator."""
    breaker = CircuitBreaker(fail_max=2, reset_timeout=60)

    async def items() -> Any:
        yield 1
        raise ConnectionError("broke off")

    def read() -> Any:
        async def main() -> list[int]:
            return [item async for item in breaker.call(items)]

        return asyncio.run(main())

    assert outcomes_of(read, 3) == ["ConnectionError", "ConnectionError", "rejected"]


def test_it_guards_a_block(upstream: Upstream) -> None:
    """`with breaker.calling():` counts what the block raises."""
    breaker = CircuitBreaker(fail_max=2, reset_timeout=60)
    for _ in range(2):
        with pytest.raises(ConnectionError), breaker.calling():
            raise ConnectionError

    with pytest.raises(pybreaker.CircuitBreakerError), breaker.calling():
        raise AssertionError("the block has run")
    assert breaker.current_state == pybreaker.STATE_OPEN


# States


def test_states_are_those_of_pybreaker(upstream: Upstream) -> None:
    """Their names and their classes, at each point of an outage."""
    breaker = CircuitBreaker(fail_max=1, reset_timeout=60)
    call = upstream.guarded(breaker)
    states = [breaker.state]
    upstream.down()
    outcome_of(call)
    states.append(breaker.state)
    upstream.time.advance(60)
    states.append(breaker.state)

    assert [type(state) for state in states] == [
        pybreaker.CircuitClosedState,
        pybreaker.CircuitOpenState,
        pybreaker.CircuitHalfOpenState,
    ]
    assert [state.name for state in states] == [
        pybreaker.STATE_CLOSED,
        pybreaker.STATE_OPEN,
        pybreaker.STATE_HALF_OPEN,
    ]
    assert breaker.current_state == pybreaker.STATE_HALF_OPEN


def test_it_can_be_opened_half_opened_and_closed(upstream: Upstream) -> None:
    """By the methods of pybreaker."""
    breaker = CircuitBreaker(fail_max=1, reset_timeout=60)
    call = upstream.guarded(breaker)

    breaker.open()
    assert (breaker.current_state, outcome_of(call)) == ("open", "rejected")
    breaker.half_open()
    assert breaker.current_state == "half-open"
    breaker.close()
    assert (breaker.current_state, outcome_of(call)) == ("closed", "answered")


def test_open_by_hand_lasts_for_the_reset_timeout(upstream: Upstream) -> None:
    """As a trip does."""
    breaker = CircuitBreaker(fail_max=1, reset_timeout=60)
    breaker.open()
    upstream.time.advance(59)
    assert breaker.current_state == "open"
    upstream.time.advance(1)

    assert breaker.current_state == "half-open"


@pytest.mark.parametrize("state", ["open", "half-open", "closed"])
def test_its_state_can_be_set(virtual_time: VirtualTime, state: str) -> None:
    """By the name of a state; another name is a ValueError."""
    breaker = CircuitBreaker(fail_max=1, reset_timeout=60)
    breaker.state = state
    assert breaker.current_state == state

    with pytest.raises(ValueError, match="state"):
        breaker.state = "ajar"
    assert breaker.current_state == state


def test_counters_are_those_of_pybreaker(upstream: Upstream) -> None:
    """Failures in a row, and successes while half-open."""
    breaker = CircuitBreaker(fail_max=3, reset_timeout=60, success_threshold=2)
    call = upstream.guarded(breaker)
    upstream.down()
    outcomes_of(call, 2)
    assert breaker.fail_counter == 2
    outcome_of(call)
    upstream.up()
    upstream.time.advance(60)
    outcome_of(call)
    assert (breaker.current_state, breaker.success_counter) == ("half-open", 1)
    outcome_of(call)
    assert (breaker.current_state, breaker.fail_counter) == ("closed", 0)


# Exclusions


def test_exclusions_are_types_and_predicates(upstream: Upstream) -> None:
    """Both in one list, with subclasses."""
    breaker = CircuitBreaker(fail_max=1, exclude=[LookupError, lambda e: "busy" in str(e)])
    call = upstream.guarded(breaker)
    for error in (KeyError("k"), IndexError("i"), ConnectionError("busy, try again")):
        upstream.error = error
        assert outcomes_of(call, 3) == [type(error).__name__] * 3
    upstream.down()

    assert outcomes_of(call, 2) == ["ConnectionError", "rejected"]


def test_exclusions_can_be_changed(upstream: Upstream) -> None:
    """One by one or several at once."""
    breaker = CircuitBreaker(fail_max=1)
    breaker.add_excluded_exception(KeyError)
    breaker.add_excluded_exceptions(ValueError, TypeError)
    assert breaker.excluded_exceptions == (KeyError, ValueError, TypeError)
    breaker.remove_excluded_exception(ValueError)

    assert breaker.excluded_exceptions == (KeyError, TypeError)
    assert not breaker.is_system_error(KeyError())
    assert breaker.is_system_error(ValueError())


# Errors


def test_a_rejection_is_caught_as_one_of_pybreaker(upstream: Upstream) -> None:
    """And has more to say than pybreaker's own."""
    breaker = CircuitBreaker("orders", fail_max=1, reset_timeout=60)
    call = upstream.guarded(breaker)
    upstream.down()
    outcome_of(call)

    with pytest.raises(pybreaker.CircuitBreakerError) as raised:
        call()
    assert isinstance(raised.value, CircuitOpen)
    assert raised.value.retry_after == 60
    assert isinstance(pickle.loads(pickle.dumps(raised.value)), pybreaker.CircuitBreakerError)


def test_the_call_that_trips_has_its_own_error(upstream: Upstream) -> None:
    """Unless it is asked for otherwise."""
    call = upstream.guarded(CircuitBreaker(fail_max=1))
    upstream.down()

    assert outcome_of(call) == "ConnectionError"


@pytest.mark.parametrize("way", ["decorated", "decorated async", "call", "block", "async block"])
def test_the_call_that_trips_can_have_pybreakers_error(upstream: Upstream, way: str) -> None:
    """With throw_new_error_on_trip=True; its cause is then the error of the call."""
    breaker = CircuitBreaker(fail_max=2, reset_timeout=60, throw_new_error_on_trip=True)
    call = upstream.guarded(breaker, way)
    upstream.error = down = ConnectionError("down")
    assert outcome_of(call) == "ConnectionError"

    with pytest.raises(pybreaker.CircuitBreakerError) as raised:
        call()
    assert raised.value.__cause__ is down
    assert breaker.current_state == "open"


def test_the_probe_that_fails_can_have_pybreakers_error(upstream: Upstream) -> None:
    """It opens the circuit as well."""
    breaker = CircuitBreaker(fail_max=1, reset_timeout=60, throw_new_error_on_trip=True)
    call = upstream.guarded(breaker)
    upstream.down()
    assert outcome_of(call) == "rejected"
    upstream.time.advance(60)

    before = upstream.calls
    assert outcome_of(call) == "rejected"
    assert upstream.calls == before + 1


# Differences


def test_arguments_by_position_are_told(virtual_time: VirtualTime) -> None:
    """Pybreaker's first one is fail_max, ours the name: neither is taken for the other."""
    with pytest.raises(InvalidSetting, match="name"):
        CircuitBreaker(5)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        CircuitBreaker(5, 60)  # type: ignore[arg-type, misc]


def test_an_excluded_error_is_no_success(upstream: Upstream) -> None:
    """With pybreaker it starts the count of failures anew, and closes a half-open circuit."""
    breaker = CircuitBreaker(fail_max=2, reset_timeout=60, exclude=[KeyError])
    theirs = pybreaker.CircuitBreaker(
        fail_max=2, reset_timeout=60, exclude=[KeyError], throw_new_error_on_trip=False
    )
    for one in (breaker, theirs):
        for error in (ConnectionError(), KeyError(), ConnectionError()):
            with pytest.raises(type(error)):
                one.call(fail_with, error)

    assert breaker.current_state == "open"
    assert theirs.current_state == "closed"


def fail_with(error: Exception) -> None:
    """Fail."""
    raise error


def test_an_interruption_is_no_failure(virtual_time: VirtualTime) -> None:
    """With pybreaker Ctrl-C and a cancellation count against the dependency."""
    breaker = CircuitBreaker(fail_max=1)
    theirs = pybreaker.CircuitBreaker(fail_max=1, throw_new_error_on_trip=False)
    for one in (breaker, theirs):
        with pytest.raises(KeyboardInterrupt):
            one.call(fail_with, KeyboardInterrupt())  # type: ignore[arg-type]

    assert breaker.current_state == "closed"
    assert theirs.current_state == "open"
