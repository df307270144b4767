"""A limit is in force while its call is being made, and not after it."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from typing import Any

import pytest

from resilient import (
    CallTimeout,
    DeadlineExceeded,
    deadline,
    pipeline_of,
    remaining,
    retry,
    timeout,
)
from resilient.engine.timers import MOST_LOOPS
from resilient.testing import VirtualTime


@retry(on=ConnectionError)
async def guarded_later() -> float | None:
    return remaining()


@pytest.mark.parametrize("fails_first", [False, True], ids=["fast lane", "slow lane"])
def test_a_task_that_outlives_its_call_is_not_under_its_limit(
    virtual_time: VirtualTime, fails_first: bool
) -> None:
    """A client that starts a background task at its first use can go on calling in it."""
    failures = [ConnectionError()] if fails_first else []

    async def in_the_background() -> float | None:
        await asyncio.sleep(60)
        return await guarded_later()

    @retry(on=ConnectionError, wait_initial=0)
    @timeout(0.1)
    async def first_use() -> asyncio.Task[float | None]:
        if failures:
            raise failures.pop()
        return asyncio.create_task(in_the_background())

    async def main() -> float | None:
        return await (await first_use())

    assert virtual_time.run(main()) is None


def test_the_limit_around_an_ended_one_is_in_force_again(virtual_time: VirtualTime) -> None:
    """What a call leaves behind is under the limits of the calls that are still being made."""

    @timeout(1)
    async def inner() -> contextvars.Context:
        return contextvars.copy_context()

    @timeout(10)
    async def outer() -> float | None:
        left_behind = await inner()
        await asyncio.sleep(2)
        return left_behind.run(remaining)

    assert virtual_time.run(outer()) == pytest.approx(8)


@pytest.mark.parametrize("fails_first", [False, True], ids=["fast lane", "slow lane"])
def test_a_limit_is_for_a_task(fails_first: bool) -> None:
    """A coroutine that a callback of the loop carries on by hand can be cancelled by nobody."""
    told: list[str] = []
    fails = [fails_first]

    @retry(on=ConnectionError, wait_initial=0)
    @timeout(5)
    async def ask() -> None:
        if fails.pop():
            raise ConnectionError

    def carry_on() -> None:
        with pytest.raises(RuntimeError) as refused:
            ask().send(None)
        told.append(str(refused.value))

    async def main() -> None:
        asyncio.get_running_loop().call_soon(carry_on)
        await asyncio.sleep(0)

    asyncio.run(main())
    assert told == ["an asynchronous time limit needs a running asyncio task"]


def test_what_a_block_leaves_behind_is_not_under_its_limit(virtual_time: VirtualTime) -> None:
    """A context that was copied within a block can be used after it."""
    with deadline(1):
        left_behind = contextvars.copy_context()
        assert left_behind.run(remaining) == pytest.approx(1)
    virtual_time.advance(2)
    assert left_behind.run(remaining) is None


def test_a_limit_that_has_ended_keeps_calls_from_the_fast_lane_once() -> None:
    """A task that a call has started, and that lives on, makes its calls as fast as any other."""

    @retry(on=ConnectionError)
    def guarded() -> None:
        """Be back at once."""

    with deadline(1):
        left_behind = contextvars.copy_context()
    for _ in range(3):
        left_behind.run(guarded)
    assert len(pipeline_of(guarded).journal) == 2


def test_an_abandoned_call_stays_under_the_limit_that_it_broke() -> None:
    """Whatever an abandoned call goes on to call is not called any more."""
    go_on, called = threading.Event(), threading.Event()
    ends: list[BaseException] = []

    @deadline(60)
    def nested() -> None:
        called.set()

    @timeout(0.05)
    def hangs() -> None:
        go_on.wait(10)
        try:
            nested()
        except BaseException as error:
            ends.append(error)
            raise
        finally:
            done.set()

    done = threading.Event()
    with pytest.raises(CallTimeout):
        hangs()
    go_on.set()
    assert done.wait(10)
    assert not called.is_set()
    assert [type(error) for error in ends] == [DeadlineExceeded]


def test_loops_that_take_turns_keep_one_timer_each() -> None:
    """A limit that is used on two loops in turn does not leave a timer for each change."""

    @timeout(3600)
    async def call() -> None:
        """Be back at once."""

    loops = [asyncio.new_event_loop() for _ in range(2)]
    try:
        for _ in range(50):
            for loop in loops:
                loop.run_until_complete(call())
        assert [pending_timers(loop) for loop in loops] == [1, 1]
    finally:
        for loop in loops:
            loop.close()


def test_closed_loops_are_forgotten() -> None:
    """A limit that is used on a new loop each time, as by asyncio.run, keeps few of them."""
    limit = timeout(3600)

    @limit
    async def call() -> None:
        """Be back at once."""

    for _ in range(3 * MOST_LOOPS):
        asyncio.run(call())
    assert len(limit.cuts._others) <= 1


def pending_timers(loop: Any) -> int:
    return len(loop._scheduled)
