"""Cooperative time limits: known to all that a call does, and never moved to another thread."""

from __future__ import annotations

import asyncio
import re
import threading
from typing import Any

import pytest
from structlog.testing import capture_logs

from resilient import (
    CallTimeout,
    DeadlineExceeded,
    InvalidUse,
    circuit_breaker,
    deadline,
    remaining,
    retry,
    timeout,
    with_fallback,
)
from resilient.testing import VirtualTime
from tests.doubles import Scripted, calls


def test_what_is_left_can_be_read(virtual_time: VirtualTime) -> None:
    """`remaining()` counts down, never below zero, and is None where there is no limit."""
    assert remaining() is None
    with deadline(2) as limit:
        assert remaining() == limit.remaining() == 2
        virtual_time.advance(1.5)
        assert remaining() == limit.remaining() == 0.5
        virtual_time.advance(10)
        assert remaining() == limit.remaining() == 0
    assert remaining() is None


def test_a_function_sees_what_is_left(virtual_time: VirtualTime) -> None:
    """As a decorator it is known to the function and forgotten afterwards."""
    assert deadline(2)(remaining)() == 2
    assert remaining() is None


def test_a_call_stays_on_its_thread() -> None:
    """Sessions that belong to a thread stay valid."""
    assert deadline(2)(threading.get_ident)() == threading.get_ident()


def test_a_synchronous_call_that_takes_too_long_is_not_taken_away(
    virtual_time: VirtualTime,
) -> None:
    """It is cooperative: what ignores its limit still returns its answer."""

    @deadline(2)
    def ask() -> str:
        virtual_time.sleep(60)
        return "answer"

    assert ask() == "answer"


def test_an_asynchronous_call_is_cancelled(virtual_time: VirtualTime) -> None:
    """Where it costs nothing, the limit is enforced."""
    began = virtual_time.now()
    with pytest.raises(CallTimeout):
        virtual_time.run(deadline(2)(asyncio.sleep)(60))
    assert virtual_time.now() - began == 2


def test_an_asynchronous_block_is_cancelled(virtual_time: VirtualTime) -> None:
    """`async with deadline(2)` ends its block after two seconds."""

    async def main() -> None:
        async with deadline(2):
            await asyncio.sleep(60)

    began = virtual_time.now()
    with pytest.raises(CallTimeout):
        virtual_time.run(main())
    assert virtual_time.now() - began == 2


def test_no_guarded_call_begins_after_it(virtual_time: VirtualTime) -> None:
    """When the time is over a nested guarded call is not made, and the error says so."""
    ask = Scripted("answer")
    inner = timeout(30)(ask)
    with deadline(2):
        virtual_time.advance(2)
        with pytest.raises(DeadlineExceeded, match="not called"):
            inner()
    assert ask.calls == 0


def test_a_deadline_that_is_over_says_nothing_against_the_dependency(
    virtual_time: VirtualTime,
) -> None:
    """A call that was not made does not count as a failure of what it would have called."""
    breaker = circuit_breaker("not called in time", fail_max=1)
    inner = breaker(timeout(30)(Scripted("answer")))
    with deadline(2):
        virtual_time.advance(2)
        for _ in range(3):
            with pytest.raises(DeadlineExceeded):
                inner()
    assert breaker.current_state == "closed"
    assert inner() == "answer"


@pytest.mark.parametrize(("outer", "inner", "left"), [(2, 5, 2), (5, 2, 2)])
def test_the_tighter_of_two_nested_deadlines_wins(
    virtual_time: VirtualTime, outer: float, inner: float, left: float
) -> None:
    """An inner deadline shortens the time and never lengthens it; afterwards the outer holds."""
    with deadline(outer):
        with deadline(inner):
            assert remaining() == left
        assert remaining() == outer
        assert deadline(inner)(remaining)() == left
        assert remaining() == outer


def test_a_hard_limit_is_seen_by_a_deadline_within(virtual_time: VirtualTime) -> None:
    """Limits of both kinds clip each other."""

    @timeout(1)
    def hard_around() -> float | None:
        return deadline(5)(remaining)()

    @deadline(1)
    def hard_within() -> float | None:
        return timeout(5)(remaining)()

    assert hard_around() == hard_within() == 1


def test_a_retry_within_it_does_not_outlive_it(virtual_time: VirtualTime) -> None:
    """The total of a cooperative call with retries stays within the limit."""
    ask = Scripted(ConnectionError)
    began = virtual_time.now()
    with deadline(2), pytest.raises(ConnectionError):
        retry(on=ConnectionError, attempts=99, wait=lambda _: 0.75, budget=None)(ask)()
    assert (ask.calls, virtual_time.now() - began) == (3, 1.5)


# Handing it down


def echo(url: str, timeout: float = 60, **more: Any) -> float:
    return timeout


def test_what_is_left_is_handed_to_the_callee(virtual_time: VirtualTime) -> None:
    """`pass_as` gives the remaining seconds as an argument of that name."""
    guarded = deadline(2, pass_as="timeout")(echo)
    assert guarded("url") == 2
    with deadline(5):
        virtual_time.advance(4)
        assert guarded("url") == 1


def test_a_shorter_limit_of_the_callers_is_kept(virtual_time: VirtualTime) -> None:
    """An argument that is tighter than what is left stays; a looser one is replaced."""
    guarded = deadline(2, pass_as="timeout")(echo)
    assert guarded("url", timeout=0.5) == 0.5
    assert guarded("url", timeout=30) == 2


def test_a_limit_that_the_caller_gives_by_position_is_clipped_as_well(
    virtual_time: VirtualTime,
) -> None:
    """Whether an argument is given by name or by position makes no difference."""
    guarded = deadline(2, pass_as="timeout")(echo)
    assert guarded("url", 0.5) == 0.5
    assert guarded("url", 30) == 2


def test_what_stands_behind_it_stays_where_it_is(virtual_time: VirtualTime) -> None:
    """Arguments by position before and after the one that is clipped are handed on as they are."""

    def ask(url: str, timeout: float, *more: str) -> tuple[Any, ...]:
        return url, timeout, *more

    assert deadline(2, pass_as="timeout")(ask)("url", 30, "a", "b") == ("url", 2, "a", "b")


def test_what_is_left_can_be_handed_to_keyword_arguments(virtual_time: VirtualTime) -> None:
    """A function that takes any keyword takes this one."""

    def ask(**options: float) -> dict[str, float]:
        return options

    assert deadline(2, pass_as="read_timeout")(ask)() == {"read_timeout": 2}


def test_an_asynchronous_callee_is_handed_what_is_left(virtual_time: VirtualTime) -> None:
    """`pass_as` works for coroutine functions too."""

    @deadline(2, pass_as="timeout")
    async def ask(timeout: float = 60) -> float:
        return timeout

    assert virtual_time.run(ask()) == 2


def test_each_attempt_is_handed_what_is_left_then(virtual_time: VirtualTime) -> None:
    """With a retry inside, later attempts are given less."""
    given: list[float] = []

    @deadline(5, pass_as="timeout")
    @retry(on=ConnectionError, wait=lambda _: 2)
    def ask(timeout: float) -> None:
        given.append(timeout)
        raise ConnectionError

    with pytest.raises(ConnectionError):
        ask()  # type: ignore[call-arg]
    assert given == [5, 3, 1]


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (lambda url, seconds: url, "url, seconds"),
        (lambda: None, "none"),
        (lambda timeout, /: timeout, "timeout"),
    ],
    ids=["no", "none", "/"],
)
def test_a_function_without_such_a_parameter_is_refused(function: Any, parameters: str) -> None:
    """A name that the function cannot be given is told when it is decorated, with those it can."""
    told = rf"pass_as='timeout': .* has no such parameter to name; it has {re.escape(parameters)}$"
    with pytest.raises(InvalidUse, match=told):
        deadline(2, pass_as="timeout")(function)


# As a part of more


async def pause(seconds: float) -> None:
    await asyncio.sleep(seconds)


def test_it_is_counted_as_a_timeout_when_it_cuts(virtual_time: VirtualTime) -> None:
    """An asynchronous call that is cut by its deadline is the outcome `timeout`."""
    guarded = deadline(2)(circuit_breaker("cut by a deadline", fail_max=9)(pause))
    with pytest.raises(CallTimeout):
        virtual_time.run(guarded(60))
    assert calls("cut by a deadline") == {"timeout": 1}


def test_it_is_told_of_when_it_cuts_and_only_then(virtual_time: VirtualTime) -> None:
    """The event names the limit that has cut, which is not always the outermost."""
    cut = deadline(2)(circuit_breaker("told by a deadline", fail_max=9)(pause))
    cut_within = deadline(30)(timeout(1)(pause))
    with capture_logs() as logs:
        for guarded in (cut, cut_within):
            with pytest.raises(CallTimeout):
                virtual_time.run(guarded(60))
    assert [(log["event"], log["seconds"]) for log in logs] == [
        ("resilient.call_timed_out", 2),
        ("resilient.call_timed_out", 1),
    ]


def test_it_is_readable() -> None:
    """Where a pipeline is shown, a deadline shows its limit and what it hands down."""
    assert repr(deadline(2)) == "Deadline(2)"
    assert repr(deadline(0.5, pass_as="timeout")) == "Deadline(0.5, pass_as='timeout')"


def test_a_fallback_serves_when_the_time_is_over(virtual_time: VirtualTime) -> None:
    """A plain value needs no time, so it is served even then."""
    guarded = with_fallback("default")(timeout(30)(Scripted("answer")))
    with deadline(2):
        virtual_time.advance(3)
        assert guarded() == "default"


def test_many_tasks_have_deadlines_of_their_own(virtual_time: VirtualTime) -> None:
    """One object guards concurrent tasks, and each counts its own time."""
    limit = deadline(2)

    @limit
    async def ask(delay: float) -> float | None:
        await asyncio.sleep(delay)
        return remaining()

    async def main() -> list[float | None]:
        return await asyncio.gather(*(ask(delay) for delay in (0, 0.5, 1)))

    assert virtual_time.run(main()) == [2, 1.5, 1]


def test_many_tasks_can_be_in_blocks_of_one_deadline(virtual_time: VirtualTime) -> None:
    """A `with` block of one object is entered from many tasks at once."""
    limit = deadline(2)

    async def ask(delay: float) -> float | None:
        await asyncio.sleep(delay)
        async with limit as block:
            await asyncio.sleep(delay)
            return block.remaining()

    async def main() -> list[float | None]:
        return await asyncio.gather(*(ask(delay) for delay in (0, 0.5, 1)))

    assert virtual_time.run(main()) == [2, 1.5, 1]
