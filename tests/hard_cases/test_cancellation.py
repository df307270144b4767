"""Hard cases of cancellation and signals: neutral for everybody, and never swallowed."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from functools import partial
from itertools import count
from typing import Any

import pytest

from resilient import (
    CallTimeout,
    CircuitBreaker,
    CircuitOpen,
    Dependency,
    bulkhead,
    cached,
    circuit_breaker,
    deadline,
    failover,
    gather_partial,
    pipeline_of,
    rate_limit,
    remaining,
    retry,
    retrying,
    timeout,
    with_fallback,
)
from resilient.testing import VirtualTime
from tests.hard_cases.crowd import Inside, Metrics, stopwatch
from tests.waiting import eventually

_numbers = count(1)

Function = Callable[[], Any]
AsyncFunction = Callable[[], Any]


def new_name() -> str:
    """Return a name that nothing else has."""
    return f"cancellation-{next(_numbers)}"


def fail() -> None:
    raise ConnectionError("reset by peer")


def half_open(virtual_time: VirtualTime, **settings: Any) -> CircuitBreaker:
    """Return a breaker that has tripped and now looks for probes."""
    breaker = CircuitBreaker(new_name(), fail_max=1, reset_timeout=10, **settings)
    with pytest.raises(ConnectionError):
        breaker.call(fail)
    virtual_time.advance(10)
    assert breaker.current_state == "half-open"
    return breaker


# Ways to be under a breaker. They must not differ.


def function(breaker: CircuitBreaker, hang: AsyncFunction) -> AsyncFunction:
    return breaker(hang)


def function_with_all(breaker: CircuitBreaker, hang: AsyncFunction) -> AsyncFunction:
    inner = retry(on=Exception)(bulkhead(100)(breaker(timeout(100)(hang))))
    return with_fallback(cached(60), "fallback")(inner)


def method_call(breaker: CircuitBreaker, hang: AsyncFunction) -> AsyncFunction:
    return partial(breaker.call, hang)


def block(breaker: CircuitBreaker, hang: AsyncFunction) -> AsyncFunction:
    async def called() -> Any:
        async with breaker:
            return await hang()

    return called


def stream(breaker: CircuitBreaker, hang: AsyncFunction) -> AsyncFunction:
    @breaker
    async def items() -> AsyncIterator[Any]:
        yield await hang()

    async def called() -> Any:
        return [item async for item in items()]

    return called


def dependency(breaker: CircuitBreaker, hang: AsyncFunction) -> AsyncFunction:
    orders = Dependency(
        new_name(), breaker=breaker, retry=retry(), timeout=50, total_timeout=100, max_concurrent=99
    )
    return orders(hang)


def dependency_block(breaker: CircuitBreaker, hang: AsyncFunction) -> AsyncFunction:
    orders = Dependency(new_name(), breaker=breaker, total_timeout=100, max_concurrent=99)

    async def called() -> Any:
        async with orders:
            return await hang()

    return called


WAYS = [function, function_with_all, method_call, block, stream, dependency, dependency_block]
each_way = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)


async def hang() -> None:
    await asyncio.Event().wait()


async def start_and_cancel(call: AsyncFunction, after: float = 1.0) -> None:
    """Begin a call, cancel it, and see that it ends as cancelled."""
    task = asyncio.ensure_future(call())
    await asyncio.sleep(after)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


# 9: cancelled calls


@each_way
def test_ten_cancelled_calls_leave_a_breaker_closed(way: Any, virtual_time: VirtualTime) -> None:
    """Cancellation says nothing about the dependency: after ten of them nothing is counted."""
    breaker = CircuitBreaker(new_name(), fail_max=1, failure_rate=0.1, min_calls=1)
    call = way(breaker, hang)

    async def main() -> None:
        for _ in range(10):
            await start_and_cancel(call)

    virtual_time.run(main())
    assert breaker.current_state == "closed"
    assert breaker.fail_counter == 0
    assert breaker.failure_rate == 0.0
    assert breaker.last_failure is None


@each_way
def test_a_cancelled_probe_gives_its_permit_back_and_decides_nothing(
    way: Any, virtual_time: VirtualTime
) -> None:
    """After a cancelled probe the circuit is still half-open, and the next caller is the probe."""
    breaker = half_open(virtual_time)
    call = way(breaker, hang)

    async def main() -> None:
        for _ in range(10):
            await start_and_cancel(call, 0.1)
            assert breaker.current_state == "half-open"
            assert breaker.success_counter == 0

    virtual_time.run(main())
    assert breaker.transitions["open"] == 1
    assert breaker.call(lambda: "probe") == "probe"
    assert breaker.current_state == "closed"


def test_cancelled_calls_have_an_outcome_of_their_own(virtual_time: VirtualTime) -> None:
    """Ten cancelled calls are counted as `cancelled`, neither as successes nor as failures."""
    name = new_name()

    @circuit_breaker(name)
    async def fetch(seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def main() -> None:
        for _ in range(10):
            await start_and_cancel(partial(fetch, 5))
        await fetch(1)

    virtual_time.run(main())
    metrics = Metrics(name)
    assert metrics.calls() == {"cancelled": 10, "success": 1}
    assert metrics.value("call_duration_seconds_count") == 11
    assert metrics.value("call_duration_seconds_sum") == pytest.approx(11)


def test_a_cancelled_call_is_counted_once_whatever_it_was_waiting_for(
    virtual_time: VirtualTime,
) -> None:
    """Cancelled in a pause, in a queue, for a token or in a tier, a call is one cancelled call."""
    names = {what: new_name() for what in ("pause", "queue", "token", "tier")}
    full, slow = bulkhead(1, max_waiting=5), rate_limit(1, per=60, max_wait=100)

    @circuit_breaker(names["pause"], fail_max=100)
    @retry(on=ConnectionError, wait=lambda state: 60)
    async def in_a_pause() -> None:
        fail()

    @circuit_breaker(names["queue"])
    @full
    async def in_a_queue() -> None: ...

    @circuit_breaker(names["token"])
    @slow
    async def for_a_token() -> None: ...

    @with_fallback(failover(hang))
    @circuit_breaker(names["tier"], fail_max=100)
    async def in_a_tier() -> None:
        fail()

    async def main() -> None:
        await slow(hang_not)()
        async with full:
            for call in (in_a_pause, in_a_queue, for_a_token, in_a_tier):
                await start_and_cancel(call)

    async def hang_not() -> None: ...

    virtual_time.run(main())
    assert [Metrics(name).calls() for name in names.values()] == [{"cancelled": 1}] * 4
    assert (full.in_flight, full.waiting) == (0, 0)


@each_way
def test_a_cancelled_call_is_not_made_again(way: Any, virtual_time: VirtualTime) -> None:
    """Cancellation is not retried, has no fallback, and reaches the function once."""
    breaker, reached = CircuitBreaker(new_name()), Inside()

    async def counted() -> None:
        with reached:
            await hang()

    virtual_time.run(start_and_cancel(way(breaker, counted)))
    assert (reached.total, reached.now) == (1, 0)


def test_even_a_retry_on_everything_does_not_retry_a_cancelled_call(
    virtual_time: VirtualTime,
) -> None:
    """`on=BaseException`, and a predicate that is true of everything, do not mean cancellation."""
    reached = Inside()

    @with_fallback("fallback", on=BaseException)
    @retry(on=BaseException, budget=None)
    async def by_type() -> None:
        with reached:
            await hang()

    @with_fallback("fallback", on=lambda error: True)
    @retry(on=lambda error: True, budget=None)
    async def by_predicate() -> None:
        with reached:
            await hang()

    async def main() -> None:
        await start_and_cancel(by_type)
        await start_and_cancel(by_predicate)

    virtual_time.run(main())
    assert reached.total == 2


def test_a_cancellation_within_a_fallback_is_not_the_next_tiers_business(
    virtual_time: VirtualTime,
) -> None:
    """A caller that is cancelled while a tier works leaves; no further tier is asked."""
    asked: list[str] = []

    async def replica() -> None:
        await hang()

    @with_fallback(failover(replica), lambda: asked.append("default"))
    async def fetch() -> None:
        fail()

    virtual_time.run(start_and_cancel(fetch))
    assert asked == []


def test_a_function_that_answers_its_cancellation_with_an_error_has_failed(
    virtual_time: VirtualTime,
) -> None:
    """An error that a call makes of its cancellation is its error, as without the library."""
    breaker = CircuitBreaker(new_name(), fail_max=1)

    @breaker
    async def fetch() -> None:
        try:
            await hang()
        except asyncio.CancelledError:
            raise ConnectionError("interrupted") from None

    async def main() -> None:
        task = asyncio.create_task(fetch())
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(ConnectionError, match="interrupted"):
            await task

    virtual_time.run(main())
    assert breaker.current_state == "open"


def test_a_coroutine_that_is_dropped_in_the_middle_is_neutral() -> None:
    """GeneratorExit, as of a closed loop, gives the permit back and counts as cancelled."""
    name, limit = new_name(), bulkhead(1)
    breaker = CircuitBreaker(name, fail_max=1)

    @limit
    @breaker
    async def fetch() -> None:
        await Suspended()

    class Suspended:
        def __await__(self) -> Generator[None]:
            yield

    coroutine = fetch()
    coroutine.send(None)
    assert limit.in_flight == 1
    coroutine.close()
    assert limit.in_flight == 0
    assert breaker.current_state == "closed"
    assert Metrics(name).calls() == {"cancelled": 1}


@pytest.mark.parametrize("guards", [(), (deadline(90),)], ids=["fast lane", "slow lane"])
def test_a_coroutine_that_is_dropped_in_another_context_is_neutral(guards: Any) -> None:
    """One that a task has begun and whoever finds it ends gives all back, its timer included."""
    limit, seconds = bulkhead(1), timeout(60)

    async def fetch() -> None:
        await asyncio.sleep(60)

    guarded = limit(seconds(fetch))
    for guard in guards:
        guarded = guard(guarded)
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda _loop, _context: None)  # a pending task, as it is meant
    try:
        task = loop.create_task(guarded())
        loop.run_until_complete(asyncio.sleep(0))
        assert limit.in_flight == 1
        task.get_coro().close()  # type: ignore[union-attr]
        assert limit.in_flight == 0
        assert seconds.cuts._line is not None
        assert not seconds.cuts._line.armed
        assert remaining() is None
        task.cancel()
        loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
    finally:
        loop.close()


def test_an_abandoned_stream_probe_gives_its_permit_back(virtual_time: VirtualTime) -> None:
    """A probe that is a stream, and is dropped before its first item, decides nothing."""
    breaker = half_open(virtual_time)

    @breaker
    async def items() -> AsyncGenerator[int]:
        await hang()
        yield 1

    async def main() -> None:
        stream = items()
        await start_and_cancel(partial(anext, stream))
        await stream.aclose()

    virtual_time.run(main())
    assert breaker.current_state == "half-open"
    assert breaker.call(lambda: "probe") == "probe"


def test_a_stream_that_is_cancelled_in_the_middle_is_cancelled(virtual_time: VirtualTime) -> None:
    """After the first item cancellation is neutral as well, and counted once."""
    name, limit = new_name(), bulkhead(1)
    breaker = CircuitBreaker(name, fail_max=1)

    @limit
    @breaker
    async def items() -> AsyncIterator[int]:
        yield 1
        await hang()

    async def read() -> None:
        async for _ in items():
            pass

    virtual_time.run(start_and_cancel(read))
    assert breaker.current_state == "closed"
    assert limit.in_flight == 0
    assert Metrics(name).calls() == {"cancelled": 1}


def test_an_excluded_error_of_a_probe_decides_nothing_either(virtual_time: VirtualTime) -> None:
    """A probe that ends with an excluded error gives its permit back, like a cancelled one."""
    breaker = half_open(virtual_time, exclude=[KeyError])

    def missing() -> None:
        raise KeyError("no such order")

    for _ in range(3):
        with pytest.raises(KeyError):
            breaker.call(missing)
        assert breaker.current_state == "half-open"
    breaker.call(lambda: "probe")
    assert breaker.current_state == "closed"


def test_one_cancelled_probe_of_two_leaves_the_verdict_to_the_other(
    virtual_time: VirtualTime,
) -> None:
    """With `probes=2`, a cancelled one neither closes nor opens what the other one decides."""
    breaker = half_open(virtual_time, probes=2, success_threshold=2)

    @breaker
    async def fetch(seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def main() -> None:
        healthy = asyncio.create_task(fetch(2))
        await start_and_cancel(partial(fetch, 5))
        await healthy
        assert (breaker.current_state, breaker.success_counter) == ("half-open", 1)
        await fetch(1)
        assert breaker.current_state == "closed"

    virtual_time.run(main())


def test_the_budget_of_retries_is_not_touched_by_cancelled_calls(virtual_time: VirtualTime) -> None:
    """Cancelled calls neither fill the retry budget nor take from it."""
    strategy = retry(on=ConnectionError)
    fetch = strategy(hang)

    async def main() -> None:
        for _ in range(20):
            await start_and_cancel(fetch)

    virtual_time.run(main())
    assert strategy.budget is not None
    assert strategy.budget.left == 10


# 10: Ctrl-C


def interrupt() -> None:
    raise KeyboardInterrupt


def exit_now() -> None:
    raise SystemExit(3)


@pytest.mark.parametrize("leave", [interrupt, exit_now], ids=lambda leave: leave.__name__)
def test_ctrl_c_in_a_guarded_call_surfaces_at_once(
    leave: Function, virtual_time: VirtualTime
) -> None:
    """KeyboardInterrupt and SystemExit pass everything: not counted, not retried, no fallback."""
    name, limit, served = new_name(), bulkhead(1), []
    breaker = CircuitBreaker(name, fail_max=1)
    reached = Inside()

    @with_fallback(lambda: served.append("fallback"), on=BaseException)
    @limit
    @retry(on=BaseException, budget=None)
    @breaker
    @timeout(5)
    def fetch() -> None:
        with reached:
            leave()

    for _ in range(10):
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            fetch()
    assert reached.total == 10
    assert served == []
    assert breaker.current_state == "closed"
    assert limit.in_flight == 0
    assert Metrics(name).calls() == {"cancelled": 10}


@pytest.mark.parametrize("leave", [interrupt, exit_now], ids=lambda leave: leave.__name__)
def test_ctrl_c_in_a_probe_decides_nothing(leave: Function, virtual_time: VirtualTime) -> None:
    """An interrupted probe gives its permit back, in a function, in a block and in a stream."""
    breaker = half_open(virtual_time)

    def in_a_block() -> None:
        with breaker:
            leave()

    @breaker
    def items() -> Iterator[int]:
        leave()
        yield 1

    for probe in (breaker(leave), partial(breaker.call, leave), in_a_block, lambda: next(items())):
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            probe()
        assert breaker.current_state == "half-open"
    breaker.call(lambda: "probe")
    assert breaker.current_state == "closed"


def test_ctrl_c_in_a_with_block_surfaces_and_gives_everything_back() -> None:
    """A block of a dependency that is interrupted counts as cancelled, and holds nothing."""
    name = new_name()
    orders = Dependency(
        name, breaker=circuit_breaker(fail_max=1), max_concurrent=1, total_timeout=5
    )
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt), orders:
            interrupt()
    assert orders.breaker is not None
    assert orders.breaker.current_state == "closed"
    metrics = Metrics(name)
    assert metrics.calls() == {"cancelled": 3}
    assert metrics.value("in_flight") == 0


def test_ctrl_c_in_a_retried_block_is_not_tried_again() -> None:
    """`with attempt` does not swallow KeyboardInterrupt, whatever is retried."""
    attempts: list[int] = []

    def loop() -> None:
        for attempt in retrying(on=BaseException, budget=None):
            with attempt:
                attempts.append(attempt.number)
                interrupt()

    with pytest.raises(KeyboardInterrupt):
        loop()
    assert attempts == [1]


def test_ctrl_c_after_failed_attempts_is_not_counted_as_their_error(
    virtual_time: VirtualTime,
) -> None:
    """An interruption in the second attempt surfaces, not the error of the first."""
    errors: list[Any] = [ConnectionError("reset"), KeyboardInterrupt()]

    @with_fallback("fallback")
    @retry(on=ConnectionError, attempts=5)
    def fetch() -> None:
        raise errors.pop(0)

    with pytest.raises(KeyboardInterrupt):
        fetch()
    assert errors == []


def test_ctrl_c_in_a_fallback_surfaces(virtual_time: VirtualTime) -> None:
    """An interrupted tier is not a tier that failed: the next one is not asked."""

    @with_fallback(failover(interrupt), "default")
    def fetch() -> None:
        fail()

    with pytest.raises(KeyboardInterrupt):
        fetch()


def test_ctrl_c_in_a_hook_is_not_isolated() -> None:
    """What isolates the mistakes of predicates and listeners does not isolate an interruption."""

    def interrupting(error: BaseException) -> bool:
        raise KeyboardInterrupt

    guarded = [
        retry(on=interrupting)(fail),
        with_fallback("fallback", on=interrupting)(fail),
        circuit_breaker(new_name(), exclude=[interrupting])(fail),
    ]
    for call in guarded:
        with pytest.raises(KeyboardInterrupt):
            call()


def press_ctrl_c(after: float = 0.0) -> threading.Timer:
    """Send the main thread what Ctrl-C sends, a little later."""
    main = threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(after, signal.pthread_kill, (main, signal.SIGINT))
    timer.daemon = True
    timer.start()
    return timer


def plain() -> Function:
    return retry(on=BaseException)(lambda: time.sleep(5))


def on_a_worker() -> Function:
    return with_fallback("fallback")(timeout(5)(lambda: time.sleep(5)))


def in_a_pause() -> Function:
    return retry(on=ConnectionError, wait=lambda state: 5)(fail)


def in_a_bulkhead() -> Function:
    limit = bulkhead(1, max_waiting=1)

    def wait() -> None:
        with limit:
            limited()

    limited = limit(lambda: None)
    return wait


def for_a_token() -> Function:
    guarded = rate_limit(1, per=60, max_wait=100)(lambda: None)
    guarded()
    return guarded


def for_a_shared_call() -> Function:
    begun = threading.Event()

    @with_fallback(cached(60, fresh_for=10), "fallback")
    def shared() -> None:
        begun.set()
        time.sleep(2)

    threading.Thread(target=shared, daemon=True).start()
    assert begun.wait(5)
    return shared


def in_a_tier() -> Function:
    return with_fallback(failover(lambda: time.sleep(5), timeout=5), "default")(fail)


def for_parts() -> Function:
    return partial(gather_partial, one=lambda: time.sleep(2), other=lambda: time.sleep(2))


def waiting_for_a_worker() -> Function:
    @timeout(5, max_workers=1)
    def busy() -> None:
        time.sleep(2)

    threading.Thread(target=busy, daemon=True).start()
    return busy


@pytest.mark.real_time
@pytest.mark.parametrize(
    "guarded",
    [
        plain,
        on_a_worker,
        in_a_pause,
        in_a_bulkhead,
        for_a_token,
        for_a_shared_call,
        in_a_tier,
        for_parts,
        waiting_for_a_worker,
    ],
    ids=lambda guarded: guarded.__name__,
)
def test_a_real_ctrl_c_ends_whatever_the_main_thread_waits_for(guarded: Any) -> None:
    """A signal that arrives 50 ms into 5 s surfaces as KeyboardInterrupt at once."""
    call = guarded()
    press_ctrl_c(0.05)
    with stopwatch() as watch, pytest.raises(KeyboardInterrupt):
        call()
    assert watch.seconds < 1


def test_a_worker_that_was_left_by_ctrl_c_comes_back() -> None:
    """A call that its interrupted caller has left counts as abandoned until it ends."""
    release = threading.Event()

    @timeout(10, max_workers=1, max_abandoned=1)
    def hang() -> str:
        release.wait(5)
        return "answer"

    press_ctrl_c(0.05)
    with pytest.raises(KeyboardInterrupt):
        hang()
    workers = pipeline_of(hang).strategies[0].workers
    assert workers is not None
    assert workers.abandoned == 1
    release.set()
    assert eventually(lambda: workers.abandoned == 0)
    assert hang() == "answer"


@pytest.mark.real_time
def test_a_real_ctrl_c_ends_an_asyncio_program() -> None:
    """What asyncio makes of Ctrl-C, a cancelled main task, surfaces as KeyboardInterrupt."""
    name, reached = new_name(), Inside()
    breaker = CircuitBreaker(name, fail_max=1)

    @with_fallback("fallback", on=BaseException)
    @retry(on=BaseException)
    @breaker
    @timeout(5)
    async def fetch() -> None:
        with reached:
            await asyncio.sleep(5)

    async def main() -> None:
        press_ctrl_c(0.05)
        await fetch()

    with stopwatch() as watch, pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    assert watch.seconds < 1
    assert reached.total == 1
    assert breaker.current_state == "closed"
    assert Metrics(name).calls() == {"cancelled": 1}


SCRIPT = """
import signal, time
from resilient import Dependency, circuit_breaker, retry

# What runs the tests may have been started in the background, where SIGINT is ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)

orders = Dependency(
    "orders", timeout=5, total_timeout=9, retry=retry(), breaker=circuit_breaker(), max_concurrent=2
)

@orders.with_fallback("fallback")
def fetch():
    print("reached", flush=True)
    time.sleep(5)

print(fetch())
"""


@pytest.mark.real_time
def test_ctrl_c_ends_a_script_whose_call_hangs() -> None:
    """A script in a guarded call on a worker ends within half a second of SIGINT, as by Ctrl-C."""
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as script:
        assert script.stdout is not None
        assert script.stdout.readline() == "reached\n"
        # Python notices a signal that comes just before it begins to wait only after the wait.
        time.sleep(0.2)
        with stopwatch() as watch:
            script.send_signal(signal.SIGINT)
            said, errors = script.communicate(timeout=10)
    assert watch.seconds < 0.5
    assert said == ""
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert script.returncode == -signal.SIGINT


# 11: the caller's own limit


def pausing_function() -> AsyncFunction:
    return retry(on=ConnectionError, attempts=5, wait=lambda state: 1)(failing)


def pausing_under_all() -> AsyncFunction:
    guarded = with_fallback("fallback", on=lambda error: True)(pausing_function())
    return timeout(60)(guarded)


def pausing_dependency() -> AsyncFunction:
    pauses = retry(attempts=5, wait=lambda state: 1)
    orders = Dependency(new_name(), retry=pauses, total_timeout=60, timeout=30)
    return orders.with_fallback("fallback")(failing)


def pausing_block() -> AsyncFunction:
    async def called() -> None:
        async for attempt in retrying(on=ConnectionError, attempts=5, wait=lambda state: 1):
            with attempt:
                await failing()

    return called


def pausing_plain_function() -> AsyncFunction:
    def called() -> Any:
        return failing()

    return retry(on=ConnectionError, attempts=5, wait=lambda state: 1)(called)


async def failing() -> None:
    fail()


@pytest.mark.parametrize(
    "guarded",
    [
        pausing_function,
        pausing_under_all,
        pausing_dependency,
        pausing_block,
        pausing_plain_function,
    ],
    ids=lambda guarded: guarded.__name__,
)
def test_the_callers_asyncio_timeout_ends_a_call_that_retries(
    guarded: Any, virtual_time: VirtualTime
) -> None:
    """`async with asyncio.timeout(0.1)` around retries is left after 0.1 s, by TimeoutError."""
    call = guarded()

    async def main() -> float:
        began = virtual_time.now()
        with pytest.raises(TimeoutError) as raised:
            async with asyncio.timeout(0.1):
                await call()
        assert type(raised.value) is TimeoutError, "the caller's own"
        return virtual_time.now() - began

    assert virtual_time.run(main()) == pytest.approx(0.1)


def test_wait_for_ends_a_call_that_retries(virtual_time: VirtualTime) -> None:
    """`asyncio.wait_for` does the same."""

    async def main() -> float:
        began = virtual_time.now()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pausing_function()(), 0.1)
        return virtual_time.now() - began

    assert virtual_time.run(main()) == pytest.approx(0.1)


@pytest.mark.real_time
def test_the_callers_asyncio_timeout_is_kept_on_a_real_loop() -> None:
    """On a real event loop too, 0.1 s around pauses of a second take about 0.1 s."""

    async def main() -> None:
        async with asyncio.timeout(0.1):
            await pausing_under_all()()

    with stopwatch() as watch, pytest.raises(TimeoutError):
        asyncio.run(main())
    assert 0.1 <= watch.seconds < 0.5


# 12: as if ours were asyncio.timeout


def by_asyncio(seconds: float, work: AsyncFunction) -> AsyncFunction:
    async def called() -> Any:
        async with asyncio.timeout(seconds):
            return await work()

    return called


def by_function(seconds: float, work: AsyncFunction) -> AsyncFunction:
    return timeout(seconds)(work)


def by_block(seconds: float, work: AsyncFunction) -> AsyncFunction:
    async def called() -> Any:
        async with timeout(seconds):
            return await work()

    return called


def by_shared_block() -> Callable[[float, AsyncFunction], AsyncFunction]:
    limits: dict[float, Any] = {}

    def by_shared(seconds: float, work: AsyncFunction) -> AsyncFunction:
        limit = limits.setdefault(seconds, timeout(seconds))

        async def called() -> Any:
            async with limit:
                return await work()

        return called

    return by_shared


def in_the_slow_lane(seconds: float, work: AsyncFunction) -> AsyncFunction:
    return deadline(1000)(timeout(seconds)(work))  # a deadline is never at rest


def by_deadline(seconds: float, work: AsyncFunction) -> AsyncFunction:
    return deadline(seconds)(work)


def by_deadline_block(seconds: float, work: AsyncFunction) -> AsyncFunction:
    async def called() -> Any:
        async with deadline(seconds):
            return await work()

    return called


def by_plain_function(seconds: float, work: AsyncFunction) -> AsyncFunction:
    def called() -> Any:
        return work()

    return timeout(seconds)(called)


def by_dependency(seconds: float, work: AsyncFunction) -> AsyncFunction:
    breaker = circuit_breaker(fail_max=1000)
    return Dependency(new_name(), total_timeout=seconds, breaker=breaker, max_concurrent=9)(work)


def by_dependency_block(seconds: float, work: AsyncFunction) -> AsyncFunction:
    orders = Dependency(new_name(), total_timeout=seconds, max_concurrent=9)

    async def called() -> Any:
        async with orders:
            return await work()

    return called


def by_nested_blocks(seconds: float, work: AsyncFunction) -> AsyncFunction:
    async def called() -> Any:
        async with timeout(seconds), timeout(seconds + 1), deadline(seconds + 2):
            return await work()

    return called


OURS = [
    by_function,
    by_block,
    by_shared_block(),
    in_the_slow_lane,
    by_deadline,
    by_deadline_block,
    by_plain_function,
    by_dependency,
    by_dependency_block,
    by_nested_blocks,
]
each_limit = pytest.mark.parametrize("ours", OURS, ids=lambda ours: ours.__name__)

Limit = Callable[[float, AsyncFunction], AsyncFunction]
#: What happened: names of errors, counts of cancellations, and the like.
Trace = list[Any]


def kind(error: BaseException) -> Any:
    """Return what an error is to those who know asyncio only."""
    if isinstance(error, BaseExceptionGroup):
        return [kind(one) for one in error.exceptions]
    return "TimeoutError" if isinstance(error, TimeoutError) else type(error).__name__


def cancelling() -> int:
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


async def told(trace: Trace, call: Any) -> None:
    """Await and tell what came of it."""
    try:
        trace.append(("value", await call))
    except BaseException as error:
        trace.append((kind(error), cancelling()))
    else:
        trace.append(("cancelling", cancelling()))


# Each scenario is run with asyncio.timeout and with ours, and must come to the same.


async def a_limit_that_fires(limit: Limit, trace: Trace) -> None:
    await told(trace, limit(1, hang)())
    await asyncio.sleep(0)
    trace.append("goes on")


async def a_limit_that_does_not_fire(limit: Limit, trace: Trace) -> None:
    await told(trace, limit(1, partial(asyncio.sleep, 0.5, "value"))())
    await asyncio.sleep(5)
    trace.append(cancelling())


async def an_enclosing_timeout_that_is_tighter(limit: Limit, trace: Trace) -> None:
    outer = asyncio.timeout(0.5)
    try:
        async with outer:
            await told(trace, limit(1, hang)())
    except TimeoutError:
        trace.append(("outer", outer.expired(), cancelling()))


async def an_enclosing_timeout_that_is_wider(limit: Limit, trace: Trace) -> None:
    async with asyncio.timeout(2) as outer:
        await told(trace, limit(1, hang)())
        await asyncio.sleep(0.5)
    trace.append(("outer", outer.expired(), cancelling()))


async def an_enclosing_timeout_at_the_same_moment(limit: Limit, trace: Trace) -> None:
    outer = asyncio.timeout(1)
    try:
        async with outer:
            await limit(1, hang)()
    except TimeoutError:
        trace.append(("outer", outer.expired(), cancelling()))
    await asyncio.sleep(1)
    trace.append(cancelling())


async def one_limit_within_another(limit: Limit, trace: Trace) -> None:
    async def outer() -> None:
        await told(trace, limit(1, hang)())
        trace.append(cancelling())
        await hang()

    await told(trace, limit(3, outer)())
    trace.append(cancelling())


async def a_tighter_limit_around_another(limit: Limit, trace: Trace) -> None:
    await told(trace, limit(1, limit(3, hang))())
    trace.append(cancelling())


async def equal_limits_within_each_other(limit: Limit, trace: Trace) -> None:
    await told(trace, limit(1, limit(1, limit(1, hang)))())
    trace.append(cancelling())
    await asyncio.sleep(5)
    trace.append(cancelling())


async def a_task_group_around_it(limit: Limit, trace: Trace) -> None:
    async def sibling() -> None:
        try:
            await hang()
        finally:
            trace.append("sibling ended")

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(sibling())
            await limit(1, hang)()
    except BaseExceptionGroup as error:
        trace.append((kind(error), cancelling()))


async def a_task_of_a_group(limit: Limit, trace: Trace) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(limit(1, hang)())  # type: ignore[arg-type]
            await hang()
    except BaseExceptionGroup as error:
        trace.append((kind(error), cancelling()))
    await asyncio.sleep(1)
    trace.append(cancelling())


async def a_task_group_within_it(limit: Limit, trace: Trace) -> None:
    ended: list[str] = []

    async def member(name: str) -> None:
        try:
            await hang()
        finally:
            ended.append(name)

    async def work() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(member("one"))
            group.create_task(member("two"))

    await told(trace, limit(1, work)())
    trace.append((sorted(ended), cancelling()))


async def a_failing_task_group_within_it(limit: Limit, trace: Trace) -> None:
    async def broken() -> None:
        await asyncio.sleep(0.5)
        raise KeyError

    async def work() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(broken())
            group.create_task(hang())

    await told(trace, limit(1, work)())
    trace.append(cancelling())


async def a_cancellation_from_outside(limit: Limit, trace: Trace) -> None:
    task = asyncio.ensure_future(limit(1, hang)())
    await asyncio.sleep(0.5)
    task.cancel()
    await asyncio.wait([task])
    trace.append((task.cancelled(), task.cancelling()))


async def a_cancellation_from_outside_at_the_same_moment(limit: Limit, trace: Trace) -> None:
    task = asyncio.ensure_future(limit(1, hang)())
    asyncio.get_running_loop().call_later(1, task.cancel)
    await asyncio.wait([task])
    trace.append((task.cancelled(), task.cancelling()))


async def a_cancellation_from_outside_right_after_it_has_fired(limit: Limit, trace: Trace) -> None:
    task = asyncio.ensure_future(limit(1, hang)())
    loop = asyncio.get_running_loop()
    # Two turns of the loop later, the task is about to be told of its limit.
    loop.call_later(1, lambda: loop.call_soon(task.cancel))
    await asyncio.wait([task])
    trace.append((task.cancelled(), task.cancelling()))


async def a_function_that_swallows_its_cancellation(limit: Limit, trace: Trace) -> None:
    async def stubborn() -> str:
        with contextlib.suppress(asyncio.CancelledError):
            await hang()
        return "swallowed"

    await told(trace, limit(1, stubborn)())
    await asyncio.sleep(1)
    trace.append(cancelling())


async def a_function_that_answers_with_another_error(limit: Limit, trace: Trace) -> None:
    async def rude() -> None:
        try:
            await hang()
        finally:
            raise KeyError

    await told(trace, limit(1, rude)())
    await asyncio.sleep(1)
    trace.append(cancelling())


async def a_function_that_takes_long_to_clean_up(limit: Limit, trace: Trace) -> None:
    began = asyncio.get_running_loop().time()

    async def tidy() -> None:
        try:
            await hang()
        finally:
            await asyncio.sleep(2)
            trace.append("cleaned up")

    await told(trace, limit(1, tidy)())
    trace.append(round(asyncio.get_running_loop().time() - began, 3))


async def a_shielded_call_within_it(limit: Limit, trace: Trace) -> None:
    inner = asyncio.ensure_future(asyncio.sleep(2, "inner"))

    async def work() -> None:
        await asyncio.shield(inner)

    await told(trace, limit(1, work)())
    trace.append((await inner, cancelling()))


async def a_call_while_the_task_is_being_cancelled(limit: Limit, trace: Trace) -> None:
    async def work() -> None:
        try:
            await hang()
        finally:
            await told(trace, limit(1, hang)())
            await told(trace, limit(1, partial(asyncio.sleep, 0, "clean"))())

    task = asyncio.ensure_future(work())
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.wait([task])
    trace.append((task.cancelled(), task.cancelling()))


async def an_answer_at_the_last_moment(limit: Limit, trace: Trace) -> None:
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(0.5, future.set_result, "value")

    async def work() -> str:
        return await future

    await told(trace, limit(1, work)())
    await asyncio.sleep(1)
    trace.append(cancelling())


async def many_in_a_row(limit: Limit, trace: Trace) -> None:
    for _ in range(5):
        await told(trace, limit(1, hang)())
        await told(trace, limit(1, partial(asyncio.sleep, 0.1))())


async def many_at_once(limit: Limit, trace: Trace) -> None:
    async def work(number: int) -> str:
        await asyncio.sleep(0.25 * number)
        return "value"

    calls = [limit(1, partial(work, number))() for number in range(8) if number != 4]
    results = await asyncio.gather(*calls, return_exceptions=True)
    trace.extend(kind(one) if isinstance(one, BaseException) else one for one in results)
    trace.append(cancelling())


SCENARIOS = [
    a_limit_that_fires,
    a_limit_that_does_not_fire,
    an_enclosing_timeout_that_is_tighter,
    an_enclosing_timeout_that_is_wider,
    an_enclosing_timeout_at_the_same_moment,
    one_limit_within_another,
    a_tighter_limit_around_another,
    equal_limits_within_each_other,
    a_task_group_around_it,
    a_task_of_a_group,
    a_task_group_within_it,
    a_failing_task_group_within_it,
    a_cancellation_from_outside,
    a_cancellation_from_outside_at_the_same_moment,
    a_cancellation_from_outside_right_after_it_has_fired,
    a_function_that_swallows_its_cancellation,
    a_function_that_answers_with_another_error,
    a_function_that_takes_long_to_clean_up,
    a_shielded_call_within_it,
    a_call_while_the_task_is_being_cancelled,
    an_answer_at_the_last_moment,
    many_in_a_row,
    many_at_once,
]


@each_limit
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_our_limits_behave_as_asyncio_timeout_does(
    scenario: Any, ours: Limit, virtual_time: VirtualTime
) -> None:
    """What comes of a scenario, errors and `cancelling()` alike, is what asyncio makes of it."""
    theirs: Trace = []
    virtual_time.run(scenario(by_asyncio, theirs))
    trace: Trace = []
    virtual_time.run(scenario(ours, trace))
    assert trace == theirs


@each_limit
def test_after_our_timeout_the_task_is_not_being_cancelled(
    ours: Limit, virtual_time: VirtualTime
) -> None:
    """`task.cancelling()` is 0 after our limit has fired, the error is ours, and life goes on."""

    async def main() -> None:
        began = virtual_time.now()
        with pytest.raises(CallTimeout) as raised:
            await ours(1, hang)()
        assert virtual_time.now() - began == pytest.approx(1)
        assert cancelling() == 0
        assert isinstance(raised.value, TimeoutError)
        assert isinstance(raised.value.__cause__, asyncio.CancelledError)
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            done = group.create_task(asyncio.sleep(1, "done"))
        assert done.result() == "done"

    virtual_time.run(main())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
def test_our_limits_hold_in_eager_tasks(virtual_time: VirtualTime) -> None:
    """A task that begins to run as it is created is cut like any other."""

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
        task = asyncio.create_task(timeout(1)(hang)())
        quick = asyncio.create_task(timeout(1)(partial(asyncio.sleep, 0, "quick"))())
        with pytest.raises(CallTimeout):
            await task
        assert await quick == "quick"
        assert task.cancelling() == 0

    virtual_time.run(main())


def test_one_limit_on_two_loops_at_once_cuts_on_both() -> None:
    """A strategy that is used on several real loops in turn and at once fires on each of them."""
    limit = timeout(0.05)
    guarded = limit(hang)
    results: list[Any] = []

    def loop() -> None:
        async def main() -> None:
            for _ in range(3):
                calls = [guarded() for _ in range(5)]
                results.extend(await asyncio.gather(*calls, return_exceptions=True))
                assert cancelling() == 0

        asyncio.run(main())

    threads = [threading.Thread(target=loop) for _ in range(4)]
    with stopwatch() as watch:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [type(one) for one in results] == [CallTimeout] * 60
    assert watch.seconds < 2


def test_a_cancelled_caller_is_not_told_of_a_timeout_later(virtual_time: VirtualTime) -> None:
    """The limit of a cancelled call does not fire into whatever its task does afterwards."""

    async def main() -> str:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().call_later(0.5, task.cancel)
        try:
            await timeout(1)(hang)()
        except asyncio.CancelledError:
            task.uncancel()
        await asyncio.sleep(5)
        return "undisturbed"

    assert virtual_time.run(main()) == "undisturbed"


def test_a_failed_call_is_not_told_of_a_timeout_later(virtual_time: VirtualTime) -> None:
    """The limit of a call that has failed does not fire into its retries or its caller."""

    async def main() -> str:
        with pytest.raises(ConnectionError):
            await timeout(1)(retry(on=ConnectionError, attempts=1)(failing))()
        with pytest.raises(ConnectionError):
            async with timeout(1):
                fail()
        await asyncio.sleep(5)
        return "undisturbed"

    assert virtual_time.run(main()) == "undisturbed"


def test_a_timeout_counts_and_a_cancellation_does_not(virtual_time: VirtualTime) -> None:
    """Our own limit speaks against the dependency; the caller's `asyncio.timeout` is neutral."""
    name = new_name()
    breaker = CircuitBreaker(name, fail_max=3)
    fetch = breaker(timeout(1)(hang))

    async def main() -> None:
        for _ in range(5):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await fetch()
        assert breaker.fail_counter == 0
        for _ in range(3):
            with pytest.raises(CallTimeout):
                await fetch()
        with pytest.raises(CircuitOpen):
            await fetch()

    virtual_time.run(main())
    assert Metrics(name).calls() == {"cancelled": 5, "timeout": 3, "rejected": 1}


def test_a_timeout_of_a_retried_call_is_retried_and_counts_stay_right(
    virtual_time: VirtualTime,
) -> None:
    """Three attempts that each time out leave the task as it was, and are three attempts."""
    reached = Inside()

    @retry(on=TimeoutError, attempts=3, wait_initial=0)
    @timeout(1)
    async def fetch() -> None:
        with reached:
            await hang()

    async def main() -> None:
        with pytest.raises(CallTimeout):
            await fetch()
        assert cancelling() == 0

    virtual_time.run(main())
    assert reached.total == 3


def test_cancelling_during_the_second_attempt_leaves_at_once(virtual_time: VirtualTime) -> None:
    """A caller that is cancelled after one attempt has timed out gets its cancellation."""
    reached = Inside()

    @with_fallback("fallback")
    @retry(on=TimeoutError, attempts=3, wait_initial=0)
    @timeout(1)
    async def fetch() -> None:
        with reached:
            await hang()

    virtual_time.run(start_and_cancel(fetch, 1.5))
    assert reached.total == 2


def test_a_loop_that_is_shut_down_cancels_guarded_calls_quietly() -> None:
    """`asyncio.run` that ends with guarded calls in flight cancels them, without a word."""
    name, limit = new_name(), bulkhead(10)
    breaker = CircuitBreaker(name, fail_max=1)
    fetch = limit(breaker(retry(on=Exception)(timeout(60)(hang))))

    async def main() -> list[asyncio.Task[Any]]:
        tasks = [asyncio.create_task(fetch()) for _ in range(5)]
        await asyncio.sleep(0.01)
        return tasks

    tasks = asyncio.run(main())
    assert all(task.cancelled() for task in tasks)
    assert limit.in_flight == 0
    assert breaker.current_state == "closed"
    assert Metrics(name).calls() == {"cancelled": 5}


def test_a_signal_handler_may_make_guarded_calls() -> None:
    """A handler that interrupts a guarded call may itself call what was interrupted."""
    name, handled = new_name(), []
    breaker = CircuitBreaker(name, fail_max=10**9)
    limit = bulkhead(100)

    @limit
    @breaker
    @retry(on=ConnectionError, attempts=1)
    def fetch() -> None:
        fail()

    def handler(*_: object) -> None:
        with pytest.raises(ConnectionError):
            fetch()
        handled.append(None)

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    made = 0
    until = time.monotonic() + 0.4
    try:
        while time.monotonic() < until:
            with pytest.raises(ConnectionError):
                fetch()
            made += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(handled) > 10
    assert Metrics(name).calls() == {"failure": made + len(handled)}
    assert limit.in_flight == 0


def test_a_signal_handler_may_make_timed_calls() -> None:
    """A handler that interrupts the caller of a worker gets a worker of the same pool."""
    handled: list[int] = []
    guarded = timeout(5)(threading.get_ident)
    guarded()

    def handler(*_: object) -> None:
        handled.append(guarded())

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    until = time.monotonic() + 0.4
    try:
        while time.monotonic() < until:
            assert guarded() != threading.get_ident()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(handled) > 10
