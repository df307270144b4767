"""Hard cases 33 to 40: retries, fallbacks and caches, where other libraries were seen to fail."""

# What returns Any may be a coroutine, for all that a type checker knows.
# pyright: reportUnusedCoroutine=false, reportIndexIssue=false, reportAttributeAccessIssue=false

from __future__ import annotations

import asyncio
import datetime as dt
import gc
import pickle
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest

from resilient import (
    CallTimeout,
    CircuitOpen,
    Dependency,
    Entry,
    MemoryStore,
    RetryBudget,
    cached,
    circuit_breaker,
    deadline,
    retry,
    timeout,
    with_fallback,
)
from resilient.testing import VirtualTime
from tests.degrade.own_stores import AsyncShelves, Hanging, Shelves, Unwell, refuse
from tests.doubles import Scripted, each
from tests.waiting import eventually

# 33: nested retries


def nested(guard: Callable[[Any], Any], ask: Any) -> Any:
    """Return three functions that call each other, each guarded alike."""
    inner = guard(ask)
    middle = guard(lambda: inner())  # noqa: PLW0108
    return guard(lambda: middle())  # noqa: PLW0108


def test_three_nested_layers_of_three_attempts_are_capped_by_the_budget_of_the_dependency(
    virtual_time: VirtualTime,
) -> None:
    """Three layers make one call and the ten retries of the budget, not 27 calls."""
    shop = Dependency("nested shop", failures=ConnectionError, retry=retry(attempts=3))
    ask = Scripted(ConnectionError)
    outer = nested(shop, ask)
    with pytest.raises(ConnectionError):
        outer()
    assert ask.calls == 1 + 10


def test_later_nested_calls_of_an_outage_are_made_once(virtual_time: VirtualTime) -> None:
    """With the budget spent, each call of three layers is one call."""
    shop = Dependency("nested and spent", failures=ConnectionError, retry=retry(attempts=3))
    ask = Scripted(ConnectionError)
    outer = nested(shop, ask)
    for _ in range(20):
        with pytest.raises(ConnectionError):
            outer()
    assert ask.calls == 20 + 10


def test_nested_coroutines_are_capped_as_well(virtual_time: VirtualTime) -> None:
    """The same three layers on asyncio make the same eleven calls."""
    shop = Dependency("nested on asyncio", failures=ConnectionError, retry=retry(attempts=3))
    calls = 0

    @shop
    async def inner() -> None:
        nonlocal calls
        calls += 1
        raise ConnectionError

    @shop
    async def middle() -> None:
        await inner()

    @shop
    async def outer() -> None:
        await middle()

    with pytest.raises(ConnectionError):
        virtual_time.run(outer())
    assert calls == 11


def test_nested_layers_on_many_threads_are_capped_together() -> None:
    """Eight threads at once in an outage make one call each and ten retries in all."""
    budget = RetryBudget()
    ask = Scripted(ConnectionError)
    counted = Counter[str]()
    lock = threading.Lock()

    def count() -> None:
        with lock:
            counted["calls"] += 1
        ask()

    outer = nested(retry(on=ConnectionError, wait_initial=0, budget=budget), count)

    def call() -> None:
        with pytest.raises(ConnectionError):
            outer()

    with ThreadPoolExecutor(8) as threads:
        for done in [threads.submit(call) for _ in range(8)]:
            done.result()
    assert counted["calls"] == 8 + 10


# 34: jitter at the cap


def test_a_thousand_clients_at_the_cap_of_their_backoff_wait_for_distinct_times(
    virtual_time: VirtualTime,
) -> None:
    """The pauses of 1,000 clients after their tenth failure are 1,000 different ones."""
    pauses: list[float] = []
    for _ in range(1000):
        called: list[float] = []

        @retry(on=ConnectionError, attempts=11, budget=None)
        def ask(called: list[float] = called) -> None:
            called.append(virtual_time.now())
            raise ConnectionError

        with pytest.raises(ConnectionError):
            ask()
        pauses.append(called[-1] - called[-2])
    assert max(pauses) <= 5
    assert len(set(pauses)) > 990
    spread = Counter(int(pause) for pause in pauses)
    assert all(100 < spread[second] < 300 for second in range(5))


# 35: the circuit opens inside a retry loop


def test_a_circuit_that_opens_within_a_retry_ends_it_with_the_real_error(
    virtual_time: VirtualTime,
) -> None:
    """No further pause: the caller gets the callee's own error at once."""
    error = ConnectionError("refused")
    ask = Scripted(error)
    guarded = retry(on=ConnectionError, attempts=5, wait=lambda _: 1)(
        circuit_breaker("opens in a loop", fail_max=2, reset_timeout=60)(ask)
    )
    began = virtual_time.now()
    with pytest.raises(ConnectionError) as caught:
        guarded()
    assert caught.value is error
    assert (ask.calls, virtual_time.now() - began) == (2, 1)


def test_the_next_rejection_has_the_real_error_as_its_cause(virtual_time: VirtualTime) -> None:
    """A call on the open circuit is rejected at once, because of the last failure."""
    error = ConnectionError("refused")
    guarded = retry(on=ConnectionError, attempts=5, wait=lambda _: 1)(
        circuit_breaker("open with a cause", fail_max=2, reset_timeout=60)(Scripted(error))
    )
    with pytest.raises(ConnectionError):
        guarded()
    began = virtual_time.now()
    with pytest.raises(CircuitOpen) as caught:
        guarded()
    assert caught.value.__cause__ is error
    assert virtual_time.now() == began


def test_a_circuit_that_opens_within_a_retry_is_answered_by_the_fallback(
    virtual_time: VirtualTime,
) -> None:
    """With a fallback around, its answer comes without a further pause."""
    guarded = with_fallback("instead")(
        retry(on=ConnectionError, attempts=5, wait=lambda _: 1)(
            circuit_breaker("opens below", fail_max=2, reset_timeout=60)(Scripted(ConnectionError))
        )
    )
    began = virtual_time.now()
    assert guarded() == "instead"
    assert virtual_time.now() - began == 1


def test_a_circuit_that_others_open_during_a_pause_gives_the_real_error(
    virtual_time: VirtualTime,
) -> None:
    """A retry whose next attempt is rejected after a pause raises the error that it had before."""
    breaker = circuit_breaker("opened by others", fail_max=99, reset_timeout=60)
    error = ConnectionError("refused")
    guarded = retry(on=ConnectionError, attempts=5, wait=lambda _: 1)(breaker(Scripted(error)))
    virtual_time.later(0.5, breaker.force_open)
    began = virtual_time.now()
    with pytest.raises(ConnectionError) as caught:
        guarded()
    assert caught.value is error
    assert virtual_time.now() - began == 1


# 36: mutable defaults


@each("default", {"list": list, "dict": dict, "set": set, "nested": lambda: [[]]})
@pytest.mark.parametrize("is_open", [False, True], ids=["the call fails", "the circuit is open"])
def test_two_callers_never_share_the_default_of_a_fallback(
    virtual_time: VirtualTime, default: Callable[[], Any], is_open: bool
) -> None:
    """`with_fallback([])` gives each caller a list of its own, on the spot as well."""
    breaker = circuit_breaker(fail_max=9)
    given = default()
    guarded = with_fallback(given)(breaker(Scripted(ConnectionError)))
    if is_open:
        breaker.force_open()
    served = [guarded() for _ in range(3)]
    assert served == [default()] * 3
    assert len({id(one) for one in [given, *served]}) == 4
    if given == [[]]:
        assert len({id(one[0]) for one in [given, *served]}) == 4


def test_two_threads_never_share_the_list_of_a_fallback() -> None:
    """Under threads every caller sees a list that it alone has appended to."""
    guarded = with_fallback({"items": []})(Scripted(ConnectionError))

    def use(number: int) -> int:
        served = guarded()
        served["items"].append(number)
        return len(served["items"])

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(use, range(200))) == {1}


# 37: concurrent misses of one key


class Counted:
    """A source that counts its calls, and lets all wait until it is released."""

    def __init__(self, seconds: float = 0.05) -> None:
        self.calls = 0
        self.seconds = seconds

    def ask(self, key: str) -> str:
        self.calls += 1
        time.sleep(self.seconds)
        return f"answer {key}"

    async def ask_async(self, key: str) -> str:
        self.calls += 1
        await asyncio.sleep(self.seconds)
        return f"answer {key}"


async def test_a_hundred_concurrent_misses_on_asyncio_are_one_call() -> None:
    """100 tasks that miss one key at once make one call, and all have its answer."""
    source = Counted()
    guarded = with_fallback(cached(ttl=60, fresh_for=10))(source.ask_async)
    answers = await asyncio.gather(*(guarded("k") for _ in range(100)))
    assert answers == ["answer k"] * 100
    assert source.calls == 1


def test_a_hundred_concurrent_misses_on_threads_are_one_call() -> None:
    """100 threads that miss one key at once make one call, and all have its answer."""
    source = Counted(0.2)
    guarded = with_fallback(cached(ttl=60, fresh_for=10))(source.ask)
    barrier = threading.Barrier(100)

    def call(_: int) -> Any:
        barrier.wait()
        return guarded("k")

    with ThreadPoolExecutor(100) as threads:
        assert list(threads.map(call, range(100))) == ["answer k"] * 100
    assert source.calls == 1


async def test_the_others_have_the_answer_when_the_leaders_client_disconnects() -> None:
    """The task that began the call is cancelled: the other 99 get the value, from one call."""
    source = Counted()
    guarded = with_fallback(cached(ttl=60, fresh_for=10))(source.ask_async)
    tasks = [asyncio.create_task(guarded("k")) for _ in range(100)]
    await asyncio.sleep(0.01)
    tasks[0].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1:] == ["answer k"] * 99
    assert source.calls == 1


async def test_a_call_for_which_nobody_waits_any_more_is_cancelled() -> None:
    """When all who wanted the answer have gone, the call is stopped."""
    cancelled = asyncio.Event()

    @with_fallback(cached(ttl=60, fresh_for=10))
    async def ask(key: str) -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return key

    tasks = [asyncio.create_task(ask("k")) for _ in range(10)]
    await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await asyncio.wait_for(cancelled.wait(), 1)


async def test_who_comes_after_a_cancelled_call_makes_a_new_one() -> None:
    """A flight that everybody left is not joined by those who come next."""
    source = Counted(0.02)
    guarded = with_fallback(cached(ttl=60, fresh_for=10))(source.ask_async)
    task = asyncio.create_task(guarded("k"))
    await asyncio.sleep(0.001)
    task.cancel()
    await asyncio.wait([task])
    assert await guarded("k") == "answer k"
    assert source.calls == 2


class OutsideOfExceptionError(BaseException):
    """What pytest, trio and others raise so that nobody takes it for a failure."""


@pytest.mark.parametrize("kind", [OutsideOfExceptionError, asyncio.CancelledError])
def test_what_is_no_exception_ends_a_shared_call_for_the_one_who_began_it(
    virtual_time: VirtualTime, kind: type[BaseException]
) -> None:
    """It surfaces there as from a plain call, also if the callee itself raises a cancellation."""
    calls = 0

    @with_fallback(cached(ttl=60, fresh_for=10), "instead")
    async def ask(key: str) -> str:
        nonlocal calls
        calls += 1
        await asyncio.sleep(1)
        if calls < 3:
            raise kind
        return "answer"

    async def told() -> str:
        try:
            return await ask("k")
        except kind as surfaced:
            return type(surfaced).__name__

    async def main() -> list[str]:
        return list(await asyncio.gather(told(), told(), told()))

    # Those who wait make a call of their own, one after the other, as each may be well.
    assert virtual_time.run(main()) == [kind.__name__, kind.__name__, "answer"]
    assert calls == 3


def test_a_thread_that_is_interrupted_in_a_shared_call_leaves_it_to_the_others() -> None:
    """Ctrl-C ends the call of the one who made it; one of those who waited makes the next."""
    begun, release, calls = threading.Event(), threading.Event(), []

    @with_fallback(cached(ttl=60, fresh_for=10), "instead")
    def ask(key: str) -> str:
        calls.append(None)
        if len(calls) > 1:
            return "answer"
        begun.set()
        release.wait(5)
        raise KeyboardInterrupt

    with ThreadPoolExecutor(4) as threads:
        leader = threads.submit(ask, "k")
        assert begun.wait(5)
        others = [threads.submit(ask, "k") for _ in range(3)]
        release.set()
        with pytest.raises(KeyboardInterrupt):
            leader.result()
        assert [one.result() for one in others] == ["answer"] * 3
    assert len(calls) == 2


def test_everybody_sees_the_error_when_the_leaders_call_fails(virtual_time: VirtualTime) -> None:
    """A call that fails has failed for all who waited for it, once."""
    calls = 0

    @with_fallback(cached(ttl=60, fresh_for=10))
    async def ask(key: str) -> str:
        nonlocal calls
        calls += 1
        await asyncio.sleep(1)
        raise ConnectionError(key)

    async def main() -> list[Any]:
        return await asyncio.gather(*(ask("k") for _ in range(100)), return_exceptions=True)

    results = virtual_time.run(main())
    assert {type(one) for one in results} == {ConnectionError}
    assert calls == 1


async def test_the_traceback_of_the_last_is_as_short_as_that_of_the_first() -> None:
    """An error that a hundred callers share does not collect the frames of all of them."""
    lengths: list[int] = []

    @with_fallback(cached(ttl=60, fresh_for=10))
    async def ask(key: str) -> str:
        await asyncio.sleep(0.01)
        raise ConnectionError(key)

    async def call() -> None:
        try:
            await ask("k")
        except ConnectionError as error:
            lengths.append(len(traceback.extract_tb(error.__traceback__)))

    await asyncio.gather(*(call() for _ in range(100)))
    assert len(lengths) == 100
    assert lengths[-1] <= lengths[0]


def test_each_waiter_has_a_fallback_of_its_own_when_the_leaders_call_fails(
    virtual_time: VirtualTime,
) -> None:
    """All 100 are served, and no two of them the same list."""

    @with_fallback(cached(ttl=60, fresh_for=10), [])
    async def ask(key: str) -> list[str]:
        await asyncio.sleep(1)
        raise ConnectionError(key)

    async def main() -> list[Any]:
        return await asyncio.gather(*(ask("k") for _ in range(100)))

    served = virtual_time.run(main())
    assert served == [[]] * 100
    assert len({id(one) for one in served}) == 100


def test_waiters_keep_their_own_limits(virtual_time: VirtualTime) -> None:
    """One who has a second waits a second, though the call takes five and others wait for it."""
    source = Counted(5)
    ask = with_fallback(cached(ttl=60, fresh_for=10))(source.ask_async)
    ended: dict[str, float] = {}

    async def call(name: str, seconds: float | None) -> Any:
        began = virtual_time.now()
        try:
            if seconds is None:
                return await ask("k")
            async with deadline(seconds):
                return await ask("k")
        except CallTimeout:
            return "timeout"
        finally:
            ended[name] = virtual_time.now() - began

    async def main() -> Any:
        return await asyncio.gather(call("leader", 2), call("hurried", 1), call("patient", None))

    assert list(virtual_time.run(main())) == ["timeout", "timeout", "answer k"]
    assert ended == {"leader": 2, "hurried": 1, "patient": 5}
    assert source.calls == 1


def test_on_threads_the_leaders_limit_is_not_that_of_the_others() -> None:
    """A leader that gives up early does not make those who have more time give up."""
    source = Counted(0.3)
    ask = with_fallback(cached(ttl=60, fresh_for=10))(timeout(5)(source.ask))
    began = threading.Event()

    def lead() -> Any:
        began.set()
        try:
            with deadline(0.1):
                return ask("k")
        except CallTimeout:
            return "timeout"

    def wait() -> Any:
        began.wait()
        time.sleep(0.03)
        return ask("k")

    with ThreadPoolExecutor(4) as threads:
        leader = threads.submit(lead)
        others = [threads.submit(wait) for _ in range(3)]
        assert leader.result() == "timeout"
        assert [one.result() for one in others] == ["answer k"] * 3
    assert source.calls <= 2


@pytest.mark.real_time
def test_on_threads_a_waiter_keeps_its_own_limit() -> None:
    """A thread with little time does not wait for another's call to its end."""
    source = Counted(0.5)
    ask = with_fallback(cached(ttl=60, fresh_for=10))(source.ask)
    with ThreadPoolExecutor(2) as threads:
        leader = threads.submit(ask, "k")
        time.sleep(0.05)
        started = time.monotonic()
        with deadline(0.1), pytest.raises(CallTimeout):
            ask("k")
        assert time.monotonic() - started < 0.3
        assert leader.result() == "answer k"
    assert source.calls == 1


def test_loops_in_many_threads_share_one_call() -> None:
    """Tasks on four event loops in four threads that miss one key make one call."""
    source = Counted(0.2)
    guarded = with_fallback(cached(ttl=60, fresh_for=10))(source.ask_async)
    barrier = threading.Barrier(4)

    def run(_: int) -> list[str]:
        async def main() -> list[str]:
            return await asyncio.gather(*(guarded("k") for _ in range(10)))

        barrier.wait()
        return asyncio.run(main())

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(run, range(4))) == [["answer k"] * 10] * 4
    assert source.calls == 1


# 38: keys


def test_arguments_of_different_types_are_different_keys(virtual_time: VirtualTime) -> None:
    """f(1), f(True), f(1.0) and f("1") are four keys."""
    ask = Scripted("int", "bool", "float", "text", ConnectionError)
    guarded = with_fallback(cached(ttl=60))(ask)
    arguments: list[Any] = [1, True, 1.0, "1"]
    assert [guarded(one) for one in arguments] == ["int", "bool", "float", "text"]
    assert [guarded(one) for one in arguments] == ["int", "bool", "float", "text"]


@dataclass(frozen=True)
class Order:
    """Equal to another one if their fields are, as Python compares them."""

    number: Any


NOON = dt.datetime(2024, 5, 1, 12, tzinfo=dt.UTC)


@each(
    "pair",
    {
        "within a tuple": ((1,), (True,)),
        "within a list": ([1], [1.0]),
        "within a mapping": ({1: 1}, {1: True}),
        "within a set": ({1}, {True}),
        "of a dataclass": (Order(1), Order(True)),
        "within a dataclass": ([Order((1,))], [Order((1.0,))]),
        "a list and a tuple": ([1], (1,)),
        "two decimals": (Decimal("1.0"), Decimal("1.00")),
        "two zeros": (0.0, -0.0),
        "two complex zeros": (0j, -0j),
        "one moment in two time zones": (NOON, NOON.astimezone(dt.timezone(dt.timedelta(hours=2)))),
        "a date and a time": (dt.date(2024, 5, 1), dt.datetime(2024, 5, 1, tzinfo=dt.UTC)),
    },
)
def test_arguments_that_can_be_told_apart_are_different_keys(
    virtual_time: VirtualTime, pair: tuple[Any, Any]
) -> None:
    """Although Python calls most of them equal: an answer about one may be none about the other."""
    guarded = with_fallback(cached(ttl=60))(Scripted("one", "other", ConnectionError))
    assert [guarded(one) for one in pair] == ["one", "other"]
    assert [guarded(one) for one in pair] == ["one", "other"]


class Session:
    """With the default `repr`, which has an address in it."""


@each("make", {"object": Session, "function": lambda: lambda: None, "lock": threading.Lock})
def test_an_argument_with_the_default_repr_is_refused(
    virtual_time: VirtualTime, make: Callable[[], Any]
) -> None:
    """A thousand short-lived objects, whose addresses come again, never get another's answer."""
    calls = 0

    @with_fallback(cached(ttl=60))
    def ask(session: Any) -> int:
        nonlocal calls
        calls += 1
        if calls > 1000:
            raise ConnectionError
        return calls

    for _ in range(1000):
        ask(make())
    for _ in range(100):
        with pytest.raises(ConnectionError):
            ask(make())


# 39: bounds


def test_five_thousand_keys_with_a_store_of_ten_stay_bounded() -> None:
    """Entries, flights, waiters and futures of 5,000 keys do not stay."""
    store = MemoryStore(max_entries=10)
    tier = cached(ttl=60, fresh_for=10, store=store)

    @with_fallback(tier)
    def ask(key: int) -> int:
        return key

    @with_fallback(tier)
    async def ask_async(key: int) -> int:
        return key

    async def main(keys: range) -> None:
        await asyncio.gather(*(ask_async(key) for key in keys))

    def use(keys: range) -> None:
        for key in keys:
            ask(key)
        asyncio.run(main(keys))

    use(range(100))
    gc.collect()
    before = len(gc.get_objects())
    use(range(5000))
    gc.collect()
    assert len(store) == 10
    assert len(tier.flights) == 0
    assert len(gc.get_objects()) - before < 500


def test_failing_keys_leave_nothing_behind_either() -> None:
    """5,000 keys whose calls fail leave no flights, and no entries."""
    store = MemoryStore(max_entries=10)
    tier = cached(ttl=60, fresh_for=10, store=store)
    guarded = with_fallback(tier, "instead")(Scripted(ConnectionError))
    for key in range(5000):
        assert guarded(key) == "instead"
    assert len(store) == 0
    assert len(tier.flights) == 0


# 40: a store that hangs

#: What a busy machine may add to a time; the store would hang for thirty seconds.
LEEWAY = 0.3


async def load_slowly(key: str) -> str:
    await asyncio.sleep(0.01)
    return f"answer {key}"


@pytest.mark.real_time
def test_a_store_that_hangs_costs_its_limit_three_times_and_then_nothing() -> None:
    """Calls answer within the store's limit and their own time; after three nobody asks it."""
    store = Hanging()
    guarded = with_fallback(cached(ttl=60, fresh_for=10, store=store, store_timeout=0.1))(
        Counted(0.01).ask
    )
    took: list[float] = []
    try:
        for number in range(10):
            began = time.monotonic()
            assert guarded(str(number)) == f"answer {number}"
            took.append(time.monotonic() - began)
        assert store.asked["get"] == 3
    finally:
        store.released.set()
    assert max(took) < 0.01 + 0.1 + LEEWAY
    assert sum(took[3:]) < 7 * 0.01 + LEEWAY


@pytest.mark.real_time
def test_a_success_does_not_wait_for_a_store_that_hangs() -> None:
    """Answers are written behind the call, and after three failures none is tried."""
    store = Hanging()
    guarded = with_fallback(cached(ttl=60, store=store, store_timeout=0.05))(Counted(0.001).ask)
    try:
        began = time.monotonic()
        for number in range(20):
            guarded(str(number))
        assert time.monotonic() - began < 20 * 0.001 + LEEWAY
        assert eventually(lambda: store.asked["put"] == 3)
        guarded("once more")
        time.sleep(0.1)
        assert store.asked["put"] == 3
    finally:
        store.released.set()


@pytest.mark.real_time
def test_a_store_that_hangs_does_not_keep_the_fallback_from_serving() -> None:
    """A call that fails is answered by the next tier within the store's limit."""
    store = Hanging()
    guarded = with_fallback(cached(ttl=60, store=store, store_timeout=0.1), "instead")(
        Scripted(ConnectionError)
    )
    try:
        began = time.monotonic()
        assert guarded() == "instead"
        assert time.monotonic() - began < 0.1 + LEEWAY
    finally:
        store.released.set()


@pytest.mark.real_time
async def test_a_plain_store_that_hangs_does_not_block_the_loop() -> None:
    """A synchronous store under an asynchronous function keeps nobody else on the loop waiting."""
    store = Hanging()
    guarded = with_fallback(cached(ttl=60, fresh_for=10, store=store, store_timeout=0.1))(
        load_slowly
    )
    gaps: list[float] = []

    async def watch() -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.001)
            gaps.append(time.monotonic() - before)

    watching = asyncio.create_task(watch())
    try:
        for number in range(5):
            began = time.monotonic()
            assert await guarded(str(number)) == f"answer {number}"
            assert time.monotonic() - began < 0.01 + 0.1 + LEEWAY
        assert store.asked["get"] == 3
    finally:
        store.released.set()
        watching.cancel()
    assert max(gaps) < 0.08 + LEEWAY / 2


async def test_the_threads_that_a_hanging_store_takes_are_bounded() -> None:
    """A hundred calls at once on a store that hangs leave no more than a few threads behind."""
    store = Hanging()
    before = threading.active_count()
    guarded = with_fallback(cached(ttl=60, fresh_for=10, store=store, store_timeout=0.05))(
        load_slowly
    )
    try:
        answers = await asyncio.gather(*(guarded(str(key)) for key in range(100)))
        assert len(answers) == 100
        assert threading.active_count() - before <= 80
        for _ in range(50):
            await guarded("k")
        assert threading.active_count() - before <= 80
    finally:
        store.released.set()


@pytest.mark.real_time
async def test_an_asynchronous_store_that_hangs_costs_no_more() -> None:
    """The methods of an asynchronous store are cancelled at their limit."""
    store = AsyncShelves(lambda: asyncio.sleep(60))
    guarded = with_fallback(cached(ttl=60, fresh_for=10, store=store, store_timeout=0.1))(
        load_slowly
    )
    for number in range(5):
        began = time.monotonic()
        assert await guarded(str(number)) == f"answer {number}"
        assert time.monotonic() - began < 0.01 + 0.1 + LEEWAY
    assert store.asked["get"] == 3


@pytest.mark.parametrize("fresh_for", [0, 10])
def test_a_store_that_raises_is_not_asked_after_three_failures(
    virtual_time: VirtualTime, fresh_for: float
) -> None:
    """Three refusals of either kind are enough, whether answers are looked up or only kept."""
    store = Unwell(refuse)
    ask = Scripted(*["answer"] * 50, ConnectionError)
    guarded = with_fallback(cached(ttl=60, fresh_for=fresh_for, store=store), "instead")(
        lambda number: ask()
    )
    for number in range(50):
        assert guarded(number) == "answer"
    for number in range(50):
        assert guarded(100 + number) == "instead"
    assert store.asked == {"get": 3, "put": 3}


@each(
    "planted",
    {
        "no bytes": {"value": "forged"},
        "an entry": Entry("forged", 1.0),
        "JSON": b'"forged"',
        "a pickle": pickle.dumps("forged"),
        "nothing": b"",
    },
)
def test_a_store_that_returns_rubbish_is_never_served(
    virtual_time: VirtualTime, planted: Any
) -> None:
    """What this library has not written is no answer."""
    store = Shelves()
    store.get = lambda name: planted  # type: ignore[method-assign]
    guarded = with_fallback(cached(ttl=60, store=store), "instead")(Scripted(ConnectionError))
    assert guarded() == "instead"
