"""Hard time limits: the caller has control back when they end, and nobody else is disturbed."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest
from structlog.testing import capture_logs

from resilient import (
    CallTimeout,
    InvalidSetting,
    WorkersSaturated,
    circuit_breaker,
    deadline,
    gather_partial,
    remaining,
    retry,
    timeout,
)
from resilient.testing import VirtualTime
from tests.doubles import Scripted, calls, series
from tests.waiting import eventually


async def pause(seconds: float) -> None:
    await asyncio.sleep(seconds)


def test_a_caller_is_back_at_the_limit(virtual_time: VirtualTime) -> None:
    """A call of a minute under a limit of two seconds ends after two, with a `CallTimeout`."""
    began = virtual_time.now()
    with pytest.raises(CallTimeout, match="not back within 2 s") as caught:
        timeout(2)(virtual_time.sleep)(60)
    assert virtual_time.now() - began == 2
    assert caught.value.seconds == 2
    assert isinstance(caught.value, TimeoutError)


def test_an_asynchronous_call_is_cancelled_at_the_limit(virtual_time: VirtualTime) -> None:
    """The coroutine sees a cancellation, and its caller a `CallTimeout`."""
    seen: list[str] = []

    @timeout(2)
    async def ask() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    began = virtual_time.now()
    with pytest.raises(CallTimeout):
        virtual_time.run(ask())
    assert seen == ["cancelled"]
    assert virtual_time.now() - began == 2


@pytest.mark.parametrize("seconds", [0, 1.999])
def test_a_call_that_is_back_in_time_is_left_alone(
    virtual_time: VirtualTime, seconds: float
) -> None:
    """What ends before its limit is returned as it is."""

    @timeout(2)
    def ask() -> str:
        virtual_time.sleep(seconds)
        return "answer"

    @timeout(2)
    async def ask_async() -> str:
        await asyncio.sleep(seconds)
        return "answer"

    assert ask() == "answer"
    assert virtual_time.run(ask_async()) == "answer"


def test_the_callees_own_timeout_passes_unchanged(virtual_time: VirtualTime) -> None:
    """A `TimeoutError` of the callee is its error: same object, and nothing about our limit."""
    own = TimeoutError("socket timed out")

    async def ask() -> None:
        raise own

    for call in (timeout(30)(Scripted(own)), lambda: virtual_time.run(timeout(30)(ask)())):
        with pytest.raises(TimeoutError) as caught:
            call()
        assert caught.value is own
        assert not isinstance(caught.value, CallTimeout)


def test_another_limits_error_is_the_callees_own_too(virtual_time: VirtualTime) -> None:
    """A `CallTimeout` of a nested call is told from the outer limit's by identity."""
    inner = timeout(1)(virtual_time.sleep)
    with capture_logs() as logs, pytest.raises(CallTimeout) as caught:
        timeout(30)(lambda: inner(60))()
    assert caught.value.seconds == 1
    assert [log["seconds"] for log in logs if "timed_out" in log["event"]] == [1]


@pytest.mark.parametrize(("outer", "inner"), [(1, 5), (5, 1)])
def test_the_tighter_of_two_limits_wins(
    virtual_time: VirtualTime, outer: float, inner: float
) -> None:
    """Nested limits end with the first of them, whichever that is, and its error."""

    @timeout(outer)
    def nested(seconds: float) -> None:
        timeout(inner)(virtual_time.sleep)(seconds)

    for call in (nested, timeout(outer)(timeout(inner)(virtual_time.sleep))):
        began = virtual_time.now()
        with pytest.raises(CallTimeout) as caught:
            call(60)
        assert virtual_time.now() - began == 1
        assert caught.value.seconds == 1


@pytest.mark.parametrize(("outer", "inner"), [(1, 5), (5, 1)])
def test_the_tighter_of_two_asynchronous_limits_wins(
    virtual_time: VirtualTime, outer: float, inner: float
) -> None:
    """The same holds for coroutines."""
    call = timeout(outer)(timeout(inner)(pause))
    began = virtual_time.now()
    with pytest.raises(CallTimeout) as caught:
        virtual_time.run(call(60))
    assert virtual_time.now() - began == 1
    assert caught.value.seconds == 1


def test_a_total_limit_covers_attempts_and_pauses(virtual_time: VirtualTime) -> None:
    """A limit around a retry ends all of it, one further in each attempt."""
    ask = Scripted(ConnectionError)
    guarded = timeout(3)(
        retry(on=ConnectionError, attempts=99, wait=lambda _: 1, budget=None)(timeout(1)(ask))
    )
    began = virtual_time.now()
    with pytest.raises(ConnectionError):
        guarded()
    assert virtual_time.now() - began <= 3
    assert ask.calls == 3


def test_a_limit_that_ended_an_attempt_can_be_tried_again(virtual_time: VirtualTime) -> None:
    """`CallTimeout` is a `TimeoutError`, and is matched as one."""
    waits = [60, 60, 0]

    @retry(on=TimeoutError, wait=lambda _: 0)
    @timeout(2)
    def ask() -> str:
        virtual_time.sleep(waits.pop(0))
        return "answer"

    began = virtual_time.now()
    assert ask() == "answer"
    assert virtual_time.now() - began == 4


async def test_a_coroutine_that_swallows_its_cancellation_keeps_its_value() -> None:
    """As with `asyncio.timeout`, an answer that comes all the same is the answer."""

    @timeout(0.01)
    async def ask() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "answer"
        return "never"

    assert await ask() == "answer"
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_cancellation_from_elsewhere_is_no_timeout() -> None:
    """Whoever cancels the caller sees a cancellation, not a `CallTimeout`."""

    @timeout(60)
    async def ask() -> None:
        await asyncio.sleep(60)

    task = asyncio.create_task(ask())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_block_is_cancelled_at_the_limit(virtual_time: VirtualTime) -> None:
    """`async with timeout(2)` ends its block after two seconds."""

    async def enter() -> None:
        async with timeout(2) as limit:
            assert limit.remaining() == 2
            await asyncio.sleep(60)

    async def main() -> float | None:
        began = virtual_time.now()
        with pytest.raises(CallTimeout):
            await enter()
        assert virtual_time.now() - began == 2
        assert remaining() is None
        async with timeout(2):
            await asyncio.sleep(1)
            return remaining()

    assert virtual_time.run(main()) == 1


def test_a_timeout_is_an_event_and_an_outcome(virtual_time: VirtualTime) -> None:
    """Each call that is cut is logged once and counted as `timeout`."""
    guarded = circuit_breaker("cut", fail_max=9)(timeout(2)(virtual_time.sleep))
    with capture_logs() as logs, pytest.raises(CallTimeout):
        guarded(60)
    assert logs == [
        {
            "event": "resilient.call_timed_out",
            "log_level": "warning",
            "dependency": "cut",
            "seconds": 2,
        }
    ]
    assert calls("cut") == {"timeout": 1}


def test_the_callees_own_timeout_is_counted_as_a_failure(virtual_time: VirtualTime) -> None:
    """Only our limits are the outcome `timeout`."""
    guarded = circuit_breaker("own timeout", fail_max=9)(timeout(2)(Scripted(TimeoutError)))
    with pytest.raises(TimeoutError):
        guarded()
    assert calls("own timeout") == {"failure": 1}


def test_one_limit_can_guard_many_functions(virtual_time: VirtualTime) -> None:
    """A `timeout` object has no state of a call: shared and nested, it limits each alike."""
    limit = timeout(2)
    inner = limit(virtual_time.sleep)

    @limit
    def outer() -> None:
        virtual_time.sleep(1)
        inner(60)

    began = virtual_time.now()
    with pytest.raises(CallTimeout):
        outer()
    assert virtual_time.now() - began == 2


@pytest.mark.parametrize("limited", [timeout, deadline])
def test_a_limit_of_no_time_is_refused(limited: Any) -> None:
    """Nothing could be done within it."""
    with pytest.raises(InvalidSetting, match="above 0"):
        limited(0)


@pytest.mark.parametrize("limited", [timeout, deadline])
def test_the_calls_under_one_limit_share_a_timer_whatever_other_limits_there_are(
    virtual_time: VirtualTime, limited: Any
) -> None:
    """A thousand calls of two seconds beside one of a minute take one timer more."""
    long, short = limited(60), limited(2)

    async def pause(seconds: float) -> None:
        await asyncio.sleep(0)

    async def main() -> int:
        loop = asyncio.get_running_loop()
        timers = 0

        def call_later(*args: Any, **kwargs: Any) -> asyncio.TimerHandle:
            nonlocal timers
            timers += 1
            return asked(*args, **kwargs)

        asked, loop.call_later = loop.call_later, call_later  # type: ignore[method-assign]
        async with asyncio.TaskGroup() as group:
            for guarded in (long(pause), *[short(pause)] * 1000):
                group.create_task(guarded(0))
        return timers

    assert virtual_time.run(main()) == 2


# What is left behind, with real threads


tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


def test_abandoned_calls_are_counted_until_they_end() -> None:
    """The gauge shows calls that run on after their limit, and falls when they end."""
    release = threading.Event()
    guarded = circuit_breaker("left behind", fail_max=99)(timeout(0.02)(release.wait))
    for _ in range(3):
        with pytest.raises(CallTimeout):
            guarded(30)
    assert series("left behind")["resilient_abandoned_calls"] == 3
    release.set()
    for _ in range(500):
        if not series("left behind")["resilient_abandoned_calls"]:
            break
        threading.Event().wait(0.005)
    assert series("left behind")["resilient_abandoned_calls"] == 0


def test_too_many_abandoned_calls_reject_further_ones_until_one_ends() -> None:
    """At `max_abandoned` calls are rejected as saturated, which is no failure of the callee."""
    release = threading.Event()
    limit = timeout(0.02, max_abandoned=2)
    breaker = circuit_breaker("saturated", fail_max=3)
    guarded = breaker(limit(release.wait))
    for _ in range(2):
        with pytest.raises(CallTimeout):
            guarded(30)
    for _ in range(5):
        with pytest.raises(WorkersSaturated):
            guarded(30)
    assert breaker.current_state == "closed"
    assert calls("saturated") == {"timeout": 2, "rejected": 5}
    assert series("saturated")["resilient_rejections_total{saturated}"] == 5
    release.set()
    for _ in range(500):
        try:
            assert guarded(0) is True
            break
        except WorkersSaturated:
            threading.Event().wait(0.005)
    else:
        pytest.fail("never accepted again")


def test_a_call_on_a_worker_sees_its_callers_context() -> None:
    """Context variables of the caller are there on the worker, and so is what is left."""

    @timeout(5)
    def ask() -> tuple[str, Any]:
        return tenant.get(), remaining()

    token = tenant.set("acme")
    try:
        seen, left = ask()
    finally:
        tenant.reset(token)
    assert seen == "acme"
    assert 0 < left <= 5


class Large:
    """Something that one can see go."""


def test_an_idle_worker_keeps_nothing_of_the_call_that_it_has_made() -> None:
    """Argument and answer of a call on a worker go with its caller, not with the next call."""
    limit = timeout(5)
    gone: list[weakref.ref[Large]] = []

    def call() -> None:
        argument, answer = Large(), Large()
        gone.extend(map(weakref.ref, (argument, answer)))
        assert limit(lambda _: gone[1]())(argument) is answer

    def call_beside() -> None:
        answer = Large()
        gone.append(weakref.ref(answer))
        assert gather_partial(part=gone[-1])["part"] is answer

    call()
    call_beside()

    def is_gone() -> bool:
        gc.collect()
        return [reference() for reference in gone] == [None] * 3

    assert eventually(is_gone)


def test_the_limit_of_a_caller_reaches_a_call_on_a_worker() -> None:
    """A guarded call within a guarded call ends with the outer limit, across threads."""
    release = threading.Event()
    inner = timeout(30)(release.wait)
    outer = timeout(0.05)(lambda: inner(30))
    try:
        with pytest.raises(CallTimeout) as caught:
            outer()
        assert caught.value.seconds == 0.05
    finally:
        release.set()


def test_a_deadline_around_clips_a_limit(virtual_time: VirtualTime) -> None:
    """A hard limit of thirty seconds within a deadline of two ends after two."""
    began = virtual_time.now()
    with deadline(2), pytest.raises(CallTimeout):
        timeout(30)(virtual_time.sleep)(60)
    assert virtual_time.now() - began == 2


def test_a_limit_that_nobody_uses_any_more_keeps_no_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where each call has a limit of its own, threads do not wait for a second call in vain."""
    monkeypatch.setattr("resilient.engine.workers._IDLE_SECONDS", 3600)

    def workers() -> set[int | None]:
        return {one.ident for one in threading.enumerate() if one.name == "resilient-worker"}

    used = {timeout(5)(threading.get_ident)() for _ in range(20)}
    assert eventually(lambda: not workers() & used)


def test_a_limit_may_go_before_the_call_that_it_has_abandoned() -> None:
    """The call goes on to its end, and its thread ends with it."""
    ends, ended = threading.Event(), threading.Event()
    on: list[threading.Thread] = []

    def hang() -> None:
        on.append(threading.current_thread())
        ends.wait(10)
        ended.set()

    with pytest.raises(CallTimeout):
        timeout(0.01)(hang)()
    gc.collect()
    ends.set()
    assert ended.wait(10)
    on[0].join(10)
    assert not on[0].is_alive()


def test_a_destructor_may_make_a_call_whose_limit_goes_with_it() -> None:
    """The garbage collector ends the limit first, and the object that is to say goodbye then."""
    said: list[str] = []

    class Client:
        def __init__(self, goodbye: Callable[[], str]) -> None:
            self.goodbye = goodbye
            self.itself = self

        def __del__(self) -> None:
            said.append(self.goodbye())

    Client(timeout(30)(lambda: "goodbye")).goodbye()
    gc.collect()
    assert said == ["goodbye"]
