"""What runs at once in the explorations, and what must hold whatever the order of steps.

Each scenario is made anew for every run. Functions that are guarded are part of no step: what they
count about themselves is right without a lock.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import count
from math import inf
from types import SimpleNamespace
from typing import Any

from resilient import (
    Bulkhead,
    BulkheadFull,
    CallRejected,
    CallTimeout,
    CircuitBreaker,
    CircuitOpen,
    Draining,
    DuplicateName,
    MemoryStore,
    Pipeline,
    RetryBudget,
    WorkersSaturated,
    bulkhead,
    cached,
    drain,
    failover_to,
    pipeline_of,
    rate_limit,
    retry,
    unit_of_work,
    with_fallback,
)
from resilient.degrade.failover_to import FailoverTo
from resilient.degrade.stores import behind, memory
from resilient.degrade.stores.behind import Done, WriteBehind
from resilient.engine import clock, signals
from resilient.engine.draining import _in_flight
from resilient.engine.limits import Limit
from resilient.engine.names import Names
from resilient.engine.steps import Invoke
from resilient.engine.strategy import Strategy
from resilient.engine.waiting import Waiter
from resilient.engine.workers import Workers, _Worker
from tests.interleavings.explorer import Lock, Plan, still

_names = count()


class Visits:
    """Who is inside of a guarded function, and the most at once."""

    def __init__(self) -> None:
        self.now = self.most = self.total = 0

    def __call__(self, pause: Callable[[], object] | None = None) -> str:
        self.now += 1
        self.total += 1
        self.most = max(self.most, self.now)
        if pause is not None:
            pause()
        self.now -= 1
        return "answer"


def settle_down(results: list[Any], *expected: type[BaseException]) -> list[Any]:
    """Raise what no thread should have raised, and return the results."""
    for one in results:
        if isinstance(one, BaseException) and not isinstance(one, expected):
            raise one
    return results


class Step:
    """A place within a guarded function at which others may go on: a lock that nobody holds."""

    def __init__(self) -> None:
        self._lock = Lock()

    def __call__(self) -> None:
        with self._lock:
            pass


def named(*strategies: Strategy) -> Pipeline:
    """Return a pipeline whose counts are its own."""
    return Pipeline(*strategies, name=f"scenario {next(_names)}")


# Bulkhead


def full_bulkhead(callers: int = 3) -> Plan:
    """Callers of one place, where nobody waits."""
    strategy, visits, step = bulkhead(1), Visits(), Step()
    guarded = named(strategy)(visits)

    def check(results: list[Any]) -> None:
        settle_down(results, BulkheadFull)
        assert visits.most == 1
        assert visits.total == results.count("answer")
        assert visits.total >= 1
        assert (strategy.in_flight, strategy.waiting) == (0, 0)

    return Plan([lambda: guarded(step)] * callers, check)


def queued_bulkhead(callers: int = 3) -> Plan:
    """Callers of one place, where all may wait: all come in, one after the other."""
    strategy, visits, step = bulkhead(1, max_waiting=2), Visits(), Step()
    guarded = named(strategy)(visits)

    def check(results: list[Any]) -> None:
        assert settle_down(results) == ["answer"] * callers
        assert visits.most == 1
        assert (strategy.in_flight, strategy.waiting) == (0, 0)

    return Plan([lambda: guarded(step)] * callers, check)


def impatient_bulkhead(callers: int = 3) -> Plan:
    """Whoever waits may have waited for too long at any moment, also as its turn comes."""
    strategy, visits, step = bulkhead(1, max_waiting=2, max_wait=1.0), Visits(), Step()
    guarded = named(strategy)(visits)

    def check(results: list[Any]) -> None:
        settle_down(results, BulkheadFull)
        assert visits.most == 1
        assert visits.total == results.count("answer")
        assert (strategy.in_flight, strategy.waiting) == (0, 0)
        assert not still.awaited

    return Plan([lambda: guarded(step)] * callers, check)


def failing_bulkhead(callers: int = 3) -> Plan:
    """Errors give places back as answers do."""
    strategy = bulkhead(1, max_waiting=1)

    @named(strategy)
    def guarded() -> None:
        raise ConnectionError

    def check(results: list[Any]) -> None:
        settle_down(results, ConnectionError, BulkheadFull)
        assert (strategy.in_flight, strategy.waiting) == (0, 0)

    return Plan([guarded] * callers, check)


def places_in_the_queue() -> Plan:
    """Two that queue for the permit of a third, one of whom gives up: it is never lost."""
    permits = Bulkhead(1)._permits
    assert permits.take()
    one, other = Waiter(), Waiter()
    permits.take_or_queue(one, 2)

    def give_up() -> bool:
        handed = permits.leave(one)
        if handed:
            permits.give()
        return handed

    def queue() -> bool | None:
        return permits.take_or_queue(other, 2)

    def check(results: list[Any]) -> None:
        _, taken, _ = settle_down(results)
        assert taken is True or other.woken
        assert not permits.queue
        assert not permits.free

    return Plan([permits.give, queue, give_up], check)


# Budget and rate limit


def drained_budget() -> Plan:
    """One token and a half, three takers, one success: what is left is exact."""
    budget = RetryBudget(size=2, per_success=0.5)
    assert budget.take()

    def put() -> None:
        budget.put()

    def check(results: list[Any]) -> None:
        taken = settle_down(results).count(True)
        assert budget.left == 1 + 0.5 - taken
        assert budget.left >= 0
        assert taken == 1

    return Plan([budget.take, budget.take, put], check)


def full_budget() -> Plan:
    """A bucket never holds more than its size, and loses nothing below it."""
    budget = RetryBudget(size=1, per_success=1)
    assert budget.take()

    def check(results: list[Any]) -> None:
        settle_down(results)
        # Two that are put in one after the other are one, as there is no room for the second.
        assert budget.left in ((0.0, 1.0) if results[0] else (1.0,))

    return Plan([budget.take, budget.put, budget.put], check)


def retries_on_a_budget() -> Plan:
    """Two calls that fail twice each have one retry between them."""
    budget = RetryBudget(size=1)
    strategy = retry(on=ConnectionError, attempts=2, wait_initial=0, budget=budget)
    calls: list[None] = []

    @named(strategy)
    def guarded() -> None:
        calls.append(None)
        raise ConnectionError

    def check(results: list[Any]) -> None:
        settle_down(results, ConnectionError)
        assert len(calls) == 3
        assert budget.left == 0
        measures = pipeline_of(guarded).measures
        assert (measures.calls["failure"], measures.attempts, measures.retries) == (2, 3, 1)

    return Plan([guarded, guarded], check)


def limited_rate() -> Plan:
    """Two tokens, three callers."""
    strategy = rate_limit(2, per=1)
    guarded = named(strategy)(Visits())

    def check(results: list[Any]) -> None:
        settle_down(results, CallRejected)
        assert results.count("answer") == 2

    return Plan([guarded] * 3, check)


# Journal


def settled_journal(callers: int = 3) -> Plan:
    """Calls note what others settle just now: each is counted once, by all who count."""
    breaker = CircuitBreaker(f"settled {next(_names)}", failure_rate=0.5, min_calls=100)
    budget = RetryBudget(size=10, per_success=0.5)
    for _ in range(5):
        budget.take()
    guarded = breaker(retry(on=ConnectionError, budget=budget)(lambda: "answer"))
    guarded()

    def call_twice() -> None:
        guarded()
        guarded()

    def look() -> float:
        return breaker.failure_rate

    def check(results: list[Any]) -> None:
        settle_down(results)
        pipeline = pipeline_of(guarded)
        pipeline.measures.settle()
        made = 1 + 2 * (callers - 1)
        assert pipeline.measures.calls["success"] == made
        assert pipeline.measures.attempts == made
        assert sum(pipeline.measures.durations.counts) == made
        assert breaker._circuit.window.calls == made
        assert budget.left == 5 + made * 0.5
        assert pipeline.journal == []

    return Plan([*[call_twice] * (callers - 1), look], check)


def dropped_pipeline(callers: int = 3) -> Plan:
    """A pipeline that goes with successes in its journal leaves them to be counted once."""
    breaker = CircuitBreaker(f"dropped {next(_names)}", failure_rate=0.5, min_calls=100)

    def call() -> None:
        breaker(lambda: "answer")()

    def check(results: list[Any]) -> None:
        settle_down(results)
        assert breaker.failure_rate == 0
        breaker.measures.settle()
        assert breaker._circuit.window.calls == callers - 1
        assert breaker.measures.calls["success"] == callers - 1

    return Plan([*[call] * (callers - 1), breaker.settle], check)


# Breaker


def lanes_follow(breaker: CircuitBreaker, guarded: Callable[..., Any]) -> None:
    """Check that the fast lane is open where the circuit is closed, and only there."""
    assert (pipeline_of(guarded).lane.epoch is not None) == (breaker._circuit.state == "closed")


def tripping_breaker(callers: int = 3) -> Plan:
    """Two failures open a circuit once, and a success comes before, between or after."""
    breaker = CircuitBreaker(f"tripping {next(_names)}", fail_max=2, reset_timeout=60)

    @breaker
    def guarded(error: Exception | None) -> None:
        if error is not None:
            raise error

    def fail() -> None:
        guarded(ConnectionError())

    def check(results: list[Any]) -> None:
        settle_down(results, ConnectionError, CircuitOpen)
        opened = breaker.transitions["open"]
        assert opened <= 1
        assert (breaker._circuit.state == "open") == (opened == 1)
        lanes_follow(breaker, guarded)
        measures = breaker.measures
        measures.settle()
        rejected = sum(isinstance(one, CircuitOpen) for one in results)
        assert measures.calls["rejected"] == rejected
        assert measures.calls["success"] == results.count(None)
        assert sum(measures.calls.values()) == callers

    return Plan([fail, fail, lambda: guarded(None)][:callers], check)


def half_open_breaker(callers: int = 3) -> Plan:
    """Callers as an open period ends: one of them is the probe."""
    breaker = CircuitBreaker(f"half-open {next(_names)}", fail_max=1, reset_timeout=1)
    visits, step = Visits(), Step()
    closed: list[str] = []

    @breaker
    def guarded(fails: bool) -> str:
        if fails:
            raise ConnectionError
        if breaker._circuit.state != "closed":
            closed.append("probe")
        return visits(step)

    def prepare() -> None:
        try:
            guarded(True)
        except ConnectionError:
            still.pass_time(2)

    prepare()

    def check(results: list[Any]) -> None:
        settle_down(results, CircuitOpen)
        assert len(closed) == 1
        assert breaker._circuit.state == "closed"
        assert breaker.transitions == {"closed": 1, "open": 1, "half-open": 1}
        lanes_follow(breaker, guarded)
        breaker.measures.settle()
        assert breaker.measures.calls["success"] == results.count("answer") == visits.total
        assert breaker.measures.calls["rejected"] == callers - visits.total

    return Plan([lambda: guarded(False)] * callers, check)


def failing_probe() -> Plan:
    """Two callers as an open period ends, and the dependency is still down: one reaches it."""
    breaker = CircuitBreaker(f"failing {next(_names)}", fail_max=1, reset_timeout=1)
    reached: list[None] = []

    @breaker
    def guarded() -> None:
        reached.append(None)
        raise ConnectionError

    try:
        guarded()
    except ConnectionError:
        still.pass_time(2)

    def check(results: list[Any]) -> None:
        settle_down(results, CircuitOpen, ConnectionError)
        assert len(reached) == 2
        assert breaker._circuit.state == "open"
        assert breaker.transitions == {"closed": 0, "open": 2, "half-open": 1}
        lanes_follow(breaker, guarded)
        assert breaker.measures.calls["failure"] == 2
        breaker.measures.settle()
        assert breaker.measures.calls["rejected"] == 1

    return Plan([guarded, guarded], check)


def steered_by_hand() -> Plan:
    """Somebody opens and closes by hand what others use: lanes and probes follow the last one."""
    breaker = CircuitBreaker(
        f"by hand {next(_names)}", fail_max=1, reset_timeout=60, probe=lambda: True
    )

    @breaker
    def guarded() -> None:
        raise ConnectionError

    def check(results: list[Any]) -> None:
        settle_down(results, CircuitOpen, ConnectionError)
        lanes_follow(breaker, guarded)
        assert breaker._prober is not None
        assert breaker._prober._is_on == (breaker._circuit.state != "closed")
        made = breaker.transitions
        # Each opening but the last has been followed by a closing.
        assert made["open"] - made["closed"] == int(breaker._circuit.state == "open")

    return Plan([guarded, breaker.reset], check)


def shadowing_breaker() -> Plan:
    """What a shadow would have rejected is counted exactly."""
    breaker = CircuitBreaker(f"shadow {next(_names)}", fail_max=1, reset_timeout=60, mode="shadow")
    guarded = breaker(lambda: "answer")
    breaker.open()

    def check(results: list[Any]) -> None:
        assert settle_down(results) == ["answer"] * 2
        assert breaker.would_have_rejected == 2

    return Plan([guarded, guarded], check)


def refused_calls(callers: int = 3) -> Plan:
    """Calls that are turned away on the spot are counted once, whoever settles."""
    breaker = CircuitBreaker(f"refused {next(_names)}", fail_max=1, reset_timeout=60)
    guarded = breaker(lambda: "answer")
    breaker.open()

    def check(results: list[Any]) -> None:
        settle_down(results, CircuitOpen)
        breaker.measures.settle()
        assert breaker.measures.calls["rejected"] == callers - 1
        assert breaker.measures.rejections["circuit_open"] == callers - 1

    return Plan([*[guarded] * (callers - 1), breaker.measures.settle], check)


# Who listens


def subscribers() -> Plan:
    """Two that subscribe at once are both told, and one that leaves takes nobody along."""

    def one(_name: str, _fields: Any) -> None: ...
    def other(_name: str, _fields: Any) -> None: ...
    def gone(_name: str, _fields: Any) -> None: ...

    before = signals._listeners
    signals.subscribe(gone)

    def check(results: list[Any]) -> None:
        found = signals._listeners
        signals._listeners = before
        settle_down(results)
        assert set(found) - set(before) == {one, other}

    return Plan(
        [
            lambda: signals.subscribe(one),
            lambda: signals.subscribe(other),
            lambda: signals.unsubscribe(gone),
        ],
        check,
    )


# Workers


def shared_worker() -> Plan:
    """Two calls and one worker: both are made, whoever comes first, and the worker is back."""
    pool = Workers(max_workers=1, max_abandoned=2)

    def call() -> Any:
        limit = Limit(still.now() + 1000, 1000, "call")
        return pool.run(Invoke(lambda: "answer"), limit.for_one_call()).result()

    def check(results: list[Any]) -> None:
        answered = settle_down(results, CallTimeout).count("answer")
        assert answered + sum(isinstance(one, CallTimeout) for one in results) == 2
        assert (pool.abandoned, pool._size, len(pool._queue)) == (0, len(pool._idle), 0)

    return Plan([call, call], check)


def abandoned_worker() -> Plan:
    """A call may be abandoned at any moment, also as it ends: it is one of the two."""
    pool = Workers(max_workers=1, max_abandoned=2)
    step = Step()
    late: list[Any] = []

    def work() -> str:
        step()
        return "answer"

    def call() -> Any:
        limit = Limit(still.now() + 1, 1, "call")
        return pool.run(Invoke(work, late=late.append), limit.for_one_call()).result()

    def check(results: list[Any]) -> None:
        settle_down(results, CallTimeout, CallRejected)
        assert pool.abandoned >= 0
        assert not pool._queue

    return Plan([call, call], check)


def worker_that_cannot_begin() -> Plan:
    """The platform has no thread for one caller: the other, who waits for it, is told as well."""
    pool = Workers(max_workers=1, max_abandoned=2)

    def no_thread(_worker: Any) -> Any:
        pool_step()
        raise RuntimeError("can't start new thread")

    pool_step = Step()

    def call() -> Any:
        limit = Limit(inf, 1, "call")
        return pool.run(Invoke(lambda: "answer"), limit.for_one_call()).result()

    starting, _Worker.start = _Worker.start, no_thread  # type: ignore[method-assign]

    def check(results: list[Any]) -> None:
        _Worker.start = starting  # type: ignore[method-assign]
        settle_down(results, WorkersSaturated)
        assert (pool._size, pool._queue) == (0, [])

    return Plan([call, call], check)


def shared_flight() -> Plan:
    """Two callers of one key: one call, or two that follow each other."""
    # A name of its own: counts of stores outlive a run, and their locks are not the scheduler's.
    store = MemoryStore(name=f"flight {next(_names)}")
    cache = cached(ttl=60, fresh_for=10, key="same", store=store)
    visits, step = Visits(), Step()

    @named(with_fallback(cache))
    def guarded() -> str:
        return visits(step)

    def check(results: list[Any]) -> None:
        assert settle_down(results) == ["answer"] * 2
        assert visits.total == visits.most == 1

    return Plan([guarded, guarded], check)


# Names


def name_for_one() -> Plan:
    """Two things that claim one name: one gets it, and the other is told."""
    names: Names[Any] = Names("thing")
    things = [Step(), Step()]

    def check(results: list[Any]) -> None:
        settle_down(results, DuplicateName)
        assert {type(one) for one in results} == {DuplicateName, type(None)}
        assert names.get("name") is things[results.index(None)]

    return Plan([partial(names.claim, "name", one) for one in things], check)


# Stores


def replaced_value() -> Plan:
    """While a value is replaced by a newer one, there is always one of the two."""
    store = MemoryStore(name=f"replaced {next(_names)}")
    store.put("key", "old", ttl=60)

    def look() -> Any:
        found = store.get("key")
        return found and found.value

    def check(results: list[Any]) -> None:
        assert settle_down(results)[1] in ("old", "new")
        assert look() == "new"

    return Plan([lambda: store.put("key", "new", ttl=60), look], check)


def full_store() -> Plan:
    """More is stored than there is room for, while something is deleted: the bytes are right."""
    store = MemoryStore(max_entries=1, name=f"full {next(_names)}")
    store.put("first", "value", ttl=60)
    every, memory.WEIGHED_EVERY = memory.WEIGHED_EVERY, 1

    def check(results: list[Any]) -> None:
        memory.WEIGHED_EVERY = every
        settle_down(results)
        assert len(store) <= 1
        assert set(store._weights) <= set(store._entries)
        assert store.bytes == sum(store._weights.values())

    def put(key: str) -> None:
        store.put(key, "value", ttl=60)

    return Plan(
        [partial(put, "first"), partial(put, "second"), partial(store.delete, "first")], check
    )


def written_behind() -> Plan:
    """What is put into a queue is written, also if its thread parks or gives up at that moment."""
    written: list[str] = []

    def write(item: str) -> Done:
        written.append(item)
        return Done.WRITTEN

    queue = WriteBehind[str](write, lambda: None, most=10, stand_by=lambda: None)
    pause = Step()
    real = clock.system, behind.time
    clock.system = still
    behind.time = SimpleNamespace(sleep=lambda _seconds: pause(), monotonic=still.now)  # type: ignore[assignment]

    def check(results: list[Any]) -> None:
        clock.system, behind.time = real
        settle_down(results)
        assert sorted(written) == ["first", "second"]
        assert len(queue) == 0

    return Plan([partial(queue.put, one, one) for one in ("first", "second")], check)


# Failover


def switching_failover() -> Plan:
    """Two callers of what is down: the equivalent answers both, and is asked first from then on."""
    name = f"failover {next(_names)}"

    def replica() -> str:
        return "replica"

    @Pipeline(failover_to(replica, switch_after=1), name=name)
    def load() -> str:
        raise ConnectionError("down")

    def check(results: list[Any]) -> None:
        assert settle_down(results) == ["replica"] * 2
        pipeline = pipeline_of(load)
        (strategy,) = pipeline.strategies
        assert isinstance(strategy, FailoverTo)
        assert strategy._preferred == 1
        assert strategy._switches == 1
        assert pipeline.lane.epoch is None

    return Plan([load, load], check)


def returning_failover() -> Plan:
    """One call tries what is well again; wherever others are then, the lane follows."""
    down, asked, step = [True], count(), Step()

    def replica() -> str:
        return "replica"

    @Pipeline(failover_to(replica, switch_after=1), name=f"failover {next(_names)}")
    def load() -> str:
        next(asked)
        step()
        if down:
            raise ConnectionError("down")
        return "function"

    assert load() == "replica"
    down.clear()
    still.pass_time(60)

    def check(results: list[Any]) -> None:
        assert "function" in settle_down(results)
        assert set(results) <= {"function", "replica"}
        pipeline = pipeline_of(load)
        (strategy,) = pipeline.strategies
        assert strategy.at_rest
        assert pipeline.lane.epoch is not None

    return Plan([load, load], check)


# Draining


def drained_process() -> Plan:
    """Units end or are turned away, and none begins after the end of all has been told of."""
    visits, step = Visits(), Step()
    at_the_end: list[tuple[int, int]] = []

    @unit_of_work()
    def work() -> str:
        return visits(step)

    def end() -> bool:
        drained = drain(timeout=5).wait()
        if drained:
            at_the_end.append((visits.now, visits.total))
        return drained

    def check(results: list[Any]) -> None:
        _in_flight.resume()
        settle_down(results, Draining)
        assert visits.total == results.count("answer")
        assert all(one == (0, visits.total) for one in at_the_end)
        assert not still.awaited
        assert _in_flight.left() == 0
        assert not _in_flight._waiting

    return Plan([work, work, end], check)
