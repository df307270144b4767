"""45: draining. Not ready at once, no new work, and what is in flight ends."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from resilient import (
    CallRejected,
    Draining,
    InvalidSetting,
    InvalidUse,
    circuit_breaker,
    drain,
    draining,
    health,
    retry,
    timeout,
    unit_of_work,
)
from resilient.engine.reported import all_readings
from resilient.testing import VirtualTime
from tests.doubles import Scripted, each


@pytest.fixture(autouse=True)
def work_is_taken() -> Iterator[None]:
    """Let every test begin, and leave others, in a process that takes new work."""
    yield
    if draining():
        drain(0).resume()


def shown() -> dict[str, object]:
    names = ("requests_in_flight", "draining", "requests_rejected")
    return {one.name: one.value for one in all_readings() if one.name in names}


# The case itself


def test_a_call_in_flight_ends_and_new_ones_are_rejected(virtual_time: VirtualTime) -> None:
    """Readiness is 503 at once, the call finishes, and drain returns when it has."""

    async def request() -> str:
        async with unit_of_work():
            await asyncio.sleep(2)
            return "finished"

    async def main() -> None:
        in_flight = asyncio.create_task(request())
        await asyncio.sleep(0.5)
        drained = drain(timeout=5)
        assert health.page("/health/ready") is not None
        assert health.ready().http_status == 503
        with pytest.raises(Draining):
            await request()
        began = virtual_time.now()
        assert await drained is True
        assert virtual_time.now() - began == 1.5
        assert in_flight.done()
        assert await in_flight == "finished"

    virtual_time.run(main())


def test_what_does_not_end_in_time_is_left_behind(virtual_time: VirtualTime) -> None:
    """After `timeout` seconds the answer is False, and says how many are left."""

    async def main() -> None:
        async def request() -> None:
            with unit_of_work():
                await asyncio.sleep(60)

        tasks = [asyncio.create_task(request()) for _ in range(3)]
        await asyncio.sleep(0)
        began = virtual_time.now()
        drained = drain(timeout=5)
        assert await drained is False
        assert virtual_time.now() - began == 5
        assert drained.left == 3
        assert repr(drained) == "<Drain: 3 in flight>"
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert await drain(timeout=5) is True

    virtual_time.run(main())


def test_threads_and_loops_are_waited_for_together() -> None:
    """Units on two loops and three threads: the wait ends with the last of them, not before."""
    release = threading.Event()
    begun = threading.Barrier(6)
    ended: list[float] = []

    def on_a_thread() -> None:
        with unit_of_work():
            begun.wait()
            release.wait()
        ended.append(time.monotonic())

    async def task() -> None:
        async with unit_of_work():
            begun.wait()
            while not release.is_set():
                await asyncio.sleep(0.01)
        ended.append(time.monotonic())

    with ThreadPoolExecutor(5) as pool:
        works = [pool.submit(on_a_thread) for _ in range(3)]
        works += [pool.submit(asyncio.run, task()) for _ in range(2)]
        begun.wait()
        assert shown()["requests_in_flight"] == 5
        drained = drain(timeout=10)
        assert drained.left == 5
        threading.Timer(0.1, release.set).start()
        assert drained.wait() is True
        returned = time.monotonic()
        assert all(work.result() is None for work in works)
    assert shown()["requests_in_flight"] == 0
    assert abs(returned - max(ended)) < 0.5


# What is rejected, and what is not


def test_guarded_calls_of_a_unit_in_flight_go_on(virtual_time: VirtualTime) -> None:
    """A request that has begun may retry, use its circuit, and enter a unit of its own."""
    ask = Scripted(ConnectionError, "answer")
    guarded = circuit_breaker("asked while draining", fail_max=9)(
        retry(on=ConnectionError, wait_initial=0)(timeout(5)(ask))
    )
    with unit_of_work():
        drain(0)
        with unit_of_work():
            assert guarded() == "answer"
    with pytest.raises(Draining), unit_of_work():
        raise AssertionError("the body of a rejected unit is not run")


def test_a_unit_within_a_unit_is_counted_once() -> None:
    """Two middlewares around one request are one request."""
    with unit_of_work():
        with unit_of_work():
            assert shown()["requests_in_flight"] == 1
        assert shown()["requests_in_flight"] == 1
    assert shown()["requests_in_flight"] == 0


def test_what_a_unit_has_started_is_part_of_it_until_it_ends(virtual_time: VirtualTime) -> None:
    """A task that outlives its request is waited for; one that begins after it is new work."""

    async def main() -> None:
        async def later(delay: float, seconds: float) -> None:
            await asyncio.sleep(delay)
            with unit_of_work():
                await asyncio.sleep(seconds)

        with unit_of_work():
            longer = asyncio.create_task(later(0, 3))
            too_late = asyncio.create_task(later(7, 1))
            await asyncio.sleep(1)
        drained = drain(5)
        began = virtual_time.now()
        assert await drained is True
        assert virtual_time.now() - began == 2
        await longer
        with pytest.raises(Draining):
            await too_late

    virtual_time.run(main())


def test_a_request_that_drains_does_not_wait_for_itself() -> None:
    """An endpoint that ends the process, or a test client in the same task, is no deadlock."""
    with unit_of_work():
        assert drain(60).wait() is True


@each(
    "function",
    {
        "plain": lambda: unit_of_work()(lambda: "done"),
        "async": lambda: unit_of_work()(answer),
    },
)
def test_a_function_can_be_a_unit(function: object) -> None:
    """Each call of a decorated function is one unit, and is rejected while draining."""
    decorated = function()  # type: ignore[operator]

    def call() -> str:
        result = decorated()
        return asyncio.run(result) if asyncio.iscoroutine(result) else str(result)

    assert call() == "done"
    drain(0)
    with pytest.raises(Draining):
        call()


async def answer() -> str:
    return "done"


def test_a_function_that_returns_a_coroutine_is_a_unit_until_that_has_ended(
    virtual_time: VirtualTime,
) -> None:
    """As with an `async def`: it is in flight while it is awaited, and not before."""

    async def work() -> str:
        await asyncio.sleep(2)
        return "done"

    decorated = unit_of_work()(lambda: work())  # noqa: PLW0108

    async def main() -> None:
        task = asyncio.ensure_future(decorated())
        too_late = decorated()
        await asyncio.sleep(0.5)
        drained = drain(5)
        began = virtual_time.now()
        assert drained.left == 1
        assert await drained is True
        assert virtual_time.now() - began == 1.5
        assert await task == "done"
        with pytest.raises(Draining):
            await too_late

    virtual_time.run(main())


@pytest.mark.parametrize("kind", [classmethod, staticmethod])
def test_a_method_of_a_class_can_be_a_unit_whichever_decorator_is_further_out(kind: Any) -> None:
    """`@unit_of_work()` above `@classmethod` is as good as beneath it."""

    class Jobs:
        above = unit_of_work()(kind(lambda *of: shown()["requests_in_flight"]))
        beneath = kind(unit_of_work()(lambda *of: shown()["requests_in_flight"]))

    assert (Jobs.above(), Jobs().above(), Jobs.beneath(), Jobs().beneath()) == (1, 1, 1, 1)
    assert shown()["requests_in_flight"] == 0


def test_a_generator_cannot_be_a_unit() -> None:
    """It has done nothing yet when it returns; that is told when decorating."""

    def rows() -> Iterator[int]:
        yield 1

    with pytest.raises(InvalidUse, match="is a generator"):
        unit_of_work()(rows)


def test_a_unit_that_fails_or_is_cancelled_has_ended(virtual_time: VirtualTime) -> None:
    """However a unit ends, nobody waits for it any more."""

    async def main() -> None:
        async def request() -> None:
            async with unit_of_work():
                await asyncio.sleep(60)

        task = asyncio.create_task(request())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    virtual_time.run(main())
    with pytest.raises(KeyError), unit_of_work():
        raise KeyError
    assert shown()["requests_in_flight"] == 0


def test_a_unit_can_end_in_another_context() -> None:
    """A streamed response that the server closes elsewhere is over all the same."""
    import contextvars

    unit = unit_of_work()
    contextvars.copy_context().run(unit.__enter__)
    contextvars.copy_context().run(unit.__exit__, None, None, None)
    assert shown()["requests_in_flight"] == 0


# What is told


def test_a_rejection_says_when_to_ask_again() -> None:
    """It is a rejection like any other, which middlewares turn into a 503."""
    drain(0)
    with pytest.raises(CallRejected) as rejected, unit_of_work():
        raise AssertionError("not run")
    assert (rejected.value.reason, rejected.value.retry_after) == ("draining", 1.0)


def test_metrics_show_what_is_in_flight_and_that_no_more_is_taken() -> None:
    """There from the start at zero."""
    before = shown()
    assert before["requests_in_flight"] == before["draining"] == 0
    with unit_of_work():
        assert shown()["requests_in_flight"] == 1
        drain(0)
        assert shown()["draining"] == 1
    with pytest.raises(Draining), unit_of_work():
        pass
    assert shown()["requests_rejected"] == before["requests_rejected"] + 1  # type: ignore[operator]


def test_a_loop_is_not_blocked_by_waiting_for_it() -> None:
    """What is in flight on a loop could never end: that is told, and how to wait instead."""

    async def main() -> None:
        drained = drain(60)
        with pytest.raises(InvalidUse, match="await drain"):
            drained.wait()
        assert await drained is True

    asyncio.run(main())


def test_draining_twice_is_draining() -> None:
    """Both who drain are told; taken back, the process is ready again."""
    first, second = drain(1), drain(1)
    assert first.wait() is second.wait() is True
    assert draining()
    first.resume()
    assert not draining()
    with unit_of_work():
        assert health.ready().checks.get("process:draining") is None


@each("seconds", {"less than nothing": -1, "for ever": float("inf"), "a text": "25"})
def test_a_wrong_time_is_told_before_anything_happens(seconds: float) -> None:
    """The process goes on as it was."""
    with pytest.raises(InvalidSetting, match="timeout"):
        drain(seconds)
    assert not draining()


# Processes


def python(program: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program], stdout=subprocess.PIPE, text=True
    )


def test_a_signal_handler_can_begin_it() -> None:
    """SIGTERM while the main thread is in a unit: that ends, no other begins, and it exits."""
    program = """
import signal, time
from resilient import Draining, drain, unit_of_work
signal.signal(signal.SIGTERM, lambda *_: drain(timeout=5))
done = 0
try:
    while True:
        with unit_of_work():
            print("at work", flush=True)
            time.sleep(0.2)
            done += 1
except Draining:
    print("drained" if drain(5).wait() else "left behind", done)
"""
    with python(program) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "at work\n"
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=10)[0].splitlines()[-1] == "drained 1"
    assert process.returncode == 0


def test_a_signal_may_come_while_a_line_is_logged() -> None:
    """Beginning to drain takes no lock that the interrupted thread may hold, and is logged."""
    program = """
import os, signal, sys, time
import structlog
from resilient import drain

class Interrupted:
    written = []
    def write(self, text):
        self.written.append(text)
        if "the first line" in text:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
    def flush(self):
        pass

structlog.configure(logger_factory=structlog.PrintLoggerFactory(Interrupted()))
signal.signal(signal.SIGTERM, lambda *_: drain(timeout=5))
structlog.get_logger().info("the first line")
drain(5).wait()
end = time.monotonic() + 5
while "drain_started" not in str(Interrupted.written) and time.monotonic() < end:
    time.sleep(0.01)
print("resilient.drain_started" in str(Interrupted.written))
"""
    with python(program) as process:
        try:
            assert process.communicate(timeout=10)[0] == "True\n"
        finally:
            process.kill()


def test_a_forked_child_has_nothing_in_flight_and_takes_work() -> None:
    """What the parent is at, and that it is draining, is not the child's business."""
    with unit_of_work():
        drain(0)
        child = os.fork()
        if child == 0:
            has_begun = False
            with unit_of_work():
                has_begun = drain(0).left == 0
            os._exit(0 if has_begun else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert shown()["requests_in_flight"] == 1
