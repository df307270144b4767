"""Hard cases of time limits: whose error it is, what a worker sees, and who waits for whom."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar, copy_context
from functools import partial
from itertools import count
from typing import Any

import pytest
import structlog

from resilient import (
    CallRejected,
    CallTimeout,
    CircuitBreaker,
    DeadlineExceeded,
    Dependency,
    WorkersSaturated,
    bulkhead,
    cached,
    circuit_breaker,
    deadline,
    default,
    failover,
    failover_to,
    pipeline_of,
    rate_limit,
    remaining,
    retry,
    retrying,
    timeout,
    with_fallback,
)
from resilient.testing import VirtualTime
from tests.hard_cases.crowd import Inside, Metrics, crowd, errors, stopwatch
from tests.waiting import eventually

_numbers = count(1)


def new_name() -> str:
    """Return a name that nothing else has."""
    return f"timeouts-{next(_numbers)}"


async def hang() -> None:
    await asyncio.Event().wait()


def said_of(error: BaseException) -> str:
    """Return all that an error, its notes and its causes say."""
    parts = [str(error), *getattr(error, "__notes__", ())]
    inner = error.__cause__ or error.__context__
    return " ".join(parts) + (said_of(inner) if inner is not None else "")


# 13: the callee's own TimeoutError


def by_timeout(function: Any) -> Any:
    return timeout(30)(function)


def by_deadline(function: Any) -> Any:
    return deadline(30)(function)


def by_all(function: Any) -> Any:
    inner = retry(on=KeyError)(circuit_breaker(new_name())(timeout(30)(function)))
    return with_fallback(cached(60))(timeout(60)(inner))


def by_dependency(function: Any) -> Any:
    return Dependency(new_name(), timeout=30, total_timeout=60, retry=retry(attempts=1))(function)


def by_call(function: Any) -> Any:
    return partial(Dependency(new_name(), timeout=30).call, function)


LIMITS = [by_timeout, by_deadline, by_all, by_dependency, by_call]
each_limit = pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: limit.__name__)


@pytest.mark.real_time
@each_limit
def test_the_callees_own_timeout_error_surfaces_unchanged(limit: Any) -> None:
    """A TimeoutError that the callee raises at once under a 30 s limit is not made ours."""
    own = TimeoutError("connect timed out")

    def fetch() -> None:
        raise own

    with stopwatch() as watch, pytest.raises(TimeoutError) as raised:
        limit(fetch)()
    assert raised.value is own
    assert not isinstance(raised.value, CallTimeout)
    assert "30" not in said_of(raised.value)
    assert watch.seconds < 1


@each_limit
def test_the_callees_own_timeout_error_surfaces_unchanged_on_asyncio(
    limit: Any, virtual_time: VirtualTime
) -> None:
    """The same on asyncio, where the callee's own `asyncio.timeout` raises it."""

    async def fetch() -> None:
        async with asyncio.timeout(0.5):
            await hang()

    async def main() -> BaseException:
        with pytest.raises(TimeoutError) as raised:
            await limit(fetch)()
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        return raised.value

    began = virtual_time.now()
    error = virtual_time.run(main())
    assert not isinstance(error, CallTimeout)
    assert "30" not in said_of(error)
    assert virtual_time.now() - began == pytest.approx(0.5)


def test_the_callees_own_timeout_error_leaves_blocks_and_streams_unchanged(
    virtual_time: VirtualTime,
) -> None:
    """In a block, and from a stream's first item, it is the callee's as well."""
    own = TimeoutError("read timed out")

    async def block() -> None:
        async with timeout(30):
            raise own

    async def deadline_block() -> None:
        with deadline(30):
            raise own

    @timeout(30)
    async def items() -> AsyncIterator[int]:
        raise own
        yield 1

    for call in (block, deadline_block, partial(anext, items())):
        with pytest.raises(TimeoutError) as raised:
            virtual_time.run(awaited(call))
        assert raised.value is own


async def awaited(call: Callable[[], Any]) -> Any:
    return await call()


def test_the_callees_own_timeout_error_is_counted_as_a_failure_not_as_a_timeout() -> None:
    """The outcome `timeout` is for limits of ours; the breaker counts the error all the same."""
    name = new_name()
    breaker = CircuitBreaker(name, fail_max=10)

    @breaker
    @timeout(30)
    def fetch() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        fetch()
    assert Metrics(name).calls() == {"failure": 1}
    assert breaker.fail_counter == 1


@pytest.mark.parametrize("limit", [timeout, deadline])
def test_the_callees_own_timeout_error_is_no_event_of_a_limit(limit: Any) -> None:
    """Nothing that is logged says that 30 s were exceeded."""

    @limit(30)
    def fetch() -> None:
        raise TimeoutError("read timed out")

    with structlog.testing.capture_logs() as logged, pytest.raises(TimeoutError):
        fetch()
    assert [one for one in logged if one["event"] == "resilient.call_timed_out"] == []


def test_a_nested_limits_error_keeps_its_name_on_the_way_out(virtual_time: VirtualTime) -> None:
    """A timeout of an inner guarded function is that function's, not that of the 30 s around it."""

    @timeout(1)
    async def inner() -> None:
        await hang()

    @timeout(30)
    async def outer() -> None:
        await inner()

    with pytest.raises(CallTimeout) as raised:
        virtual_time.run(outer())
    assert "inner" in raised.value.name
    assert raised.value.seconds == 1
    assert "30" not in said_of(raised.value)


def test_a_call_that_our_limit_has_cut_says_which_limit_it_was(virtual_time: VirtualTime) -> None:
    """The error of our own limit names the function and the seconds that it had."""

    @timeout(2)
    async def fetch() -> None:
        await hang()

    with pytest.raises(CallTimeout, match="not back within 2 s"):
        virtual_time.run(fetch())


# 14: the workers after errors


def interrupted() -> None:
    raise KeyboardInterrupt


def exited() -> None:
    raise SystemExit(1)


def timed_out() -> None:
    raise TimeoutError("own")


def stopped() -> None:
    raise StopIteration


def generator_exit() -> None:
    raise GeneratorExit


@pytest.mark.parametrize(
    "end", [timed_out, interrupted, exited, stopped, generator_exit], ids=lambda end: end.__name__
)
def test_after_41_errors_every_worker_is_alive(end: Callable[[], None]) -> None:
    """41 calls that raise, whatever they raise, leave all of four workers to work."""
    limit = timeout(30, max_workers=4)
    failing = limit(end)
    for _ in range(41):
        with pytest.raises((Exception, KeyboardInterrupt, SystemExit, GeneratorExit)):
            failing()
    together = threading.Barrier(4)
    meet = limit(lambda: together.wait(5))
    assert sorted(crowd(4, lambda _: meet())) == [0, 1, 2, 3], "all four at once"


def test_after_41_errors_at_once_every_worker_is_alive() -> None:
    """The same when the errors come from 41 threads at the same time."""
    limit = timeout(30, max_workers=4)
    results = crowd(41, lambda _: limit(timed_out)())
    assert [type(one) for one in results] == [TimeoutError] * 41
    together = threading.Barrier(4)
    meet = limit(lambda: together.wait(5))
    assert sorted(crowd(4, lambda _: meet())) == [0, 1, 2, 3]


# 15: waiting for a worker


@pytest.mark.real_time
def test_32_threads_on_a_healthy_function_do_not_time_out() -> None:
    """32 threads that call a 200 ms function under a 500 ms limit all get their answer."""

    @timeout(0.5)
    def fetch() -> str:
        time.sleep(0.2)
        return "answer"

    with stopwatch() as watch:
        results = crowd(32, lambda _: fetch())
    assert results == ["answer"] * 32
    assert watch.seconds < 1


def test_waiting_for_a_worker_is_not_the_calls_time() -> None:
    """With 4 workers for 32 callers most wait for longer than the limit, and none times out."""

    @timeout(0.15, max_workers=4)
    def fetch() -> str:
        time.sleep(0.04)
        return "answer"

    with stopwatch() as watch:
        results = crowd(32, lambda _: fetch())
    assert results == ["answer"] * 32
    assert watch.seconds >= 8 * 0.04


@pytest.mark.real_time
def test_a_call_that_waited_for_a_worker_still_has_a_limit() -> None:
    """A call that got its worker late, and then hangs, is left after its own time."""
    release = threading.Event()
    hangs = iter([False, True])

    @timeout(0.2, max_workers=1)
    def fetch() -> None:
        if next(hangs):
            release.wait(5)
        else:
            time.sleep(0.1)

    with stopwatch() as watch:
        results = crowd(2, lambda _: fetch())
    release.set()
    assert sorted(type(one).__name__ for one in results) == ["CallTimeout", "NoneType"]
    assert 0.29 <= watch.seconds < 1


@pytest.mark.real_time
def test_a_caller_with_a_tighter_limit_does_not_wait_longer_for_a_worker() -> None:
    """A caller under `deadline(0.1)` is back after 0.1 s although no worker has come free."""
    release, reached = threading.Event(), Inside()

    @timeout(5, max_workers=1)
    def fetch() -> None:
        with reached:
            release.wait(1.5)

    busy = threading.Thread(target=fetch)
    busy.start()
    assert eventually(lambda: reached.now == 1)
    used = time.process_time()
    with stopwatch() as watch, pytest.raises(TimeoutError), deadline(0.1):
        fetch()
    used = time.process_time() - used
    release.set()
    busy.join()
    assert 0.09 <= watch.seconds < 0.6
    assert used < 0.05, "it waits, and does not spin"
    assert reached.total == 1, "what would have begun too late has not begun"


@pytest.mark.real_time
def test_a_function_that_calls_itself_does_not_exhaust_its_own_workers() -> None:
    """Nested calls under one limit get workers as well, or an error at the outer limit."""

    @timeout(0.2, max_workers=2)
    def nested(depth: int) -> int:
        return 0 if depth == 0 else 1 + nested(depth - 1)

    assert nested(1) == 1
    with stopwatch() as watch, pytest.raises((CallTimeout, WorkersSaturated)):
        nested(5)
    assert watch.seconds < 1
    assert eventually(lambda: workers_of(nested).abandoned == 0)
    assert nested(1) == 1


def workers_of(function: Callable[..., Any]) -> Any:
    pools = [one.workers for one in pipeline_of(function).strategies if one.workers is not None]
    return pools[0]


def test_many_callers_of_few_workers_neither_lose_a_turn_nor_take_one_twice() -> None:
    """With threads that take turns all the time, every call of 24 callers is made once, in time."""

    @timeout(5, max_workers=3)
    def fetch(number: int) -> int:
        return number

    def act(_: int) -> list[int]:
        return [fetch(number) for number in range(100)]

    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        results = crowd(24, act)
    finally:
        sys.setswitchinterval(usual)
    assert results == [list(range(100))] * 24


def test_a_worker_that_retires_as_a_call_comes_does_not_take_it_along(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Calls that come just when idle workers end are made by these or by others, and in time."""
    monkeypatch.setattr("resilient.engine.workers._IDLE_SECONDS", 0.0002)

    @timeout(2)
    def fetch() -> str:
        return "answer"

    def act(index: int) -> list[str]:
        answers = []
        for number in range(100):
            time.sleep(0.0001 * ((index + number) % 5))
            answers.append(fetch())
        return answers

    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        results = crowd(8, act)
    finally:
        sys.setswitchinterval(usual)
    assert results == [["answer"] * 100] * 8


# 16: context variables

request_id: ContextVar[str] = ContextVar("request_id", default="none")


@pytest.mark.parametrize("limit", [by_timeout, by_all, by_dependency, by_call])
def test_a_call_on_a_worker_sees_the_callers_context(limit: Any) -> None:
    """Context variables of the caller, structlog's included, are there on the worker's thread."""

    def fetch() -> tuple[str, dict[str, Any], bool]:
        bound = structlog.contextvars.get_contextvars()
        return request_id.get(), bound, threading.current_thread() is threading.main_thread()

    guarded = limit(fetch)
    token = request_id.set("r-1")
    try:
        with structlog.contextvars.bound_contextvars(user="u-1"):
            assert guarded() == ("r-1", {"user": "u-1"}, False)
    finally:
        request_id.reset(token)
    assert guarded() == ("none", {}, False)


def test_every_attempt_and_every_tier_sees_the_callers_context() -> None:
    """Retries on workers, and tiers with a limit of their own, see what the first attempt saw."""
    seen: list[str] = []

    def tell() -> None:
        seen.append(request_id.get())

    @with_fallback(failover(tell, timeout=5))
    @retry(on=ConnectionError, attempts=3, wait_initial=0)
    @timeout(5)
    def fetch() -> None:
        tell()
        raise ConnectionError

    token = request_id.set("r-2")
    try:
        fetch()
    finally:
        request_id.reset(token)
    assert seen == ["r-2"] * 4


def test_the_contexts_of_many_callers_do_not_mix() -> None:
    """Of 20 threads that share 3 workers, each sees its own context in every call."""

    @timeout(5, max_workers=3)
    def fetch() -> str:
        return request_id.get()

    def act(index: int) -> None:
        request_id.set(f"r-{index}")
        for _ in range(20):
            assert fetch() == f"r-{index}"

    assert errors(crowd(20, act)) == []


def test_what_a_call_on_a_worker_sets_is_gone_for_the_next() -> None:
    """A worker that is used again does not show what the call before has set."""

    @timeout(5, max_workers=1)
    def fetch() -> str:
        before = request_id.get()
        request_id.set("left behind")
        structlog.contextvars.bind_contextvars(left="behind")
        return before

    assert [fetch(), fetch()] == ["none", "none"]
    assert request_id.get() == "none"
    assert structlog.contextvars.get_contextvars() == {}


def sync_guards() -> list[Any]:
    return [
        circuit_breaker(new_name()),
        retry(on=KeyError),
        bulkhead(1),
        deadline(30),
        with_fallback("fallback"),
        Dependency(new_name(), breaker=circuit_breaker(), retry=retry(), max_concurrent=1),
    ]


@pytest.mark.parametrize("guard", sync_guards(), ids=lambda guard: type(guard).__name__)
def test_what_a_call_sets_is_seen_where_it_is_not_moved_to_a_thread(guard: Any) -> None:
    """Without a hard limit a guarded function runs in its caller's context, as a plain one does."""

    @guard
    def bind() -> None:
        assert threading.current_thread() is threading.main_thread()
        request_id.set("bound")

    def caller() -> str:
        bind()
        return request_id.get()

    assert copy_context().run(caller) == "bound"


@pytest.mark.parametrize(
    "guard", [*sync_guards(), timeout(30)], ids=lambda guard: type(guard).__name__
)
async def test_what_an_async_call_sets_is_seen_by_its_caller(guard: Any) -> None:
    """Awaiting a guarded coroutine shares the context, as awaiting a plain one does."""

    @guard
    async def bind() -> None:
        request_id.set("bound")
        await asyncio.sleep(0)

    async def caller() -> str:
        await bind()
        return request_id.get()

    assert await asyncio.create_task(caller()) == "bound"


def test_a_call_on_a_worker_sees_the_limit_it_is_under() -> None:
    """`remaining()` on a worker is what the tightest of its limits leaves."""

    @timeout(30)
    def fetch() -> float | None:
        return remaining()

    left = fetch()
    assert left is not None
    assert 25 < left <= 30
    with deadline(10):
        left = fetch()
        assert left is not None
        assert 5 < left <= 10
    assert remaining() is None


# 17: the end of the process


def run_script(text: str) -> tuple[subprocess.CompletedProcess[str], float]:
    """Run a script; return it and the seconds between what it said was its end and its end."""
    begin = "import sys, threading, time\nfrom resilient import *\n"
    end = "\nprint('ended', time.time(), flush=True)\n"
    script = subprocess.run(
        [sys.executable, "-c", begin + text + end],
        check=False,
        capture_output=True,
        text=True,
        timeout=20,
    )
    ended = time.time()
    said = [line.split()[1] for line in script.stdout.splitlines() if line.startswith("ended")]
    return script, ended - float(said[0])


ABANDONED = """
def slow():
    time.sleep(4)
"""
ENDINGS = {
    "decorated": """
try:
    timeout(0.2)(slow)()
except CallTimeout:
    pass
""",
    "dependency": """
orders = Dependency("orders", timeout=0.2, breaker=circuit_breaker(probe=slow, probe_every=0.1,
    fail_max=1), retry=retry(attempts=2, wait_initial=0))
try:
    orders(slow)()
except CallTimeout:
    pass
time.sleep(0.3)
""",
    "from a thread": """
thread = threading.Thread(target=lambda: with_fallback(None)(timeout(0.2)(slow))())
thread.start()
thread.join()
""",
    "on asyncio": """
import asyncio
async def main():
    try:
        timeout(0.2)(slow)()
    except CallTimeout:
        await timeout(5)(asyncio.sleep)(0)
asyncio.run(main())
""",
    "at exit": """
import atexit
def late():
    try:
        timeout(0.1)(slow)()
    except (CallTimeout, WorkersSaturated):
        pass
atexit.register(late)
""",
}


@pytest.mark.real_time
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_script_does_not_wait_for_the_calls_that_it_has_abandoned(ending: str) -> None:
    """A script whose 4 s call timed out after 0.2 s exits within 0.5 s, without a complaint."""
    script, seconds = run_script(ABANDONED + ENDINGS[ending])
    assert script.returncode == 0
    complaints = [one for one in script.stderr.splitlines() if not one.startswith("resilient.")]
    assert complaints == []  # but for the library's own events, which logging shows there
    assert seconds < 0.5


@pytest.mark.parametrize("is_first", [True, False])
def test_a_script_ends_although_a_destructor_makes_a_timed_call(is_first: bool) -> None:
    """No thread begins any more by then, and the call says so instead of waiting for one."""
    script, _ = run_script(
        f"""
@Dependency("late", timeout=0.2, retry=Retry(wait_initial=0))
def call():
    return "answer"

class Client:
    def __del__(self):
        try:
            call()
        except ResilientError as error:
            print(type(error).__name__, flush=True)

client = Client()
{"" if is_first else "call()"}
"""
    )
    assert script.returncode == 0
    assert script.stdout.split()[-1] in ("WorkersSaturated", "CallTimeout")


@pytest.mark.real_time
def test_a_script_ends_with_its_own_exit_status() -> None:
    """`sys.exit(3)` with an abandoned call in the background is exit status 3, at once."""
    text = (
        ABANDONED + ENDINGS["decorated"] + "print('ended', time.time(), flush=True)\nsys.exit(3)\n"
    )
    script, seconds = run_script(text)
    assert script.returncode == 3
    assert seconds < 0.5


@pytest.mark.real_time
def test_a_timeout_that_nobody_catches_ends_a_script_at_once() -> None:
    """The traceback names the limit, and the abandoned call keeps nothing up."""
    text = ABANDONED + "print('ended', time.time(), flush=True)\ntimeout(0.2)(slow)()\n"
    script, seconds = run_script(text)
    assert script.returncode == 1
    assert "CallTimeout: __main__.slow: not back within 0.2 s" in script.stderr
    assert seconds < 0.2 + 0.5


# 18: a total limit over retries


def always_a_second(state: object) -> float:
    return 1.0


def failing() -> None:
    raise ConnectionError("reset by peer")


def retrying_under_timeout() -> None:
    timeout(0.2)(retry(on=ConnectionError, attempts=5, wait=always_a_second)(failing))()


def retrying_under_deadline() -> None:
    deadline(0.2)(retry(on=ConnectionError, attempts=5, wait=always_a_second)(failing))()


def retrying_in_a_deadline_block() -> None:
    fetch = retry(on=ConnectionError, attempts=5, wait=always_a_second)(failing)
    with deadline(0.2):
        fetch()


def retrying_dependency() -> None:
    pauses = retry(attempts=5, wait=always_a_second)
    orders = Dependency(new_name(), total_timeout=0.2, timeout=0.1, retry=pauses)
    orders(failing)()


def retrying_block() -> None:
    with deadline(0.2):
        for attempt in retrying(on=ConnectionError, attempts=5, wait=always_a_second):
            with attempt:
                failing()


def retrying_what_is_retried() -> None:
    inner = retry(on=ConnectionError, attempts=5, wait=always_a_second)(failing)

    def outer() -> None:
        inner()

    timeout(0.2)(retry(on=ConnectionError, attempts=5, wait=always_a_second)(outer))()


def retrying_what_asks_for_patience() -> None:
    class Busy(ConnectionError):
        retry_after = 1

    def busy() -> None:
        raise Busy

    timeout(0.2)(retry(on=ConnectionError, attempts=5, wait_initial=0)(busy))()


@pytest.mark.real_time
@pytest.mark.parametrize(
    "act",
    [
        retrying_under_timeout,
        retrying_under_deadline,
        retrying_in_a_deadline_block,
        retrying_dependency,
        retrying_block,
        retrying_what_is_retried,
        retrying_what_asks_for_patience,
    ],
    ids=lambda act: act.__name__,
)
@pytest.mark.parametrize("real", [False, True], ids=["virtual", "real"])
def test_no_pause_reaches_beyond_a_total_limit(
    act: Callable[[], None], real: bool, request: pytest.FixtureRequest
) -> None:
    """A total limit of 0.2 s with 1 s pauses between attempts takes at most 0.22 s."""
    if real:
        with stopwatch() as watch, pytest.raises(ConnectionError):
            act()
        assert watch.seconds <= 0.22
        return
    virtual_time = request.getfixturevalue("virtual_time")
    began = virtual_time.now()
    with pytest.raises(ConnectionError) as raised:
        act()
    assert virtual_time.now() - began <= 0.22
    assert "stopped by: deadline" in said_of(raised.value)


def test_no_pause_reaches_beyond_a_total_limit_on_asyncio(virtual_time: VirtualTime) -> None:
    """On asyncio too, in functions and in blocks, the real error is back within 0.2 s."""
    pauses = retry(on=ConnectionError, attempts=5, wait=always_a_second)

    async def fetch() -> None:
        failing()

    async def block() -> None:
        async with timeout(0.2):
            await pauses(fetch)()

    async def loop() -> None:
        async with deadline(0.2):
            async for attempt in retrying(on=ConnectionError, attempts=5, wait=always_a_second):
                with attempt:
                    failing()

    for call in (timeout(0.2)(pauses(fetch)), deadline(0.2)(pauses(fetch)), block, loop):
        began = virtual_time.now()
        with pytest.raises(ConnectionError):
            virtual_time.run(awaited(call))
        assert virtual_time.now() - began <= 0.22


def test_attempts_that_hang_are_clipped_to_the_total_limit(virtual_time: VirtualTime) -> None:
    """Attempts of 0.15 s each under 0.2 s in all: the second has 0.05 s, and there is no third."""
    reached = Inside()

    @timeout(0.2)
    @retry(on=TimeoutError, attempts=5, wait_initial=0)
    @timeout(0.15)
    async def fetch() -> None:
        with reached:
            await hang()

    began = virtual_time.now()
    with pytest.raises(CallTimeout):
        virtual_time.run(fetch())
    assert virtual_time.now() - began == pytest.approx(0.2)
    assert reached.total == 2


@pytest.mark.real_time
def test_hung_attempts_on_workers_are_clipped_to_the_total_limit() -> None:
    """The same on real threads."""
    release, reached = threading.Event(), Inside()

    @timeout(0.3)
    @retry(on=TimeoutError, attempts=5, wait_initial=0)
    @timeout(0.2)
    def fetch() -> None:
        with reached:
            release.wait(5)

    with stopwatch() as watch, pytest.raises(CallTimeout):
        fetch()
    release.set()
    assert 0.29 <= watch.seconds < 0.6
    assert reached.total == 2


def test_the_total_limit_covers_every_kind_of_waiting(virtual_time: VirtualTime) -> None:
    """In the queue of a bulkhead, for a token, in a tier: the caller is back after 0.2 s."""
    full = bulkhead(1, max_waiting=5)
    slow = rate_limit(1, per=60, max_wait=100)

    async def quick() -> None: ...

    async def fail() -> None:
        failing()

    waits = [
        timeout(0.2)(full(quick)),
        timeout(0.2)(slow(quick)),
        timeout(0.2)(with_fallback(failover(hang))(fail)),
        timeout(0.2)(with_fallback(failover(hang, timeout=5))(fail)),
        timeout(0.2)(with_fallback(default(hang))(fail)),
    ]

    async def main() -> None:
        await slow(quick)()
        async with full:
            for call in waits:
                began = virtual_time.now()
                with pytest.raises((CallTimeout, CallRejected, ConnectionError)):
                    await call()
                assert virtual_time.now() - began <= 0.22

    virtual_time.run(main())
    assert (full.in_flight, full.waiting) == (0, 0)


@pytest.mark.parametrize(
    "guard",
    [
        lambda tier: timeout(0.2)(with_fallback(failover(tier))(failing)),
        lambda tier: timeout(0.2)(with_fallback(tier)(failing)),
        lambda tier: timeout(0.2)(with_fallback(failover(tier, timeout=9))(failing)),
        lambda tier: timeout(0.2)(failover_to(tier)(failing)),
        lambda tier: timeout(9)(with_fallback(tier)(timeout(0.2)(with_fallback(tier)(failing)))),
    ],
    ids=["failover", "function", "with a limit of its own", "failover_to", "within another"],
)
def test_the_total_limit_takes_a_plain_tier_away_from_its_caller(
    guard: Any, virtual_time: VirtualTime
) -> None:
    """A tier that hangs on a thread is left at the limit around it, as the call itself is."""
    release = iter([9, 0, 0])

    def tier() -> str:
        virtual_time.sleep(next(release))
        return "instead"

    began = virtual_time.now()
    try:
        came_to = guard(tier)()
    except (ConnectionError, CallTimeout) as error:
        came_to = type(error).__name__
    assert came_to in ("instead", "ConnectionError", "CallTimeout")
    assert virtual_time.now() - began == pytest.approx(0.2)


@pytest.mark.parametrize("tier", [failover, default])
def test_the_limit_of_a_plain_tier_holds_for_an_async_function_too(
    tier: Any, virtual_time: VirtualTime
) -> None:
    """A function that blocks is left at its limit, and the next tier is asked."""

    @with_fallback(tier(partial(virtual_time.sleep, 5), timeout=0.2), "next")
    async def fetch() -> None:
        failing()

    began = virtual_time.now()
    assert virtual_time.run(fetch()) == "next"
    assert virtual_time.now() - began == pytest.approx(0.2)


def test_a_plain_tier_with_a_limit_does_not_block_the_loop() -> None:
    """It runs on a thread, in its caller's context, and tasks go on meanwhile."""
    loop_goes_on = threading.Event()

    def tier() -> str:
        assert loop_goes_on.wait(5)
        return request_id.get()

    @with_fallback(failover(tier, timeout=9))
    async def fetch() -> str:
        failing()
        return "answer"

    async def main() -> str:
        request_id.set("r-3")
        asyncio.get_running_loop().call_later(0.01, loop_goes_on.set)
        return await fetch()

    assert asyncio.run(main()) == "r-3"


@pytest.mark.real_time
def test_a_plain_tier_that_hangs_is_left_on_a_real_thread() -> None:
    """The caller is back at its limit, and tiers are served though all workers of calls hang."""
    release, reached = threading.Event(), Inside()

    @timeout(0.1, max_workers=1, max_abandoned=1)
    @with_fallback(lambda: release.wait(5) if reached.total == 1 else "instead")
    def fetch() -> str:
        with reached:
            if reached.total == 1:
                failing()
            release.wait(5)
        return "answer"

    try:
        with stopwatch() as watch, pytest.raises(ConnectionError):
            fetch()
        assert watch.seconds < 1
        with pytest.raises(CallTimeout):
            fetch()
        assert fetch() == "instead"
    finally:
        release.set()


def test_a_caller_that_shares_a_call_keeps_its_own_limit(virtual_time: VirtualTime) -> None:
    """The one who began a shared call, and those who wait for it, are back at their own limits."""

    @with_fallback(cached(60, fresh_for=30))
    async def fetch() -> None:
        await hang()

    async def caller(seconds: float) -> float:
        began = virtual_time.now()
        with pytest.raises(TimeoutError):
            async with timeout(seconds):
                await fetch()
        return virtual_time.now() - began

    async def main() -> list[float]:
        return list(await asyncio.gather(caller(0.2), caller(0.5), caller(0.1)))

    assert virtual_time.run(main()) == pytest.approx([0.2, 0.5, 0.1])


@pytest.mark.parametrize("lone", [True, False], ids=["alone", "with another"])
def test_a_limit_around_a_shared_call_ends_it_for_its_caller(
    lone: bool, virtual_time: VirtualTime
) -> None:
    """`timeout` around a cache whose misses share one call also limits the one who began it."""

    @timeout(0.2)
    @with_fallback(cached(60, fresh_for=30))
    async def fetch() -> None:
        await hang()

    async def main() -> list[Any]:
        calls = [asyncio.wait_for(fetch(), 5) for _ in range(1 if lone else 2)]
        return await asyncio.gather(*calls, return_exceptions=True)

    began = virtual_time.now()
    results = virtual_time.run(main())
    assert {type(one) for one in results} == {CallTimeout}
    assert virtual_time.now() - began == pytest.approx(0.2)


def test_each_attempt_at_a_shared_call_has_a_limit_of_its_own(virtual_time: VirtualTime) -> None:
    """An attempt whose shared call was cut leaves the next attempt all of its time."""
    hangs = iter([True, True, False])

    @retry(on=TimeoutError, attempts=3, wait_initial=0)
    @timeout(0.2)
    @with_fallback(cached(60, fresh_for=30))
    async def fetch() -> str:
        if next(hangs):
            await hang()
        await asyncio.sleep(0.15)
        return "answer"

    async def main() -> str:
        return await asyncio.wait_for(fetch(), 5)

    began = virtual_time.now()
    assert virtual_time.run(main()) == "answer"
    assert virtual_time.now() - began == pytest.approx(0.55)


def test_the_tighter_limit_wins_wherever_it_stands(virtual_time: VirtualTime) -> None:
    """Outer or inner, function, block or `asyncio.timeout`: the tighter one ends the call."""

    async def block(outer: Any, inner: Any) -> None:
        async with outer(), inner():
            await hang()

    tight, wide = partial(timeout, 1), partial(timeout, 9)

    nests = [
        timeout(1)(timeout(9)(hang)),
        timeout(9)(timeout(1)(hang)),
        deadline(1)(timeout(9)(hang)),
        timeout(9)(deadline(1)(hang)),
        partial(block, tight, wide),
        partial(block, wide, tight),
        partial(block, partial(deadline, 1), wide),
        partial(block, partial(asyncio.timeout, 1), wide),
        partial(block, tight, partial(asyncio.timeout, 9)),
    ]
    for call in nests:
        began = virtual_time.now()
        with pytest.raises(TimeoutError):
            virtual_time.run(awaited(call))
        assert virtual_time.now() - began == pytest.approx(1)


def test_nothing_begins_after_the_limit_of_its_caller(virtual_time: VirtualTime) -> None:
    """A guarded call after its caller's time is over is not made, and says why."""
    reached = Inside()

    @timeout(5)
    def fetch() -> None:
        with reached:
            pass

    with deadline(0.2):
        fetch()
        virtual_time.sleep(0.3)
        with pytest.raises(DeadlineExceeded):
            fetch()
    assert reached.total == 1
    fetch()
    assert reached.total == 2


def test_a_limit_ends_with_its_block(virtual_time: VirtualTime) -> None:
    """After a limited call or block, in success and in failure, its caller is under no limit."""

    async def main() -> None:
        await timeout(1)(partial(asyncio.sleep, 0))()
        assert remaining() is None
        with pytest.raises(CallTimeout):
            await timeout(1)(hang)()
        assert remaining() is None
        with pytest.raises(ConnectionError):
            async with timeout(1):
                failing()
        assert remaining() is None
        with pytest.raises(ConnectionError), deadline(1):
            failing()
        assert remaining() is None

    virtual_time.run(main())


# 19: forks


def in_a_child(act: Callable[[], object]) -> int:
    """Return the exit status of a forked child: 0 if `act` came to True within 10 s."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            threading.Timer(10, os._exit, (2,)).start()
            status = 0 if act() is True else 1
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def test_the_first_timed_call_in_a_forked_child_works() -> None:
    """A child forked from a process with workers makes workers of its own."""

    @timeout(5)
    def fetch() -> int:
        return os.getpid()

    assert fetch() == os.getpid()
    assert in_a_child(lambda: fetch() == os.getpid()) == 0
    assert fetch() == os.getpid()


def test_a_timed_call_in_a_forked_child_times_out() -> None:
    """A limit fires in a child as it does in its parent."""

    @timeout(0.1)
    def slow(seconds: float) -> None:
        time.sleep(seconds)

    def act() -> bool:
        slow(0)
        with stopwatch() as watch, pytest.raises(CallTimeout):
            slow(3)
        return watch.seconds < 1

    slow(0)
    assert in_a_child(act) == 0


def test_a_child_of_a_saturated_process_is_not_saturated() -> None:
    """The abandoned calls of the parent do not run in the child, and do not count there."""
    release = threading.Event()

    @timeout(0.02, max_abandoned=1)
    def fetch(wait: bool) -> bool:
        return not wait or release.wait(5)

    try:
        with pytest.raises(CallTimeout):
            fetch(True)
        with pytest.raises(WorkersSaturated):
            fetch(False)
        assert in_a_child(lambda: fetch(False)) == 0
    finally:
        release.set()


def test_a_child_forked_from_a_busy_pool_works() -> None:
    """A child that is forked while every worker is busy, and others wait, need not wait."""
    release, reached = threading.Event(), Inside()

    @timeout(10, max_workers=2)
    def fetch(wait: bool) -> bool:
        with reached:
            return not wait or release.wait(5)

    callers = [threading.Thread(target=fetch, args=(True,)) for _ in range(4)]
    for caller in callers:
        caller.start()
    try:
        assert eventually(lambda: reached.now == 2)
        assert in_a_child(lambda: fetch(False)) == 0
    finally:
        release.set()
        for caller in callers:
            caller.join()


def test_children_forked_while_others_call_never_hang() -> None:
    """Each of 30 children, forked from a process whose threads make calls, can make calls."""
    orders = Dependency(
        new_name(),
        timeout=5,
        retry=retry(attempts=2, wait_initial=0),
        breaker=circuit_breaker(fail_max=10**9),
        max_concurrent=20,
        failures=ConnectionError,
    )

    @orders.with_fallback(cached(60), "fallback")
    def fetch(number: int) -> str:
        if number % 2:
            failing()
        return "answer"

    done = threading.Event()

    def keep_calling() -> None:
        while not done.is_set():
            for number in range(20):
                fetch(number)

    def works() -> bool:
        return [fetch(number) for number in (0, 1)] == ["answer", "fallback"]

    callers = [threading.Thread(target=keep_calling) for _ in range(4)]
    # structlog's own loggers hold locks that a child does not get free; the library's are meant.
    with structlog.testing.capture_logs():
        assert works()
        for caller in callers:
            caller.start()
        try:
            statuses = [in_a_child(works) for _ in range(30)]
        finally:
            done.set()
            for caller in callers:
                caller.join()
    assert statuses == [0] * 30


def test_a_pool_of_processes_can_make_timed_calls() -> None:
    """The workers of a forking multiprocessing pool each make timed calls of their own."""
    assert timed_pid() == os.getpid()
    with multiprocessing.get_context("fork").Pool(2) as pool:
        pids = pool.map(timed_pid_of, range(8))
    assert os.getpid() not in pids


@timeout(5)
def timed_pid() -> int:
    return os.getpid()


def timed_pid_of(_: int) -> int:
    return timed_pid()


def test_asyncio_limits_work_in_a_forked_child() -> None:
    """A child has timers of its own on its own loop."""
    limited = timeout(0.05)(hang)

    async def main() -> bool:
        with pytest.raises(CallTimeout):
            await limited()
        return True

    assert asyncio.run(main())
    assert in_a_child(lambda: asyncio.run(main())) == 0


def test_a_circuit_is_probed_in_a_forked_child() -> None:
    """The background checks of an open circuit go on in a child, with a thread of its own."""
    breaker = CircuitBreaker(
        new_name(), fail_max=1, reset_timeout=60, probe=lambda: True, probe_every=0.05, ramp=False
    )

    def act() -> bool:
        with pytest.raises(ConnectionError):
            breaker.call(failing)
        return eventually(lambda: breaker.current_state == "closed")

    with structlog.testing.capture_logs():  # which takes no lock, as loggers do
        assert act()
        assert in_a_child(act) == 0


# Late answers


def test_a_late_answer_is_kept_for_the_next_failure() -> None:
    """An answer that comes after its caller has given up is in the cache for the next one."""
    release, ended = threading.Event(), threading.Event()

    @with_fallback(cached(60), "nothing cached")
    @timeout(0.05)
    def fetch() -> str:
        release.wait(5)
        ended.set()
        return "late answer"

    assert fetch() == "nothing cached"
    release.set()
    assert ended.wait(5)
    assert eventually(lambda: workers_of(fetch).abandoned == 0)
    release.clear()
    assert eventually(lambda: fetch() == "late answer")
    release.set()


def test_a_late_failure_and_a_late_success_are_counted_once() -> None:
    """An abandoned call is one timeout, whatever it comes to in the end."""
    name, release = new_name(), threading.Event()
    breaker = CircuitBreaker(name, fail_max=3, reset_timeout=60)
    fails = iter([True, False, True])

    @breaker
    @timeout(0.03)
    def fetch() -> None:
        fail = next(fails)
        release.wait(5)
        if fail:
            failing()

    for _ in range(3):
        with pytest.raises(CallTimeout):
            fetch()
    release.set()
    assert eventually(lambda: workers_of(fetch).abandoned == 0)
    assert breaker.current_state == "open"
    metrics = Metrics(name)
    assert metrics.calls() == {"timeout": 3}
    assert metrics.value("attempts_total") == 3


def test_a_late_error_says_nothing_on_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    """Whatever an abandoned call ends with, no traceback of a thread is printed."""
    release = threading.Event()

    @timeout(0.03)
    def fetch(error: BaseException) -> None:
        release.wait(5)
        raise error

    for error in (ConnectionError("late"), KeyboardInterrupt(), SystemExit(1)):
        with pytest.raises(CallTimeout):
            fetch(error)
    release.set()
    assert eventually(lambda: workers_of(fetch).abandoned == 0)
    time.sleep(0.02)
    assert capfd.readouterr().err == ""


# Streams and functions that turn out asynchronous


def test_the_first_item_of_a_stream_is_limited_and_the_others_are_not(
    virtual_time: VirtualTime,
) -> None:
    """A stream that begins in time may take as long as it likes; one that does not is cut."""

    @timeout(1)
    async def items(first: float) -> AsyncIterator[int]:
        await asyncio.sleep(first)
        yield 1
        await asyncio.sleep(100)
        yield 2

    @timeout(1)
    def sync_items(first: float) -> Iterator[int]:
        virtual_time.sleep(first)
        yield 1
        virtual_time.sleep(100)
        yield 2

    async def read(first: float) -> list[int]:
        return [item async for item in items(first)]

    assert virtual_time.run(read(0.5)) == [1, 2]
    with pytest.raises(CallTimeout):
        virtual_time.run(read(2))
    assert list(sync_items(0.5)) == [1, 2]
    with pytest.raises(CallTimeout):
        list(sync_items(2))


def test_a_plain_function_that_returns_a_coroutine_is_limited(virtual_time: VirtualTime) -> None:
    """What nobody could tell to be asynchronous is cut at its limit all the same."""

    @timeout(1)
    def fetch() -> Any:
        return hang()

    async def main() -> float:
        began = virtual_time.now()
        with pytest.raises(CallTimeout):
            await fetch()
        return virtual_time.now() - began

    assert virtual_time.run(main()) == pytest.approx(1)
