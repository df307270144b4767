"""What comes for the tests of user code: virtual time, faults, and guards that are off."""

# What returns Any may be a coroutine, for all that a type checker knows.
# pyright: reportUnusedCoroutine=false, reportIndexIssue=false, reportAttributeAccessIssue=false

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from typing import Any, cast

import pytest

import resilient.testing
from resilient import (
    CallTimeout,
    CircuitOpen,
    Dependency,
    InvalidUse,
    circuit_breaker,
    deadline,
    retry,
    timeout,
    with_fallback,
)
from resilient.engine import clock
from resilient.engine.waiting import Waiter
from resilient.testing import VirtualLoop, VirtualTime, fail, pass_through
from resilient.testing.plugin import pytest_unconfigure
from tests.doubles import Scripted, calls

# Virtual time


def test_time_passes_when_it_is_told_to(virtual_time: VirtualTime) -> None:
    """`advance` and `sleep` move the clock by exactly so much, and nothing else does."""
    began = virtual_time.now()
    time.sleep(0.01)
    assert virtual_time.now() == began
    virtual_time.advance(1.5)
    virtual_time.sleep(0.25)
    assert virtual_time.now() == began + 1.75


def test_the_librarys_clock_comes_back_afterwards() -> None:
    """Outside of the block the machine's clock is in use, also after an error."""
    before = clock.current

    def use() -> None:
        with VirtualTime() as virtual:
            assert clock.current is virtual
            raise KeyError

    with pytest.raises(KeyError):
        use()
    assert clock.current is before
    assert clock.now is before.now


def test_virtual_times_nest() -> None:
    """An inner virtual time ends with its block, and the outer one goes on."""
    with VirtualTime(start=100) as outer:
        with VirtualTime(start=500) as inner:
            assert clock.now() == 500
            inner.advance(1)
        assert clock.now() == outer.now() == 100


def test_callbacks_are_called_when_they_are_due(virtual_time: VirtualTime) -> None:
    """What is due on the way is called in order, each at its own time."""
    called: list[tuple[str, float]] = []
    began = virtual_time.now()
    for name, seconds in (("second", 2.0), ("first", 1.0), ("third", 5.0)):
        virtual_time.later(
            seconds, lambda name=name: called.append((name, virtual_time.now() - began))
        )
    cancelled = virtual_time.later(1.5, lambda: called.append(("cancelled", 0)))
    cancelled.cancel()
    virtual_time.advance(3)
    assert called == [("first", 1), ("second", 2)]
    assert virtual_time.now() - began == 3


def test_a_limit_cuts_a_function_in_its_sleep(virtual_time: VirtualTime) -> None:
    """A function under a limit is left in the middle of its virtual sleep."""
    reached: list[str] = []

    def ask() -> None:
        virtual_time.sleep(1)
        reached.append("first")
        virtual_time.sleep(60)
        reached.append("never")

    with pytest.raises(CallTimeout):
        timeout(5)(ask)()
    assert reached == ["first"]


def test_a_loop_jumps_to_what_is_due_next(virtual_time: VirtualTime) -> None:
    """A day of `asyncio.sleep` takes no real time, and tasks keep their order."""
    order: list[str] = []

    async def wait(name: str, hours: float) -> None:
        await asyncio.sleep(hours * 3600)
        order.append(name)

    async def main() -> str:
        await asyncio.gather(wait("late", 23), wait("early", 1), wait("noon", 12))
        return "done"

    began, real = virtual_time.now(), time.monotonic()
    assert virtual_time.run(main()) == "done"
    assert order == ["early", "noon", "late"]
    assert virtual_time.now() - began == 23 * 3600
    assert time.monotonic() - real < 5


def test_asyncios_own_timeouts_are_virtual(virtual_time: VirtualTime) -> None:
    """`asyncio.timeout` and `wait_for` count virtual seconds."""

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60):
                await asyncio.sleep(3600)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.sleep(3600), 60)

    began = virtual_time.now()
    virtual_time.run(main())
    assert virtual_time.now() - began == 120


def test_a_loop_in_virtual_time_takes_answers_of_threads(virtual_time: VirtualTime) -> None:
    """What a real thread hands to the loop arrives, without virtual time running away."""

    async def main() -> str:
        return await asyncio.to_thread(lambda: time.sleep(0.02) or "from a thread")

    assert virtual_time.run(main()) == "from a thread"


def test_the_loop_is_a_loop_of_asyncio(virtual_time: VirtualTime) -> None:
    """`VirtualLoop` can be made by hand, for runners of other kinds."""
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(virtual_time)) as runner:
        began = virtual_time.now()
        runner.run(asyncio.sleep(3600))
    assert virtual_time.now() - began == 3600


def test_a_breaker_recovers_when_time_is_advanced(virtual_time: VirtualTime) -> None:
    """A test can wait for a circuit without waiting."""
    breaker = circuit_breaker("recovers in a test", fail_max=1, reset_timeout=30)
    guarded = breaker(Scripted(ConnectionError, "answer"))
    with pytest.raises(ConnectionError):
        guarded()
    with pytest.raises(CircuitOpen):
        guarded()
    virtual_time.advance(30)
    assert guarded() == "answer"


def test_a_wait_that_nothing_can_end_is_told(virtual_time: VirtualTime) -> None:
    """A test that would hang for ever fails instead."""
    with pytest.raises(RuntimeError, match="for ever"):
        virtual_time.acquire(locked(), None)


def test_a_task_on_another_loop_is_told_of_such_a_wait(virtual_time: VirtualTime) -> None:
    """On a loop of real time, where nothing but other tasks could end it."""
    with pytest.raises(RuntimeError, match=r"VirtualTime\.run"):
        asyncio.run(virtual_time.wait_async(Waiter(), None))


def test_a_lock_is_waited_for_in_virtual_time(virtual_time: VirtualTime) -> None:
    """A free one is taken at once, and one that is let go on the way when its time is over."""
    began = virtual_time.now()
    assert virtual_time.acquire(threading.Lock(), None)
    assert virtual_time.now() == began
    assert not virtual_time.acquire(locked(), 2)
    lock = locked()
    virtual_time.later(1, lock.release)
    assert virtual_time.acquire(lock, 2)
    assert virtual_time.now() == began + 4


def test_who_waits_is_woken_by_what_is_due(virtual_time: VirtualTime) -> None:
    """Time goes from one callback to the next, past those that are cancelled, and no further."""
    began, woken = virtual_time.now(), Waiter()
    virtual_time.later(1, lambda: None).cancel()
    virtual_time.later(2, lambda: None)
    virtual_time.later(3, woken.wake)
    virtual_time.later(5, lambda: None)
    assert virtual_time.next_due() == began + 2
    assert not virtual_time.wait(Waiter(), began + 1)
    assert virtual_time.wait(woken, began + 60)
    assert virtual_time.now() == began + 3
    assert not virtual_time.wait(Waiter(), began + 4)
    assert virtual_time.now() == began + 4
    with pytest.raises(RuntimeError, match="for ever"):
        virtual_time.wait(Waiter(), None)


def locked() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


def test_the_plugin_loads_nothing_for_tests_that_have_logged_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At the end of their run there are no summaries to be kept back."""
    monkeypatch.delitem(sys.modules, "resilient.telemetry.events")
    pytest_unconfigure()
    assert "resilient.telemetry.events" not in sys.modules


def test_the_fixture_can_be_imported() -> None:
    """`from resilient.testing import virtual_time` gives the fixture of the plugin."""
    from resilient.testing import plugin

    assert resilient.testing.virtual_time is plugin.virtual_time


# Faults


@pytest.fixture
def search() -> Any:
    """A guarded function with a dependency of its own."""
    shop = Dependency("search", retry=retry(attempts=3, wait_initial=0))
    return shop.with_fallback("instead")(Scripted("answer"))


def test_a_fault_is_beneath_all_strategies(virtual_time: VirtualTime, search: Any) -> None:
    """A dependency that is made to fail is retried, and its fallback serves."""
    with fail("search", ConnectionError):
        assert search() == "instead"
    assert search() == "answer"
    assert calls("search") == {"degraded": 1, "success": 1}


def test_a_fault_can_hit_a_number_of_calls(virtual_time: VirtualTime, search: Any) -> None:
    """`times=2` lets two attempts fail, so the third succeeds."""
    with fail("search", ConnectionError("reset"), times=2):
        assert search() == "answer"
        assert search() == "answer"


def test_a_fault_can_be_a_delay(virtual_time: VirtualTime) -> None:
    """`after=60` alone makes calls slow, for plain and asynchronous functions."""

    @circuit_breaker("slowed down", fail_max=9)
    @timeout(2)
    def ask() -> str:
        return "answer"

    @circuit_breaker("slowed down on asyncio", fail_max=9)
    @timeout(2)
    async def ask_async() -> str:
        return "answer"

    with fail("slowed down", after=60), pytest.raises(CallTimeout):
        ask()
    with fail("slowed down on asyncio", after=60), pytest.raises(CallTimeout):
        virtual_time.run(ask_async())
    with fail("slowed down", after=1):
        began = virtual_time.now()
        assert ask() == "answer"
        assert virtual_time.now() - began == 1


def test_an_asynchronous_function_can_be_slowed_down(virtual_time: VirtualTime) -> None:
    """It answers all the same, later."""

    @circuit_breaker("slowed down in a task")
    async def ask(name: str) -> str:
        return f"answer for {name}"

    began = virtual_time.now()
    with fail("slowed down in a task", after=1):
        assert virtual_time.run(ask("u1")) == "answer for u1"
    assert virtual_time.now() - began == 1


def test_an_asynchronous_function_can_be_made_to_fail(virtual_time: VirtualTime) -> None:
    """Faults reach coroutine functions, in number too."""
    asked = 0

    @circuit_breaker("asynchronous fault", fail_max=9)
    @retry(on=ConnectionError, wait_initial=0)
    async def ask() -> str:
        nonlocal asked
        asked += 1
        return "answer"

    with fail("asynchronous fault", ConnectionError, times=2):
        assert virtual_time.run(ask()) == "answer"
    assert asked == 1


def test_a_fault_reaches_blocks_and_single_calls(virtual_time: VirtualTime) -> None:
    """`dependency.call` fails as well."""
    shop = Dependency("single fault")
    assert shop.call(Scripted("answer")) == "answer"
    with fail("single fault", ConnectionError), pytest.raises(ConnectionError):
        shop.call(Scripted("answer"))


def test_two_faults_of_one_dependency_are_refused(virtual_time: VirtualTime, search: Any) -> None:
    """A second fault for a dependency that has one is told, and the first stays."""
    with fail("search", ConnectionError):
        with pytest.raises(InvalidUse, match="already"), fail("search", KeyError):
            pass
        assert search() == "instead"


def test_a_fault_ends_with_its_block(virtual_time: VirtualTime, search: Any) -> None:
    """Also when the block ends with an error."""
    with pytest.raises(KeyError), fail("search", ConnectionError):
        raise KeyError
    assert search() == "answer"


# Guards that are off


def test_pass_through_makes_guarded_calls_plain_ones(virtual_time: VirtualTime) -> None:
    """Within the block nothing is retried, limited, rejected or served."""
    breaker = circuit_breaker("passed through", fail_max=1)
    ask = Scripted(ConnectionError)
    guarded = with_fallback("instead")(breaker(retry(on=ConnectionError)(ask)))
    breaker.force_open()
    with pass_through():
        with pytest.raises(ConnectionError):
            guarded()
        with pass_through(), pytest.raises(ConnectionError):
            guarded()
        with pytest.raises(ConnectionError):
            guarded()
    assert ask.calls == 3
    assert guarded() == "instead"


def test_pass_through_lets_blocks_and_single_calls_through(virtual_time: VirtualTime) -> None:
    """Blocks run, and `call` calls, whatever the circuit says."""
    breaker = circuit_breaker("blocks pass through", fail_max=1)
    breaker.force_open()
    with pass_through(), breaker:
        assert breaker.call(Scripted("answer")) == "answer"


@pytest.mark.parametrize("limit", [timeout, deadline])
def test_pass_through_lets_limited_blocks_take_their_time(
    virtual_time: VirtualTime, limit: Callable[[float], Any]
) -> None:
    """The block is not cut, and no guarded call within it is cut or comes too late."""
    ask = timeout(0.5)(virtual_time.sleep)

    async def main() -> float | None:
        async with limit(0.1) as block:
            await asyncio.sleep(1)
            ask(1)
            return cast("float | None", block.remaining())

    with pass_through():
        assert virtual_time.run(main()) is None
    with pytest.raises(CallTimeout):
        virtual_time.run(main())


DISABLED = """
import asyncio
from resilient import *

shop = Dependency(
    "shop", retry=retry(attempts=3), breaker=circuit_breaker(fail_max=1, reset_timeout=60),
    timeout=0.01, max_concurrent=1,
)
calls = []

@shop.with_fallback("instead")
def fetch():
    calls.append("fetch")
    raise ConnectionError

@with_fallback("instead")
@retry(on=OSError)
async def fetch_async():
    calls.append("fetch_async")
    raise ConnectionError

@with_fallback("instead")
@retry(on=OSError)
def items():
    calls.append("items")
    yield 1
    raise ConnectionError

def failing(call):
    try:
        call()
    except ConnectionError:
        return
    raise AssertionError("guarded")

for _ in range(3):
    failing(fetch)
    failing(lambda: asyncio.run(fetch_async()))
    failing(lambda: list(items()))
    failing(lambda: shop.call(fetch.__wrapped__))
with shop, shop, shop:
    calls.append("block")
for attempt in retrying(on=OSError):
    try:
        with attempt:
            raise OSError
    except OSError:
        calls.append("retrying")
print(" ".join(calls))
"""


@pytest.mark.parametrize("value", ["1", "true"])
def test_an_environment_variable_makes_every_guard_a_plain_call(value: str) -> None:
    """With RESILIENT_DISABLED=1 functions, blocks, loops and single calls are what they wrap."""
    ran = run_with(DISABLED, RESILIENT_DISABLED=value)
    assert ran.stderr == ""
    assert ran.stdout.split() == [
        *["fetch", "fetch_async", "items", "fetch"] * 3,
        "block",
        "retrying",
    ]


@pytest.mark.parametrize("value", ["", "0", "False"])
def test_the_environment_variable_can_be_empty_or_zero(value: str) -> None:
    """Guards are on unless the variable says something else."""
    program = """
        from resilient import with_fallback
        @with_fallback("instead")
        def fetch(): raise ConnectionError
        print(fetch())
    """
    assert "instead" in run_with(textwrap.dedent(program), RESILIENT_DISABLED=value).stdout


def run_with(program: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env={**os.environ, **variables},
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )
