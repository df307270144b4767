"""The machine's clock, and what is due on it later."""

from __future__ import annotations

import asyncio
import inspect
import threading

import pytest

from resilient.engine import clock
from resilient.testing import VirtualTime
from tests.doubles import waiting_for_ever


@pytest.mark.parametrize("kind", [RuntimeError, SystemExit, asyncio.CancelledError])
def test_a_callback_that_raises_ends_no_other(kind: type[BaseException]) -> None:
    """The thread of timers goes on, whatever a callback does."""
    called = threading.Event()

    def broken() -> None:
        raise kind("in a callback")

    clock.system.later(0.0, broken)
    clock.system.later(0.01, called.set)
    assert called.wait(10)


def test_what_is_due_waits_while_another_clock_is_in_place() -> None:
    """A check that another test has begun does not run in the midst of virtual time."""
    called = threading.Event()
    with VirtualTime():
        clock.system.later(0.0, called.set)
        assert not called.wait(0.15)
    assert called.wait(10)


def test_a_sleep_may_be_longer_than_the_platform_counts() -> None:
    """It is as long as the platform can, and no error of its."""
    with waiting_for_ever():
        clock.system.sleep(1e308)


@pytest.mark.parametrize("seconds", [0.0, -1.0])
def test_no_time_is_no_sleep(seconds: float) -> None:
    """Neither is less than none, which the platform would refuse."""
    clock.system.sleep(seconds)


def test_a_coroutine_that_its_loop_never_comes_to_is_closed() -> None:
    """Its time is over while something blocks the loop, and nobody is going to await it."""
    loop, free, asked = asyncio.new_event_loop(), threading.Event(), asyncio.sleep(0)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    blocked = threading.Event()
    loop.call_soon_threadsafe(lambda: blocked.set() or free.wait())
    try:
        assert blocked.wait(30)
        with pytest.raises(TimeoutError):
            clock.system.run_coroutine(asked, loop, -0.99)
        assert inspect.getcoroutinestate(asked) == inspect.CORO_CLOSED
    finally:
        free.set()
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0.001), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_a_coroutine_may_have_more_time_than_the_platform_counts() -> None:
    """On the loop of another thread, it is back when it has ended."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        found = clock.system.run_coroutine(asyncio.sleep(0, "answer"), loop, 1e308)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
    assert found == "answer"
