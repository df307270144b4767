"""Hard cases of concurrency: locks, half-open circuits, stale outcomes, hung calls, counts."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from functools import partial
from itertools import count
from typing import Any

import pybreaker
import pytest

from resilient import (
    Bulkhead,
    BulkheadFull,
    CallTimeout,
    CircuitBreaker,
    CircuitOpen,
    Dependency,
    RetryBudget,
    WorkersSaturated,
    bulkhead,
    cached,
    circuit_breaker,
    pipeline_of,
    rate_limit,
    retry,
    timeout,
    with_fallback,
)
from resilient.testing import VirtualTime
from tests.hard_cases.crowd import Inside, Metrics, crowd, errors, stopwatch
from tests.waiting import eventually

_numbers = count(1)


def new_name() -> str:
    """Return a name that nothing else has: parametrised tests may overlap with what they left."""
    return f"concurrency-{next(_numbers)}"


# Ways to call a function through a breaker. They must not differ.


def decorated(breaker: CircuitBreaker, function: Callable[[], Any]) -> Callable[[], Any]:
    return breaker(function)


def by_call(breaker: CircuitBreaker, function: Callable[[], Any]) -> Callable[[], Any]:
    return partial(breaker.call, function)


def in_a_block(breaker: CircuitBreaker, function: Callable[[], Any]) -> Callable[[], Any]:
    def called() -> Any:
        with breaker:
            return function()

    return called


def of_a_dependency(breaker: CircuitBreaker, function: Callable[[], Any]) -> Callable[[], Any]:
    return Dependency(new_name(), breaker=breaker, max_concurrent=100)(function)


def called_by_a_dependency(
    breaker: CircuitBreaker, function: Callable[[], Any]
) -> Callable[[], Any]:
    return partial(Dependency(new_name(), breaker=breaker).call, function)


def listened_to(breaker: CircuitBreaker, function: Callable[[], Any]) -> Callable[[], Any]:
    # Somebody who wants to know of each call keeps the breaker out of the fast lane.
    class Listener(pybreaker.CircuitBreakerListener):
        def success(self, cb: Any) -> None:
            pass

    breaker.add_listener(Listener())
    return breaker(function)


WAYS = [decorated, by_call, in_a_block, of_a_dependency, called_by_a_dependency, listened_to]
each_way = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)


def decorated_async(breaker: CircuitBreaker, function: Callable[[], Any]) -> Callable[[], Any]:
    return breaker(function)


def in_an_async_block(breaker: CircuitBreaker, function: Callable[[], Any]) -> Callable[[], Any]:
    async def called() -> Any:
        async with breaker:
            return await function()

    return called


def by_a_plain_function(breaker: CircuitBreaker, function: Callable[[], Any]) -> Callable[[], Any]:
    # Nothing tells from outside that this is asynchronous.
    def called() -> Any:
        return function()

    return breaker(called)


ASYNC_WAYS = [
    decorated_async,
    by_call,
    in_an_async_block,
    of_a_dependency,
    called_by_a_dependency,
    by_a_plain_function,
    listened_to,
]
each_async_way = pytest.mark.parametrize("way", ASYNC_WAYS, ids=lambda way: way.__name__)


def fail() -> None:
    raise ConnectionError("reset by peer")


def trip(breaker: CircuitBreaker) -> None:
    """Open the circuit by real failures."""
    while breaker.current_state == "closed":
        with pytest.raises(ConnectionError):
            breaker.call(fail)


def half_open(virtual_time: VirtualTime, **settings: Any) -> CircuitBreaker:
    """Return a breaker that has tripped and now looks for probes."""
    breaker = CircuitBreaker(new_name(), fail_max=1, reset_timeout=10, **settings)
    trip(breaker)
    virtual_time.advance(10)
    assert breaker.current_state == "half-open"
    return breaker


# 1: no lock is held while a function runs


@pytest.mark.real_time
@each_way
def test_eight_threads_take_as_long_as_one_through_a_breaker(way: Any) -> None:
    """8 threads that call a 100 ms function through one breaker take 100 to 150 ms in all.

    Once in five times: a busy machine may be late with one of the threads.
    """
    breaker = CircuitBreaker(new_name())
    call = way(breaker, lambda: time.sleep(0.1))

    def seconds() -> float:
        with stopwatch() as watch:
            assert errors(crowd(8, lambda _: call())) == []
        return watch.seconds

    assert any(0.1 <= seconds() < 0.15 for _ in range(5))


@each_way
@pytest.mark.parametrize("state", ["closed", "half-open", "forced closed"])
def test_eight_threads_are_within_one_breaker_at_once(way: Any, state: str) -> None:
    """8 threads meet inside of the function: nobody waits for another's call to end."""
    breaker = CircuitBreaker(new_name(), probes=8, success_threshold=8)
    if state == "half-open":
        breaker.half_open()
    elif state == "forced closed":
        breaker.force_closed()
    meeting = threading.Barrier(8)
    call = way(breaker, lambda: meeting.wait(5))
    assert sorted(crowd(8, lambda _: call())) == list(range(8))


@pytest.mark.real_time
def test_eight_failing_threads_take_as_long_as_one() -> None:
    """A failing call holds no lock either: 8 of 100 ms each take about 100 ms."""

    @retry(on=ConnectionError, attempts=1)
    @circuit_breaker(new_name(), fail_max=100)
    def slow_failure() -> None:
        time.sleep(0.1)
        raise ConnectionError

    def seconds() -> float:
        with stopwatch() as watch:
            assert len(errors(crowd(8, lambda _: slow_failure()))) == 8
        return watch.seconds

    assert any(seconds() < 0.15 for _ in range(5))


def test_eight_tasks_take_as_long_as_one_through_a_breaker(virtual_time: VirtualTime) -> None:
    """8 tasks that call a 100 ms coroutine function through one breaker take 100 ms in all."""

    @circuit_breaker(new_name())
    async def slow() -> None:
        await asyncio.sleep(0.1)

    async def main() -> float:
        began = virtual_time.now()
        await asyncio.gather(*(slow() for _ in range(8)))
        return virtual_time.now() - began

    assert virtual_time.run(main()) == pytest.approx(0.1)


def slow_listener() -> Any:
    class Listener(pybreaker.CircuitBreakerListener):
        def failure(self, cb: Any, exc: Any) -> None:
            time.sleep(0.1)

    return circuit_breaker(new_name(), fail_max=100, listeners=[Listener()])


def slow_state_change_listener() -> Any:
    class Listener(pybreaker.CircuitBreakerListener):
        def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
            time.sleep(0.1)

    return circuit_breaker(new_name(), fail_max=1, reset_timeout=0, listeners=[Listener()])


def slow_exclusion() -> Any:
    def excluded(error: Exception) -> bool:
        time.sleep(0.1)
        return False

    return circuit_breaker(new_name(), fail_max=100, exclude=[excluded])


def slow_retry_predicate() -> Any:
    def transient(error: BaseException) -> bool:
        time.sleep(0.1)
        return False

    return retry(on=transient)


def slow_fallback() -> Any:
    return with_fallback(lambda: time.sleep(0.1))


def slow_key() -> Any:
    def key() -> str:
        time.sleep(0.05)
        return "key"

    return with_fallback(cached(60, key=key), "default")


def slow_criterion() -> Any:
    def failures(error: BaseException) -> bool:
        time.sleep(0.02)
        return True

    return Dependency(new_name(), failures=failures, breaker=circuit_breaker(fail_max=100))


@pytest.mark.real_time
@pytest.mark.parametrize(
    "strategy",
    [
        slow_listener,
        slow_state_change_listener,
        slow_exclusion,
        slow_retry_predicate,
        slow_fallback,
        slow_key,
        slow_criterion,
    ],
    ids=lambda strategy: strategy.__name__,
)
def test_no_lock_is_held_while_user_code_runs(strategy: Any) -> None:
    """8 threads whose calls fail run their slow hooks at the same time, not one after another."""
    guarded = strategy()(fail)
    with stopwatch() as watch:
        crowd(8, lambda _: guarded())
    assert watch.seconds < 0.45


# 2: a half-open circuit


def callers_of(
    reach: Callable[[], Any], size: int, probes: int, release: Callable[[], Any]
) -> Callable[[], Any]:
    """Return a caller; when all have been rejected that must be, the probes are let go."""
    rejected: list[None] = []

    def caller() -> Any:
        try:
            return reach()
        except CircuitOpen:
            rejected.append(None)
            if len(rejected) == size - probes:
                release()
            raise

    return caller


@pytest.mark.parametrize("probes", [1, 3])
@each_way
def test_twenty_threads_on_a_half_open_circuit_are_as_many_probes_as_are_allowed(
    way: Any, probes: int, virtual_time: VirtualTime
) -> None:
    """Of 20 threads at once on a half-open circuit, exactly `probes` reach the dependency."""
    breaker = half_open(virtual_time, probes=probes, success_threshold=probes)
    reached, release = Inside(), threading.Event()

    def held() -> str:
        with reached:
            release.wait(2)
            return "answer"

    caller = callers_of(way(breaker, held), 20, probes, release.set)
    results = crowd(20, lambda _: caller())
    assert reached.total == probes
    assert results.count("answer") == probes
    assert all(isinstance(error, CircuitOpen) for error in errors(results))
    assert breaker.current_state == "closed"


@pytest.mark.parametrize("probes", [1, 3])
@each_async_way
def test_twenty_tasks_on_a_half_open_circuit_are_as_many_probes_as_are_allowed(
    way: Any, probes: int, virtual_time: VirtualTime
) -> None:
    """Of 20 tasks at once on a half-open circuit, exactly `probes` reach the dependency."""
    breaker = half_open(virtual_time, probes=probes, success_threshold=probes)
    reached = Inside()

    async def held() -> str:
        with reached:
            await asyncio.sleep(1)
            return "answer"

    call = way(breaker, held)

    async def main() -> list[Any]:
        return await asyncio.gather(*(call() for _ in range(20)), return_exceptions=True)

    results = virtual_time.run(main())
    assert reached.total == probes
    assert results.count("answer") == probes
    assert all(isinstance(error, CircuitOpen) for error in errors(results))
    assert breaker.current_state == "closed"


def test_threads_and_tasks_share_the_probes_of_one_circuit(virtual_time: VirtualTime) -> None:
    """Of 10 threads and 10 tasks at once on a half-open circuit, one is the probe."""
    breaker = half_open(virtual_time)
    reached, release = Inside(), threading.Event()

    @breaker
    def held() -> None:
        with reached:
            release.wait(2)

    @breaker
    async def held_async() -> None:
        with reached:
            while not release.is_set():
                await asyncio.sleep(0.001)

    rejected: list[None] = []

    def count_rejection() -> None:
        rejected.append(None)
        if len(rejected) == 19:
            release.set()

    def act(index: int) -> None:
        if index:
            try:
                held()
            except CircuitOpen:
                count_rejection()
            return

        async def one() -> None:
            try:
                await held_async()
            except CircuitOpen:
                count_rejection()

        async def main() -> None:
            await asyncio.gather(*(one() for _ in range(10)))

        asyncio.run(main())

    assert errors(crowd(11, act)) == []
    assert reached.total == 1


def test_twenty_streams_on_a_half_open_circuit_are_one_probe(virtual_time: VirtualTime) -> None:
    """Of 20 tasks that begin a stream on a half-open circuit, one reaches the dependency."""
    breaker = half_open(virtual_time)
    reached = Inside()

    @breaker
    async def pages() -> AsyncIterator[int]:
        with reached:
            await asyncio.sleep(1)
            yield 1

    async def read() -> list[int]:
        return [page async for page in pages()]

    async def main() -> list[Any]:
        return await asyncio.gather(*(read() for _ in range(20)), return_exceptions=True)

    results = virtual_time.run(main())
    assert reached.total == 1
    assert results.count([1]) == 1
    assert breaker.current_state == "closed"


def test_the_retries_of_a_probe_are_within_its_permit(virtual_time: VirtualTime) -> None:
    """While a half-open circuit waits for its one probe, a second attempt elsewhere is none."""
    breaker = half_open(virtual_time)
    reached = Inside()

    @retry(on=ConnectionError, attempts=3, budget=None)
    @breaker
    async def held() -> None:
        with reached:
            await asyncio.sleep(1)

    async def main() -> list[Any]:
        return await asyncio.gather(*(held() for _ in range(20)), return_exceptions=True)

    virtual_time.run(main())
    assert reached.total == 1


def test_what_a_probe_calls_rides_on_its_permit(virtual_time: VirtualTime) -> None:
    """A probe that calls the same dependency once more is one probe, and may succeed."""
    breaker = half_open(virtual_time)
    inner = breaker(lambda: "inner")
    outer = breaker(lambda: inner() + " and outer")
    assert outer() == "inner and outer"
    assert breaker.current_state == "closed"


def test_what_a_probe_calls_on_a_worker_rides_on_its_permit() -> None:
    """The permit of a probe is known on the thread that its time limit moves it to."""
    breaker = CircuitBreaker(new_name(), fail_max=1, reset_timeout=0)
    trip(breaker)
    inner = breaker(lambda: "inner")

    @breaker
    @timeout(5)
    def outer() -> str:
        return inner() + " and outer"

    assert outer() == "inner and outer"
    assert breaker.current_state == "closed"


def test_a_task_that_outlives_the_probe_which_began_it_has_no_permit(
    virtual_time: VirtualTime,
) -> None:
    """What a probe leaves running in the background is rejected like others when it calls."""
    breaker = half_open(virtual_time)
    reached: list[str] = []
    background: list[asyncio.Task[Any]] = []

    @breaker
    async def fetch(who: str) -> None:
        reached.append(who)

    async def poll_later() -> None:
        await asyncio.sleep(1)
        await fetch("background")

    @breaker
    async def probe() -> None:
        background.append(asyncio.create_task(poll_later()))

    async def main() -> None:
        await probe()
        assert breaker.current_state == "closed"
        trip(breaker)
        with pytest.raises(CircuitOpen):
            await background[0]

    virtual_time.run(main())
    assert reached == []


def test_what_an_outlived_probe_began_counts_again(virtual_time: VirtualTime) -> None:
    """The failures of a task that a probe has left running open the circuit like any others."""
    breaker = half_open(virtual_time)
    background: list[asyncio.Task[Any]] = []

    async def poll_later() -> None:
        await asyncio.sleep(1)
        breaker.call(fail)

    @breaker
    async def probe() -> None:
        background.append(asyncio.create_task(poll_later()))

    async def main() -> None:
        await probe()
        with pytest.raises(ConnectionError):
            await background[0]

    virtual_time.run(main())
    assert breaker.current_state == "open"


def test_after_the_probes_have_succeeded_everybody_passes(virtual_time: VirtualTime) -> None:
    """A circuit that has closed again lets all of 20 threads through."""
    breaker = half_open(virtual_time)
    guarded = breaker(lambda: "answer")
    guarded()
    assert crowd(20, lambda _: guarded()) == ["answer"] * 20


def test_a_failed_probe_lets_nobody_in(virtual_time: VirtualTime) -> None:
    """When the one probe fails, all of 20 threads after it are rejected."""
    breaker = half_open(virtual_time)
    with pytest.raises(ConnectionError):
        breaker.call(fail)
    reached = Inside()

    def reach() -> None:
        with reached:
            pass

    results = crowd(20, lambda _: breaker.call(reach))
    assert reached.total == 0
    assert all(isinstance(error, CircuitOpen) for error in results)


# 3 and 4: what was admitted before a change decides nothing after it


@each_way
def test_a_slow_success_from_before_the_trip_does_not_close_the_circuit(
    way: Any, virtual_time: VirtualTime
) -> None:
    """A call that began before the circuit opened and succeeds after it leaves it open."""
    breaker = CircuitBreaker(new_name(), fail_max=3, reset_timeout=10)

    def slow() -> str:
        trip(breaker)
        virtual_time.sleep(5)
        return "late"

    assert way(breaker, slow)() == "late"
    assert breaker.current_state == "open"
    assert breaker.retry_after == pytest.approx(5)


@each_way
def test_a_slow_success_from_before_the_trip_is_not_the_probe(
    way: Any, virtual_time: VirtualTime
) -> None:
    """A call that outlives the open period decides nothing, and takes nobody's place."""
    breaker = CircuitBreaker(new_name(), fail_max=3, reset_timeout=10)

    def slow() -> str:
        trip(breaker)
        virtual_time.sleep(11)
        assert breaker.current_state == "half-open"
        return "late"

    assert way(breaker, slow)() == "late"
    assert breaker.current_state == "half-open"
    assert breaker.success_counter == 0
    assert breaker.call(lambda: "probe") == "probe"
    assert breaker.current_state == "closed"


@each_async_way
def test_a_slow_async_success_from_before_the_trip_decides_nothing(
    way: Any, virtual_time: VirtualTime
) -> None:
    """An asynchronous call that outlives the open period leaves the circuit half-open."""
    breaker = CircuitBreaker(new_name(), fail_max=3, reset_timeout=10)

    async def slow() -> str:
        trip(breaker)
        await asyncio.sleep(5)
        assert breaker.current_state == "open"
        await asyncio.sleep(6)
        return "late"

    call = way(breaker, slow)

    async def main() -> Any:
        return await call()

    assert virtual_time.run(main()) == "late"
    assert breaker.current_state == "half-open"
    assert breaker.success_counter == 0


@pytest.mark.parametrize("seconds", [5, 11], ids=["open", "half-open"])
@each_way
def test_a_stale_failure_does_not_lengthen_the_open_period(
    way: Any, seconds: float, virtual_time: VirtualTime
) -> None:
    """A call from before the trip that fails after it moves neither the state nor its end."""
    breaker = CircuitBreaker(new_name(), fail_max=3, reset_timeout=10, max_reset_timeout=80)

    def slow() -> None:
        trip(breaker)
        virtual_time.sleep(seconds)
        state.append(breaker.current_state)
        raise ConnectionError("late")

    state: list[str] = []
    opened = virtual_time.now()
    with pytest.raises(ConnectionError, match="late"):
        way(breaker, slow)()
    assert [breaker.current_state] == state
    assert breaker.transitions["open"] == 1
    virtual_time.advance(opened + 10 - virtual_time.now() if seconds < 10 else 0)
    assert breaker.current_state == "half-open"


def test_many_stale_failures_do_not_lengthen_the_open_period(virtual_time: VirtualTime) -> None:
    """Of 50 calls in flight at the trip, none that fails later makes the outage longer."""
    breaker = CircuitBreaker(new_name(), fail_max=5, reset_timeout=10, max_reset_timeout=80)

    @breaker
    async def slow(seconds: float) -> None:
        await asyncio.sleep(seconds)
        raise ConnectionError

    async def main() -> None:
        calls = [asyncio.create_task(slow(1 + number / 10)) for number in range(50)]
        await asyncio.sleep(1.45)
        assert breaker.retry_after == pytest.approx(10 - 0.05)
        await asyncio.gather(*calls, return_exceptions=True)
        assert breaker.retry_after == pytest.approx(10 - 4.5)

    virtual_time.run(main())
    assert breaker.transitions["open"] == 1


@each_way
def test_a_failure_from_before_the_outage_does_not_open_the_circuit_after_it(
    way: Any, virtual_time: VirtualTime
) -> None:
    """A call that outlives a whole outage and then fails says nothing about the time after it."""
    breaker = CircuitBreaker(new_name(), fail_max=1, reset_timeout=10)

    def slow() -> None:
        trip(breaker)
        virtual_time.sleep(10)
        breaker.call(lambda: "probe")
        assert breaker.current_state == "closed"
        raise ConnectionError("late")

    with pytest.raises(ConnectionError, match="late"):
        way(breaker, slow)()
    assert breaker.current_state == "closed"
    assert breaker.fail_counter == 0
    assert breaker.last_failure is None


@each_way
def test_a_success_from_before_the_outage_does_not_count_after_it(
    way: Any, virtual_time: VirtualTime
) -> None:
    """A call that outlives a whole outage does not break a new run of failures."""
    breaker = CircuitBreaker(new_name(), fail_max=2, reset_timeout=10)

    def slow() -> None:
        trip(breaker)
        virtual_time.sleep(10)
        breaker.call(lambda: "probe")
        with pytest.raises(ConnectionError):
            breaker.call(fail)

    way(breaker, slow)()
    assert breaker.fail_counter == 1
    with pytest.raises(ConnectionError):
        breaker.call(fail)
    assert breaker.current_state == "open"


def test_a_success_from_before_a_reset_by_hand_is_not_in_the_new_window(
    virtual_time: VirtualTime,
) -> None:
    """What was admitted before an outage that was ended by hand is in no denominator after it."""
    breaker = CircuitBreaker(new_name(), failure_rate=0.5, min_calls=2, window=10)

    @breaker
    def slow() -> None:
        breaker.force_open()
        virtual_time.sleep(1)
        breaker.reset()

    slow()
    with pytest.raises(ConnectionError):
        breaker.call(fail)
    assert breaker.failure_rate == 1.0
    assert breaker.current_state == "closed", "one call is less than min_calls"


def test_a_probe_of_the_last_outage_does_not_decide_the_next(virtual_time: VirtualTime) -> None:
    """A slow probe that succeeds after its circuit has opened anew leaves that open."""
    breaker = half_open(virtual_time, probes=2)

    def slow() -> str:
        with pytest.raises(ConnectionError):
            breaker.call(fail)  # rides on the permit, decides nothing
        breaker.force_open()
        return "late"

    assert breaker.call(slow) == "late"
    assert breaker.current_state == "open"


def test_a_stream_from_before_the_trip_that_breaks_after_it_decides_nothing(
    virtual_time: VirtualTime,
) -> None:
    """A stream that began before the circuit opened does not open the half-open circuit again."""
    breaker = CircuitBreaker(new_name(), fail_max=1, reset_timeout=10)

    @breaker
    def pages() -> Generator[int]:
        yield 1
        raise ConnectionError("in mid-stream")

    stream = pages()
    assert next(stream) == 1
    trip(breaker)
    virtual_time.advance(10)
    assert breaker.current_state == "half-open"
    with pytest.raises(ConnectionError, match="in mid-stream"):
        next(stream)
    assert breaker.current_state == "half-open"
    assert breaker.transitions["open"] == 1


# 5: the lease of a probe


@each_async_way
def test_a_hung_probe_does_not_lock_everybody_out(way: Any, virtual_time: VirtualTime) -> None:
    """A probe that hangs has its lease end after `reset_timeout`, and counts as a failed one."""
    breaker = half_open(virtual_time)

    async def hang() -> None:
        await asyncio.Event().wait()

    call = way(breaker, hang)

    async def main() -> None:
        hung = asyncio.ensure_future(call())
        await asyncio.sleep(9.9)
        with pytest.raises(CircuitOpen):
            breaker.call(lambda: "too early")
        await asyncio.sleep(0.1)
        assert breaker.current_state == "open"
        assert breaker.retry_after == pytest.approx(10)
        await asyncio.sleep(10)
        assert breaker.call(lambda: "probe") == "probe"
        assert breaker.current_state == "closed"
        hung.cancel()
        await asyncio.gather(hung, return_exceptions=True)
        assert breaker.current_state == "closed"

    virtual_time.run(main())


def test_the_lease_of_a_hung_probe_ends_without_any_traffic(virtual_time: VirtualTime) -> None:
    """The state that is shown is right although nobody calls while the probe hangs."""
    breaker = half_open(virtual_time)

    @breaker
    async def hang() -> None:
        await asyncio.Event().wait()

    async def main() -> list[str]:
        hung = asyncio.create_task(hang())
        states = []
        for _ in range(5):
            await asyncio.sleep(5)
            states.append(breaker.current_state)
        hung.cancel()
        return states

    assert virtual_time.run(main()) == ["half-open", "open", "open", "half-open", "half-open"]


def test_the_lease_of_a_probe_ends_with_its_own_limit(virtual_time: VirtualTime) -> None:
    """A probe that has 2 s in all keeps its place for 2 s, not for `reset_timeout`."""
    breaker = half_open(virtual_time)

    @timeout(2)
    @breaker
    async def hang() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        with pytest.raises(CallTimeout):
            await hang()

    virtual_time.run(main())
    virtual_time.advance(10)
    assert breaker.call(lambda: "probe") == "probe"


@pytest.mark.parametrize("seconds", [15, 60])
def test_a_probe_may_take_as_long_as_its_own_limit_allows(
    seconds: float, virtual_time: VirtualTime
) -> None:
    """A healthy call that takes longer than `reset_timeout` closes the circuit all the same."""
    breaker = half_open(virtual_time)

    @breaker
    @timeout(seconds + 1)
    async def slow() -> str:
        await asyncio.sleep(seconds)
        return "answer"

    async def main() -> str:
        call = asyncio.create_task(slow())
        await asyncio.sleep(11)
        assert breaker.current_state == "half-open"
        return await call

    assert virtual_time.run(main()) == "answer"
    assert breaker.current_state == "closed"


@pytest.mark.parametrize("reset_timeout", [1, 30])
def test_a_probe_may_take_all_of_its_attempts(
    reset_timeout: float, virtual_time: VirtualTime
) -> None:
    """A retry within the breaker has as many limits as attempts: the second one closes it."""
    breaker = CircuitBreaker(new_name(), fail_max=1, reset_timeout=reset_timeout)
    seconds = iter([5.0, 5.0, 0.1])

    @breaker
    @retry(on=TimeoutError, attempts=3)
    @timeout(2)
    async def fetch() -> str:
        await asyncio.sleep(next(seconds))
        return "answer"

    breaker.open()
    virtual_time.advance(reset_timeout)
    assert virtual_time.run(fetch()) == "answer"
    assert breaker.current_state == "closed"


def test_the_lease_of_a_probe_ends_with_the_last_of_its_attempts(virtual_time: VirtualTime) -> None:
    """Three attempts of 2 s, and pauses of 0.1 and 0.2 s at the most, are a lease of 6.3 s."""
    breaker = half_open(virtual_time)

    @breaker
    @retry(on=TimeoutError, attempts=3)
    @timeout(2)
    async def hang() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        hung = asyncio.create_task(hang())
        await asyncio.sleep(0)
        with pytest.raises(CircuitOpen) as rejected:
            breaker.call(lambda: "too early")
        assert rejected.value.retry_after == pytest.approx(6.3)
        with pytest.raises(CallTimeout):
            await hung

    virtual_time.run(main())
    assert breaker.current_state == "open"


def test_a_slow_dependency_with_a_time_limit_comes_back(virtual_time: VirtualTime) -> None:
    """A dependency that answers in 2 s of the 5 that it has, and opens for 1 s, closes again."""
    payments = Dependency(
        new_name(),
        timeout=5,
        failures=ConnectionError,
        breaker=circuit_breaker(fail_max=1, reset_timeout=1),
    )

    @payments
    def charge(error: Exception | None = None) -> str:
        if error is not None:
            raise error
        virtual_time.sleep(2)
        return "charged"

    with pytest.raises(ConnectionError):
        charge(ConnectionError("reset"))
    virtual_time.advance(1)
    assert charge() == "charged"
    assert payments.breaker is not None
    assert payments.breaker.current_state == "closed"


def test_the_late_answer_of_an_expired_probe_closes_nothing(virtual_time: VirtualTime) -> None:
    """A probe that answers after its lease has ended is not the one that closes the circuit."""
    breaker = half_open(virtual_time)

    @breaker
    async def slow() -> str:
        await asyncio.sleep(15)
        return "late"

    async def main() -> str:
        late = asyncio.create_task(slow())
        await asyncio.sleep(12)
        assert breaker.current_state == "open"
        return await late

    assert virtual_time.run(main()) == "late"
    assert breaker.current_state == "open"
    assert breaker.retry_after == pytest.approx(5)


def test_a_probe_that_hangs_on_a_worker_gives_its_permit_back_at_its_limit() -> None:
    """A synchronous probe that is abandoned at its limit has failed, and the next one is let in."""
    breaker = CircuitBreaker(new_name(), fail_max=1, reset_timeout=0.05)
    release = threading.Event()
    hang = breaker(timeout(0.1)(release.wait))
    trip(breaker)
    assert eventually(lambda: breaker.current_state == "half-open")
    with pytest.raises(CallTimeout):
        hang()
    assert breaker.current_state == "open"
    assert eventually(lambda: breaker.current_state == "half-open")
    assert breaker.call(lambda: "probe") == "probe"
    release.set()


# 6: hung synchronous calls


def abandoned_by(function: Callable[..., Any]) -> int:
    """Return how many abandoned calls of `function` are still running."""
    pools = {id(one.workers): one.workers for one in pipeline_of(function).strategies}
    return sum(pool.abandoned for pool in pools.values() if pool is not None)


@pytest.mark.real_time
def test_three_hundred_hung_calls_are_bounded_and_then_work_again() -> None:
    """Threads stay bounded under 300 hung calls, the rest is rejected, and all is well after."""
    name, release, reached = new_name(), threading.Event(), Inside()
    before, peak = threading.active_count(), []

    @circuit_breaker(name, fail_max=1000)
    @timeout(0.2)
    def hang() -> str:
        with reached:
            peak.append(threading.active_count())
            release.wait(10)
            return "answer"

    metrics = Metrics(name)
    try:
        with stopwatch() as watch:
            results = crowd(300, lambda _: hang())
        workers = threading.active_count() - before
        timed_out = [one for one in results if isinstance(one, CallTimeout)]
        saturated = [one for one in results if isinstance(one, WorkersSaturated)]
        assert len(timed_out) + len(saturated) == 300
        assert len(timed_out) == reached.total
        assert 32 <= reached.total <= 64 + 32, "as many as there are workers, and no more"
        assert max(peak) - before - 300 <= 64 + 32
        assert workers <= 64 + 32
        assert watch.seconds < 5
        assert metrics.value("abandoned_calls") == reached.total
        with pytest.raises(WorkersSaturated), stopwatch() as watch:
            hang()
        assert watch.seconds < 0.1
        saturated_calls = len(saturated) + 1
        assert metrics.calls() == {"timeout": len(timed_out), "rejected": saturated_calls}
        assert metrics.value("rejections_total", reason="saturated") == saturated_calls
    finally:
        release.set()
    assert eventually(lambda: metrics.value("abandoned_calls") == 0)
    assert crowd(20, lambda _: hang()) == ["answer"] * 20
    assert threading.active_count() - before <= 64 + 32


def test_a_pool_survives_one_outage_after_another() -> None:
    """After each of five times in which all that may hang has hung, calls work again."""
    releases = [threading.Event() for _ in range(5)]
    current = [releases[0]]

    @timeout(0.03, max_abandoned=4, max_workers=4)
    def wait() -> str:
        current[0].wait(10)
        return "answer"

    for release in releases:
        current[0] = release
        results = crowd(12, lambda _: wait())
        assert {type(one) for one in results} <= {CallTimeout, WorkersSaturated}
        with pytest.raises(WorkersSaturated):
            wait()
        release.set()
        assert eventually(lambda: abandoned_by(wait) == 0)
        assert wait() == "answer"


def test_one_hung_call_that_ends_makes_room_for_one() -> None:
    """When one of the abandoned calls ends, exactly one more may hang."""
    releases = [threading.Event() for _ in range(4)]
    numbers = count()

    @timeout(0.03, max_abandoned=2)
    def hang() -> None:
        releases[next(numbers)].wait(10)

    try:
        for _ in range(2):
            with pytest.raises(CallTimeout):
                hang()
        with pytest.raises(WorkersSaturated):
            hang()
        releases[0].set()
        assert eventually(lambda: abandoned_by(hang) == 1)
        with pytest.raises(CallTimeout):
            hang()
        with pytest.raises(WorkersSaturated):
            hang()
    finally:
        for release in releases:
            release.set()


def test_a_worker_that_is_idle_is_not_for_a_saturated_pool() -> None:
    """While all that may hang does hang, calls are rejected even if a thread has nothing to do."""
    release, together = threading.Event(), threading.Barrier(2)
    limit = timeout(0.05, max_abandoned=1)
    meet, hang, quick = limit(together.wait), limit(release.wait), limit(lambda: "answer")
    assert sorted(crowd(2, lambda _: meet())) == [0, 1]
    try:
        with pytest.raises(CallTimeout):
            hang(5)
        with pytest.raises(WorkersSaturated):
            quick()
    finally:
        release.set()
    assert eventually(lambda: abandoned_by(quick) == 0)
    assert quick() == "answer"


def test_those_who_wait_for_a_worker_are_rejected_once_there_is_none_to_wait_for() -> None:
    """Callers that queue behind calls which then hang are not kept until these end."""
    release, reached = threading.Event(), Inside()

    @timeout(0.1, max_workers=2, max_abandoned=2)
    def hang() -> None:
        with reached:
            release.wait(10)

    try:
        with stopwatch() as watch:
            results = crowd(10, lambda _: hang())
        assert reached.total <= 3
        assert {type(one) for one in results} == {CallTimeout, WorkersSaturated}
        assert watch.seconds < 2
    finally:
        release.set()


def test_being_saturated_is_no_evidence_against_the_dependency() -> None:
    """A saturated pool neither opens the circuit, nor is it tried again; a fallback serves it."""
    release, attempts = threading.Event(), Inside()
    breaker = CircuitBreaker(new_name(), fail_max=2)

    @with_fallback("fallback")
    @retry(on=Exception, attempts=3, wait_initial=0)
    @breaker
    @timeout(0.02, max_abandoned=1, max_workers=1)
    def hang() -> None:
        with attempts:
            release.wait(10)

    try:
        assert hang() == "fallback"
        assert attempts.total == 1
        assert breaker.fail_counter == 1
        assert [hang() for _ in range(20)] == ["fallback"] * 20
        assert breaker.current_state == "closed"
        assert attempts.total == 1
    finally:
        release.set()


def test_two_functions_under_one_limit_share_its_workers() -> None:
    """The bound on hung calls is that of the strategy, whatever functions it guards."""
    release = threading.Event()
    limit = timeout(0.02, max_abandoned=1)
    one, other = limit(lambda: release.wait(10)), limit(lambda: "other")
    try:
        with pytest.raises(CallTimeout):
            one()
        with pytest.raises(WorkersSaturated) as rejected:
            other()
        assert rejected.value.abandoned == 1
    finally:
        release.set()


def test_three_hundred_hung_async_calls_need_no_threads(virtual_time: VirtualTime) -> None:
    """All of 300 hung tasks are back at their limit, no thread is made, and no task is left."""
    before = set(threading.enumerate())

    @timeout(0.2)
    async def hang() -> None:
        await asyncio.Event().wait()

    async def main() -> list[Any]:
        results = await asyncio.gather(*(hang() for _ in range(300)), return_exceptions=True)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return results

    began = virtual_time.now()
    results = virtual_time.run(main())
    assert [type(one) for one in results] == [CallTimeout] * 300
    assert virtual_time.now() - began == pytest.approx(0.2)
    # Idle threads of other tests may end meanwhile; none may be new.
    assert set(threading.enumerate()) <= before


def test_idle_workers_are_used_again() -> None:
    """A hundred timed calls, one after another, run on one thread."""
    threads: set[int] = set()
    guarded = timeout(5)(lambda: threads.add(threading.get_ident()))
    for _ in range(100):
        guarded()
    assert len(threads) == 1
    assert threading.get_ident() not in threads


# 7: one bulkhead for all loops and threads


class Permits:
    """Ways through one bulkhead of two, and the most that were in there at once."""

    def __init__(self) -> None:
        self.limit: Bulkhead = bulkhead(2, max_waiting=1000)
        self.inside = Inside()

    def ways(self) -> list[Callable[[], Any]]:
        @self.limit
        async def decorated() -> None:
            with self.inside:
                await asyncio.sleep(0.002)

        async def block() -> None:
            async with self.limit:
                with self.inside:
                    await asyncio.sleep(0.002)

        @self.limit
        async def stream() -> AsyncIterator[int]:
            with self.inside:
                yield 1
                await asyncio.sleep(0.002)
                yield 2

        async def consumed() -> None:
            async for _ in stream():
                pass

        return [decorated, block, consumed]

    def sync_ways(self) -> list[Callable[[], Any]]:
        @self.limit
        def decorated() -> None:
            with self.inside:
                time.sleep(0.002)

        def block() -> None:
            with self.limit, self.inside:
                time.sleep(0.002)

        @self.limit
        @timeout(5)
        def timed() -> None:
            with self.inside:
                time.sleep(0.002)

        return [decorated, block, timed]


def test_a_bulkhead_of_two_holds_over_six_event_loops() -> None:
    """From 6 loops in 6 threads, never more than 2 calls run at once, and all of them do run."""
    permits = Permits()

    def loop(_: int) -> None:
        async def main() -> None:
            ways = permits.ways()
            await asyncio.gather(*(ways[number % 3]() for number in range(12)))

        asyncio.run(main())

    assert errors(crowd(6, loop)) == []
    assert permits.inside.most == 2
    assert permits.inside.total == 6 * 12
    assert (permits.limit.in_flight, permits.limit.waiting) == (0, 0)


def test_a_bulkhead_of_two_holds_over_loops_and_threads_together() -> None:
    """Loops and plain threads share the two permits, and hand them to each other."""
    permits = Permits()

    def act(index: int) -> None:
        if index % 2:
            for way in permits.sync_ways() * 4:
                way()
            return

        async def main() -> None:
            await asyncio.gather(*(way() for way in permits.ways() * 4))

        asyncio.run(main())

    assert errors(crowd(6, act)) == []
    assert permits.inside.most == 2
    assert permits.inside.total == 6 * 12
    assert (permits.limit.in_flight, permits.limit.waiting) == (0, 0)


def test_the_queue_of_a_bulkhead_is_bounded_over_loops() -> None:
    """With 1 permit and 2 places to wait, 3 of 6 loops get through and 3 are rejected at once."""
    limit = bulkhead(1, max_waiting=2)
    arrived, rejected = threading.Barrier(6), Inside()

    def loop(_: int) -> str:
        async def main() -> str:
            arrived.wait()
            try:
                async with limit:
                    while rejected.total < 3:
                        await asyncio.sleep(0.001)
                    return "served"
            except BulkheadFull:
                with rejected:
                    return "rejected"

        return asyncio.run(asyncio.wait_for(main(), 5))

    assert sorted(crowd(6, loop)) == ["rejected"] * 3 + ["served"] * 3


def test_a_loop_that_ends_leaves_no_place_in_the_queue_taken() -> None:
    """Callers whose loop is shut down while they wait do not hold permits or places."""
    limit = bulkhead(1, max_waiting=10)

    async def wait_for_ever() -> None:
        async with limit:
            raise AssertionError("there is no permit to get")

    async def main() -> None:
        waiting.extend(asyncio.create_task(wait_for_ever()) for _ in range(5))
        await asyncio.sleep(0.01)
        assert limit.waiting == 5

    waiting: list[asyncio.Task[None]] = []
    with limit:
        asyncio.run(main())
        assert limit.waiting == 0
    assert limit.in_flight == 0
    with limit:
        assert limit.in_flight == 1


def test_a_caller_that_is_cancelled_as_it_gets_its_permit_hands_it_on(
    virtual_time: VirtualTime,
) -> None:
    """A permit that comes free in the moment in which its heir is cancelled is not lost."""
    limit = bulkhead(1, max_waiting=2)
    served: list[str] = []

    async def use(name: str) -> None:
        async with limit:
            served.append(name)
            await asyncio.sleep(1)

    async def main() -> None:
        first = asyncio.create_task(use("first"))
        await asyncio.sleep(0.5)
        heir, last = asyncio.create_task(use("heir")), asyncio.create_task(use("last"))
        await first
        heir.cancel()  # it has been handed the permit, and has not run since
        await asyncio.gather(heir, last, return_exceptions=True)

    virtual_time.run(main())
    assert served == ["first", "last"]
    assert limit.in_flight == 0


def test_callers_of_a_bulkhead_are_served_in_the_order_in_which_they_came(
    virtual_time: VirtualTime,
) -> None:
    """Nobody overtakes those who wait, whether they wait in a block or for a function."""
    limit = bulkhead(1, max_waiting=10)
    order: list[int] = []

    @limit
    async def use(number: int) -> None:
        order.append(number)
        await asyncio.sleep(1)

    async def main() -> None:
        await asyncio.gather(*(use(number) for number in range(8)))

    virtual_time.run(main())
    assert order == list(range(8))


def test_a_caller_that_waits_longer_than_it_may_leaves_the_queue(virtual_time: VirtualTime) -> None:
    """After `max_wait`, or at the end of its own limit, a caller is back, and its place is free."""
    limit = bulkhead(1, max_waiting=10, max_wait=3)

    @limit
    async def use() -> None:
        await asyncio.sleep(10)

    limited = timeout(1)(use)

    async def main() -> tuple[float, float]:
        first = asyncio.create_task(use())
        await asyncio.sleep(0)
        began = virtual_time.now()
        with pytest.raises(BulkheadFull):
            await use()
        waited = virtual_time.now() - began
        with pytest.raises((BulkheadFull, CallTimeout)):
            await limited()
        limited_waited = virtual_time.now() - began - waited
        assert limit.waiting == 0
        await first
        return waited, limited_waited

    assert virtual_time.run(main()) == pytest.approx((3, 1))


def test_a_forked_child_has_all_permits() -> None:
    """The calls that hold permits in the parent do not run in the child, which begins anew."""
    limit = bulkhead(1)
    with limit:
        child = os.fork()
        if child == 0:
            try:
                with limit:
                    os._exit(0)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_a_child_that_is_forked_within_a_call_has_no_permit_too_many() -> None:
    """The call ends in the child as well, which gives nothing back that it has not taken."""
    limit = bulkhead(1)
    child = limit(os.fork)()
    if child == 0:
        status = 1
        try:
            with limit, pytest.raises(BulkheadFull), limit:
                pass
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert limit.in_flight == 0


def test_an_early_break_gives_the_permit_of_a_stream_back() -> None:
    """A stream holds its permit until it ends, and a reader that leaves early ends it."""
    limit = bulkhead(1)

    @limit
    def pages() -> Iterator[int]:
        yield 1
        yield 2

    for _ in range(3):
        for _page in pages():
            assert limit.in_flight == 1
            break
        assert limit.in_flight == 0


# 8: counts are exact

THREADS, CALLS = 1000, 100


def outcomes_of(results: list[Any]) -> tuple[int, int]:
    """Return the successes and the failures that the callers have counted."""
    assert errors(results) == []
    return sum(one[0] for one in results), sum(one[1] for one in results)


def call_often(function: Callable[[int], Any], times: int) -> tuple[int, int]:
    """Call `function(number)`; return how often it succeeded and failed."""
    succeeded = failed = 0
    for number in range(times):
        try:
            function(number)
        except ConnectionError:
            failed += 1
        else:
            succeeded += 1
    return succeeded, failed


def test_a_thousand_threads_with_a_hundred_calls_each_add_up_exactly() -> None:
    """Calls, outcomes, attempts, durations and the breaker's window count 100,000 of 100,000."""
    name, reached = new_name(), []
    breaker = CircuitBreaker(name, failure_rate=0.9, window=THREADS * CALLS, min_calls=100_000)

    @breaker
    @retry(on=TimeoutError)
    @bulkhead(THREADS)
    def fetch(number: int) -> None:
        reached.append(None)
        if number % 10 == 0:
            raise ConnectionError

    metrics = Metrics(name)
    results = crowd(THREADS, lambda _: call_often(fetch, CALLS))
    assert outcomes_of(results) == (90_000, 10_000)
    assert len(reached) == 100_000
    assert metrics.calls() == {"success": 90_000, "failure": 10_000}
    assert metrics.value("attempts_total") == 100_000
    assert metrics.value("retries_total") == 0
    assert metrics.value("call_duration_seconds_count") == 100_000
    assert metrics.value("in_flight") == 0
    assert breaker.failure_rate == 0.1
    assert breaker.current_state == "closed"


def test_counts_are_exact_while_they_are_read() -> None:
    """Scrapes in between never see a count go back, and lose nothing."""
    name = new_name()
    fetch = circuit_breaker(name, fail_max=10_000)(lambda number: None if number % 7 else fail())
    metrics, seen, done = Metrics(name), [], threading.Event()

    def scrape() -> None:
        while not done.is_set():
            seen.append(metrics.calls())

    def act(index: int) -> tuple[int, int]:
        if index:
            return call_often(fetch, 1000)
        scrape()
        return (0, 0)

    threading.Timer(0.3, done.set).start()
    succeeded, failed = outcomes_of(crowd(9, act))
    assert succeeded + failed == 8000
    assert metrics.calls() == {"success": succeeded, "failure": failed}
    for outcome in ("success", "failure"):
        counts = [one.get(outcome, 0) for one in seen]
        assert counts == sorted(counts)


def test_a_hundred_threads_through_workers_add_up_exactly() -> None:
    """Timed calls of 100 threads, some of which fail, are counted once each."""
    name, reached = new_name(), Inside()

    @circuit_breaker(name, fail_max=100_000)
    @timeout(30)
    def fetch(number: int) -> None:
        with reached:
            if number % 5 == 0:
                raise ConnectionError

    results = crowd(100, lambda _: call_often(fetch, 20))
    assert outcomes_of(results) == (1600, 400)
    assert reached.total == 2000
    assert Metrics(name).calls() == {"success": 1600, "failure": 400}
    assert abandoned_by(fetch) == 0


def test_a_thousand_tasks_with_a_hundred_calls_each_add_up_exactly() -> None:
    """Outcomes of 1,000 tasks over 4 loops, some of which are cancelled, add up."""
    name = new_name()

    @circuit_breaker(name, fail_max=1_000_000)
    async def fetch(number: int) -> None:
        if number % 10 == 0:
            raise ConnectionError
        if number % 10 == 5:
            await asyncio.sleep(0)

    async def task() -> tuple[int, int]:
        succeeded = failed = 0
        for number in range(CALLS):
            try:
                await fetch(number)
            except ConnectionError:
                failed += 1
            else:
                succeeded += 1
        await asyncio.wait_for(fetch(1), 5)
        cancelled = asyncio.create_task(fetch(5))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        return succeeded + 1, failed

    def loop(_: int) -> tuple[int, int]:
        async def main() -> list[tuple[int, int]]:
            return await asyncio.gather(*(task() for _ in range(250)))

        results = asyncio.run(main())
        return sum(one[0] for one in results), sum(one[1] for one in results)

    assert outcomes_of(crowd(4, loop)) == (91_000, 10_000)
    assert Metrics(name).calls() == {"success": 91_000, "failure": 10_000, "cancelled": 1000}


def test_retries_of_many_threads_add_up_exactly() -> None:
    """Attempts are calls and retries together, and each failed first attempt is tried once more."""
    name = new_name()
    reached = Inside()

    @circuit_breaker(name, fail_max=1_000_000)
    @retry(on=ConnectionError, attempts=2, wait_initial=0, budget=None)
    def fetch(number: int) -> None:
        with reached:
            if number % 10 == 0:
                raise ConnectionError

    assert outcomes_of(crowd(50, lambda _: call_often(fetch, 100))) == (4500, 500)
    metrics = Metrics(name)
    assert metrics.calls() == {"success": 4500, "failure": 500}
    assert metrics.value("retries_total") == 500
    assert metrics.value("attempts_total") == reached.total == 5500


def test_a_retry_budget_gives_out_exactly_what_is_in_it() -> None:
    """Of 50 threads whose calls all fail, 10 may try again, however close together they come."""
    reached = Inside()

    @retry(on=ConnectionError, attempts=2, wait_initial=0, budget=RetryBudget(10))
    def fetch() -> None:
        with reached:
            raise ConnectionError

    crowd(50, lambda _: fetch())
    assert reached.total == 50 + 10


def test_a_rate_limit_lets_through_exactly_what_it_allows(virtual_time: VirtualTime) -> None:
    """Of 100 threads at one moment, as many pass as the burst has tokens."""
    reached = Inside()

    @rate_limit(7, per=1)
    def fetch() -> None:
        with reached:
            pass

    crowd(100, lambda _: fetch())
    assert reached.total == 7
    virtual_time.advance(1)
    crowd(100, lambda _: fetch())
    assert reached.total == 14


def test_a_trip_under_a_thousand_threads_is_one_trip() -> None:
    """However many threads fail at once, the circuit opens once, and rejects all who come after."""
    name, reached = new_name(), Inside()
    breaker = CircuitBreaker(name, fail_max=50, reset_timeout=60)

    @breaker
    def fetch() -> None:
        with reached:
            raise ConnectionError

    def act(_: int) -> tuple[int, int]:
        rejected = failed = 0
        for _ in range(10):
            try:
                fetch()
            except CircuitOpen:
                rejected += 1
            except ConnectionError:
                failed += 1
        return rejected, failed

    results = crowd(THREADS, act)
    rejected, failed = outcomes_of(results)
    assert rejected + failed == THREADS * 10
    assert failed == reached.total
    assert breaker.transitions == {"closed": 0, "open": 1, "half-open": 0}
    assert Metrics(name).calls() == {"failure": failed, "rejected": rejected}


def test_blocks_and_calls_of_many_threads_add_up_with_functions() -> None:
    """A dependency counts its functions, its blocks and its `call` under one name, exactly."""
    name = new_name()
    orders = Dependency(name, breaker=circuit_breaker(fail_max=1_000_000), max_concurrent=100)
    function = orders(lambda number: None if number % 4 else fail())

    def block(number: int) -> None:
        with orders:
            if number % 4 == 0:
                fail()

    def called(number: int) -> None:
        orders.call(lambda: None if number % 4 else fail())

    ways = [function, block, called]
    results = crowd(60, lambda index: call_often(ways[index % 3], 100))
    assert outcomes_of(results) == (4500, 1500)
    assert Metrics(name).calls() == {"success": 4500, "failure": 1500}
    assert orders.breaker is not None
    assert Metrics(name).value("in_flight") == 0


EVENTS = """
import threading, time
import structlog
from resilient import CircuitBreaker

events = []
structlog.configure(processors=[lambda logger, method, event: events.append(event) or _drop()])

def _drop():
    raise structlog.DropEvent

breakers = [CircuitBreaker(f"number {number}", fail_max=1) for number in range(20)]
begin = threading.Barrier(20)

def trip(breaker):
    begin.wait()
    try:
        breaker.call(lambda: 1 / 0)
    except ZeroDivisionError:
        pass

threads = [threading.Thread(target=trip, args=(breaker,)) for breaker in breakers]
for thread in threads: thread.start()
for thread in threads: thread.join()
breakers[0].force_open()
print(len(events), len({str(event) for event in events}))
"""


def test_the_first_events_of_many_threads_are_logged_once_each() -> None:
    """20 circuits that open at once, before anything was logged, are 20 events; one more is 21."""
    said = subprocess.run(
        [sys.executable, "-c", EVENTS], check=True, capture_output=True, text=True, timeout=30
    )
    assert said.stdout.split() == ["21", "21"]
