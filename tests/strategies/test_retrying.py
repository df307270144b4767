"""Retries around a block: what each attempt is, and what the loop does with its error."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import tenacity

from resilient import (
    CircuitOpen,
    InvalidUse,
    RetryBudget,
    Retrying,
    circuit_breaker,
    deadline,
    retrying,
)
from resilient.testing import VirtualTime
from tests.doubles import Scripted, calls, series


def attempt_at(block: Callable[[], object], *, attempts: Retrying) -> None:
    for attempt in attempts:
        with attempt:
            block()


def test_a_block_that_fails_is_entered_again(virtual_time: VirtualTime) -> None:
    """An error that `on` names is swallowed as long as there is a further attempt."""
    ask = Scripted(ConnectionError, ConnectionError, "answer")
    answer = None
    for attempt in retrying(on=ConnectionError, attempts=3):
        with attempt:
            answer = ask()
    assert (answer, ask.calls) == ("answer", 3)


def test_a_block_that_succeeds_is_the_last(virtual_time: VirtualTime) -> None:
    """The loop ends with the first attempt that raises nothing."""
    ask = Scripted("answer")
    for attempt in retrying(on=ConnectionError, attempts=3):
        with attempt:
            ask()
    assert ask.calls == 1


def test_attempts_have_numbers(virtual_time: VirtualTime) -> None:
    """`attempt.number` counts from one."""
    ask = Scripted(ConnectionError, ConnectionError, "answer")
    numbers = []
    for attempt in retrying(on=ConnectionError):
        with attempt:
            numbers.append(attempt.number)
            ask()
    assert numbers == [1, 2, 3]


def test_the_error_of_the_last_attempt_leaves_as_it_was(virtual_time: VirtualTime) -> None:
    """The last error is the callee's own, with a note on attempts, time and reason."""
    last = ConnectionError("third")
    ask = Scripted(ConnectionError("first"), ConnectionError("second"), last)
    wait = tenacity.wait_fixed(2)
    with pytest.raises(ConnectionError) as caught:
        attempt_at(ask, attempts=retrying(on=ConnectionError, name="a block", wait=wait))
    assert caught.value is last
    assert last.__notes__ == ["resilient: a block: 3 attempts in 4.000 s, stopped by: attempts"]


@pytest.mark.parametrize("is_async", [False, True])
def test_a_circuit_that_opens_within_the_loop_ends_it_with_the_real_error(
    virtual_time: VirtualTime, is_async: bool
) -> None:
    """As for a function: the rejection of the next attempt does not take its place."""
    breaker = circuit_breaker(fail_max=2, reset_timeout=60)
    before = KeyError("what the callee was about")
    error = ConnectionError("refused")
    error.__context__ = before
    ask = Scripted(error)
    loop = retrying(on=ConnectionError, attempts=5, wait=lambda _: 1, name="a loop")

    def connect() -> None:
        attempt_at(lambda: breaker.call(ask), attempts=loop)

    async def connect_async() -> None:
        async for attempt in loop:
            with attempt:
                breaker.call(ask)

    act = (lambda: virtual_time.run(connect_async())) if is_async else connect
    with pytest.raises(ConnectionError) as caught:
        act()
    assert caught.value is error
    assert error.__context__ is before
    assert error.__notes__ == ["resilient: a loop: 2 attempts in 2.000 s, stopped by: circuit"]
    assert ask.calls == 2
    with pytest.raises(CircuitOpen) as rejected:
        attempt_at(lambda: breaker.call(ask), attempts=loop)
    assert rejected.value.__cause__ is error


def test_another_error_leaves_at_once(virtual_time: VirtualTime) -> None:
    """An error that `on` does not name leaves its block, and no attempt follows."""
    ask = Scripted(KeyError("no such user"))
    with pytest.raises(KeyError):
        attempt_at(ask, attempts=retrying(on=ConnectionError))
    assert ask.calls == 1


def test_pauses_lie_between_the_attempts(virtual_time: VirtualTime) -> None:
    """The pause of a wait object passes before the next attempt, and none after the last."""
    began = virtual_time.now()
    begun: list[float] = []

    def connect() -> None:
        begun.append(virtual_time.now() - began)
        raise ConnectionError

    with pytest.raises(ConnectionError):
        attempt_at(connect, attempts=retrying(on=ConnectionError, wait=tenacity.wait_fixed(5)))
    assert begun == [0, 5, 10]
    assert virtual_time.now() - began == 10


def test_async_for_waits_without_blocking(virtual_time: VirtualTime) -> None:
    """`async for` awaits its pauses, so other tasks go on meanwhile."""
    ask = Scripted(ConnectionError, "answer")
    order: list[str] = []

    async def other() -> None:
        await asyncio.sleep(1)
        order.append("other")

    async def main() -> None:
        task = asyncio.create_task(other())
        async for attempt in retrying(on=ConnectionError, wait=tenacity.wait_fixed(2)):
            with attempt:
                order.append(ask())
        await task

    virtual_time.run(main())
    assert order == ["other", "answer"]


def test_a_break_within_the_block_is_a_success(virtual_time: VirtualTime) -> None:
    """A `break` leaves the loop and counts as what it is: an attempt without an error."""
    ask = Scripted(ConnectionError, "answer")
    for attempt in retrying(on=ConnectionError, name="left by break"):
        with attempt:
            ask()
            break
    assert ask.calls == 2
    assert calls("left by break") == {"success": 1}


def test_a_return_within_the_block_is_a_success(virtual_time: VirtualTime) -> None:
    """A function can return out of the loop."""
    ask = Scripted(ConnectionError, "answer")

    def load() -> Any:
        for attempt in retrying(on=ConnectionError):
            with attempt:
                return ask()
        raise AssertionError("unreachable")

    assert load() == "answer"


def test_a_break_between_attempts_gives_up_quietly(virtual_time: VirtualTime) -> None:
    """A `break` after a failed attempt ends the loop without its error, and counts as cancelled."""
    ask = Scripted(ConnectionError)
    for attempt in retrying(on=ConnectionError, name="given up"):
        with attempt:
            ask()
        break
    assert ask.calls == 1
    assert calls("given up") == {"cancelled": 1}


async def test_a_break_ends_an_asynchronous_loop_too(virtual_time: VirtualTime) -> None:
    """`async for` is left by a `break` as `for` is."""
    ask = Scripted("answer")
    async for attempt in retrying(on=ConnectionError):
        with attempt:
            ask()
            break
    assert ask.calls == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
def test_what_is_no_exception_leaves_at_once(
    virtual_time: VirtualTime, error: type[BaseException]
) -> None:
    """Cancellation and Ctrl-C end the loop, and are counted as cancelled."""
    ask = Scripted(error)
    with pytest.raises(error):
        attempt_at(ask, attempts=retrying(on=BaseException, name=f"left by {error.__name__}"))
    assert ask.calls == 1
    assert calls(f"left by {error.__name__}") == {"cancelled": 1}


def test_ctrl_c_in_a_hook_leaves_the_loop(virtual_time: VirtualTime) -> None:
    """Between two attempts it is not swallowed with the error of the first."""
    ask, interrupt = Scripted(ConnectionError), Scripted(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        attempt_at(
            ask,
            attempts=retrying(on=ConnectionError, after=interrupt, name="left in a hook"),
        )
    assert (ask.calls, interrupt.calls) == (1, 1)
    assert calls("left in a hook") == {"cancelled": 1}


def test_an_error_that_the_user_catches_ends_the_loop(virtual_time: VirtualTime) -> None:
    """Who catches the last error around the block comes to the end of the loop."""
    ask = Scripted(KeyError)
    seen = 0
    for attempt in retrying(on=ConnectionError):
        try:
            with attempt:
                ask()
        except KeyError:
            seen += 1
    assert (seen, ask.calls) == (1, 1)


def test_one_object_can_be_looped_over_many_times(virtual_time: VirtualTime) -> None:
    """Each loop has attempts of its own, also one within another."""
    attempts = retrying(on=ConnectionError, attempts=2, budget=None)
    for _ in range(3):
        ask = Scripted(ConnectionError)
        with pytest.raises(ConnectionError):
            attempt_at(ask, attempts=attempts)
        assert ask.calls == 2


def test_loops_under_one_name_share_a_budget(virtual_time: VirtualTime) -> None:
    """A place in the program has one budget, however often it is come by."""
    ask = Scripted(ConnectionError)

    def load() -> None:
        for attempt in retrying(on=ConnectionError):
            with attempt:
                ask()

    for _ in range(100):
        with pytest.raises(ConnectionError):
            load()
    assert ask.calls == 100 + 10


def test_the_budgets_of_names_that_are_long_unused_are_forgotten(
    virtual_time: VirtualTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names may be made up for each use; those that were used last keep what they have spent."""
    places: OrderedDict[str, Any] = OrderedDict()
    monkeypatch.setattr("resilient.strategies.retrying._places", places)
    monkeypatch.setattr("resilient.strategies.retrying._MOST_PLACES", 2)
    for name in ("first", "second", "first", "third"):
        retrying(on=ConnectionError, name=name)
    assert list(places) == ["first", "third"]


def test_a_budget_can_be_handed_over(virtual_time: VirtualTime) -> None:
    """A loop takes its retries from the budget that it is given."""
    budget = RetryBudget(size=1)
    ask = Scripted(ConnectionError)
    for _ in range(3):
        with pytest.raises(ConnectionError):
            attempt_at(ask, attempts=retrying(on=ConnectionError, budget=budget))
    assert ask.calls == 4


def test_a_loop_keeps_to_the_deadline_around_it(virtual_time: VirtualTime) -> None:
    """No pause reaches beyond the time that is left."""
    ask = Scripted(ConnectionError)
    began = virtual_time.now()
    attempts = retrying(on=ConnectionError, wait=tenacity.wait_fixed(3), attempts=9)
    with deadline(5), pytest.raises(ConnectionError):
        attempt_at(ask, attempts=attempts)
    assert (ask.calls, virtual_time.now() - began) == (2, 3)


def test_attempts_of_a_block_are_counted(virtual_time: VirtualTime) -> None:
    """One loop of three attempts is one call, three attempts and two retries."""
    ask = Scripted(ConnectionError, ConnectionError, "answer")
    for attempt in retrying(on=ConnectionError, name="counted block"):
        with attempt:
            ask()
    seen = series("counted block")
    assert calls("counted block") == {"success": 1}
    assert seen["resilient_attempts_total"] == 3
    assert seen["resilient_retries_total"] == 2


# Misuse


def test_an_attempt_has_to_be_a_block(virtual_time: VirtualTime) -> None:
    """A loop whose body forgets `with attempt` is told, instead of running for ever."""
    with pytest.raises(InvalidUse, match="with attempt"):
        for _attempt in retrying(on=ConnectionError):
            pass


async def test_an_attempt_of_async_for_has_to_be_a_block_too(virtual_time: VirtualTime) -> None:
    """`async for` without `with attempt` is told as well."""
    with pytest.raises(InvalidUse, match="with attempt"):
        async for _attempt in retrying(on=ConnectionError):
            pass


def test_an_attempt_is_one_block_and_not_two(virtual_time: VirtualTime) -> None:
    """An attempt that is entered a second time is told to belong to one block."""
    attempts = iter(retrying(on=ConnectionError))
    attempt = next(attempts)
    with attempt:
        raise ConnectionError
    with pytest.raises(InvalidUse, match="attempt"):
        attempt.__enter__()


def test_an_attempt_has_to_end_before_the_next(virtual_time: VirtualTime) -> None:
    """Who takes the next attempt within the block of one is told so, at the first and later."""
    attempts = iter(retrying(on=ConnectionError, budget=None))
    with next(attempts):
        raise ConnectionError
    with next(attempts), pytest.raises(InvalidUse, match="is a block"):
        next(attempts)


def test_an_attempt_cannot_be_used_after_its_loop(virtual_time: VirtualTime) -> None:
    """An attempt that is kept until after the end of the loop is told to be over."""
    kept: Any = None
    for attempt in retrying(on=ConnectionError):
        kept = attempt
        with attempt:
            pass
    with pytest.raises(InvalidUse, match="attempt"):
        kept.__enter__()


def test_what_is_tried_again_must_be_said() -> None:
    """A loop needs `on` before its first attempt."""
    with pytest.raises(InvalidUse, match=r"on="):
        retrying()


def test_a_block_has_no_value_to_dislike() -> None:
    """`on_result` is refused: a block returns nothing."""
    with pytest.raises(InvalidUse, match="on_result"):
        retrying(on=ConnectionError, on_result=lambda value: value is None)
