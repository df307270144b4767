"""pybreaker's storages: breakers that share one state, in memory and over Redis."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pybreaker
import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from resilient import CircuitBreaker
from resilient.testing import VirtualTime
from tests.circuits import WAYS, Upstream, outcome_of, outcomes_of
from tests.fuzz.kinds import MISTAKES
from tests.servers import RedisServer


@pytest.fixture
def upstream(virtual_time: VirtualTime) -> Upstream:
    """A dependency in virtual time."""
    return Upstream(virtual_time)


Storage = Callable[[], pybreaker.CircuitBreakerStorage]


@pytest.fixture
def clients() -> Iterator[list[Redis]]:
    """The connections of a test, closed after it."""
    opened: list[Redis] = []
    yield opened
    for client in opened:
        client.close()


def over_redis(server: RedisServer, clients: list[Redis]) -> pybreaker.CircuitBreakerStorage:
    """Return a storage with a connection of its own, as another process would have it."""
    # Newer clients would try again by themselves, for seconds, while a guarded call waits.
    retry = Retry(NoBackoff(), 0)
    client = Redis(host=server.host, port=server.port, socket_timeout=1, retry=retry)
    clients.append(client)
    return pybreaker.CircuitRedisStorage(pybreaker.STATE_CLOSED, client, namespace="orders")


@pytest.fixture(params=["memory", "redis"])
def storage(request: pytest.FixtureRequest, clients: list[Redis]) -> Storage:
    """A function that gives each breaker its access to one shared state."""
    if request.param == "memory":
        shared = pybreaker.CircuitMemoryStorage(pybreaker.STATE_CLOSED)
        return lambda: shared
    server: RedisServer = request.getfixturevalue("redis")
    return lambda: over_redis(server, clients)


def make(storage: Storage, **settings: Any) -> CircuitBreaker:
    """Return a breaker of one of the processes."""
    given: dict[str, Any] = {"fail_max": 3, "reset_timeout": 60, **settings}
    return CircuitBreaker(state_storage=storage(), **given)


@pytest.mark.parametrize("way", WAYS)
def test_a_breaker_with_a_storage_guards_like_any_other(
    upstream: Upstream, storage: Storage, way: str
) -> None:
    """It trips, rejects, lets a probe through and closes."""
    breaker = make(storage)
    call = upstream.guarded(breaker, way)
    upstream.down()
    assert outcomes_of(call, 5) == ["ConnectionError"] * 3 + ["rejected"] * 2
    upstream.up()
    upstream.time.advance(60)

    assert outcomes_of(call, 2) == ["answered"] * 2
    assert breaker.current_state == "closed"


def test_what_one_breaker_finds_out_the_others_know(upstream: Upstream, storage: Storage) -> None:
    """A trip in one process is a trip in all of them, without a failure of their own."""
    one, other = make(storage), make(storage)
    here, there = upstream.guarded(one), upstream.guarded(other)
    upstream.down()
    outcomes_of(here, 3)

    assert outcome_of(there) == "rejected"
    assert upstream.calls == 3
    assert other.current_state == "open"


def test_failures_are_counted_over_all_breakers(upstream: Upstream, storage: Storage) -> None:
    """Two here and one there are three in a row."""
    here, there = upstream.guarded(make(storage)), upstream.guarded(make(storage))
    upstream.down()
    outcomes_of(here, 2)

    assert outcomes_of(there, 2) == ["ConnectionError", "rejected"]


def test_a_success_anywhere_starts_the_count_anew(upstream: Upstream, storage: Storage) -> None:
    """As pybreaker has it."""
    one = make(storage)
    here, there = upstream.guarded(one), upstream.guarded(make(storage))
    upstream.down()
    outcomes_of(here, 2)
    upstream.up()
    outcome_of(there)

    assert one.fail_counter == 0
    upstream.down()
    assert outcomes_of(there, 3) == ["ConnectionError"] * 3


def test_a_recovery_in_one_is_a_recovery_in_all(upstream: Upstream, storage: Storage) -> None:
    """The probe of one process closes the circuit of the others."""
    one, other = make(storage), make(storage)
    here, there = upstream.guarded(one), upstream.guarded(other)
    upstream.down()
    outcomes_of(here, 3)
    outcome_of(there)
    upstream.up()
    upstream.time.advance(60)
    assert outcome_of(here) == "answered"
    upstream.down()

    assert outcome_of(there) == "ConnectionError"
    assert other.current_state == "closed"


def test_a_new_process_begins_with_the_state_that_there_is(
    upstream: Upstream, storage: Storage
) -> None:
    """A restart during an outage does not send calls to what is down."""
    upstream.down()
    outcomes_of(upstream.guarded(make(storage)), 3)
    reached = upstream.calls

    newcomer = make(storage)
    assert newcomer.current_state == "open"
    assert outcome_of(upstream.guarded(newcomer)) == "rejected"
    assert upstream.calls == reached


def test_the_rest_of_the_open_period_is_left_to_a_new_process(
    upstream: Upstream, storage: Storage
) -> None:
    """The circuit opened forty seconds ago: twenty are left, give or take Redis' whole seconds."""
    shared = storage()
    shared.state = pybreaker.STATE_OPEN
    shared.opened_at = datetime.now(UTC) - timedelta(seconds=40)
    newcomer = CircuitBreaker(fail_max=3, reset_timeout=60, state_storage=shared)

    assert newcomer.retry_after == pytest.approx(20, abs=3)


def test_a_breaker_follows_one_that_lets_probes_through(
    upstream: Upstream, storage: Storage
) -> None:
    """Half-open in one process is half-open in the others, before their own period is over."""
    one, other = make(storage), make(storage)
    here, there = upstream.guarded(one), upstream.guarded(other)
    upstream.down()
    outcomes_of(here, 3)
    assert outcome_of(there) == "rejected"
    one.half_open()
    upstream.up()
    assert outcome_of(there) == "answered"
    assert other.transitions["half-open"] == 1


def test_counters_are_those_of_the_storage(upstream: Upstream, storage: Storage) -> None:
    """Who looks at the storage sees what the breaker has counted, and the other way round."""
    breaker = make(storage, success_threshold=2)
    call = upstream.guarded(breaker)
    upstream.down()
    outcomes_of(call, 2)
    assert (breaker.fail_counter, storage().counter) == (2, 2)
    outcome_of(call)
    assert storage().state == pybreaker.STATE_OPEN
    upstream.up()
    upstream.time.advance(60)
    outcome_of(call)
    assert (breaker.success_counter, storage().success_counter) == (1, 1)
    outcome_of(call)
    assert (storage().state, storage().counter) == (pybreaker.STATE_CLOSED, 0)


def test_a_breaker_of_pybreaker_may_share_the_storage(upstream: Upstream, storage: Storage) -> None:
    """During a migration both kinds are in use; each follows the other."""
    ours = make(storage)
    theirs = pybreaker.CircuitBreaker(
        fail_max=3, reset_timeout=60, state_storage=storage(), throw_new_error_on_trip=False
    )
    call = upstream.guarded(ours)
    upstream.down()
    outcomes_of(call, 3)
    with pytest.raises(pybreaker.CircuitBreakerError):
        theirs.call(upstream.answer)

    theirs.close()
    upstream.up()
    assert outcome_of(call) == "answered"


# Storages that fail


class Unreachable(pybreaker.CircuitMemoryStorage):
    """A storage of somebody's own that raises whatever it is asked."""

    def __init__(self) -> None:
        super().__init__(pybreaker.STATE_CLOSED)
        self.is_down = True

    def __getattribute__(self, name: str) -> Any:
        hidden = {"is_down", "_state", "__class__", "__dict__"}
        if name not in hidden and object.__getattribute__(self, "is_down"):
            raise OSError("the storage is down")
        return object.__getattribute__(self, name)


@pytest.mark.parametrize("way", WAYS)
def test_a_storage_that_raises_leaves_the_circuit_to_decide_by_itself(
    upstream: Upstream, way: str
) -> None:
    """Calls have their own outcomes, and the circuit opens and closes for this process alone."""
    breaker = CircuitBreaker(fail_max=3, reset_timeout=60, state_storage=Unreachable())
    call = upstream.guarded(breaker, way)
    assert outcome_of(call) == "answered"
    upstream.down()
    assert outcomes_of(call, 5) == ["ConnectionError"] * 3 + ["rejected"] * 2
    upstream.up()
    upstream.time.advance(60)

    assert outcomes_of(call, 2) == ["answered"] * 2
    assert breaker.fail_counter == 0


# Redis, killed in between


@pytest.fixture
def quiet_redis(redis: RedisServer, caplog: pytest.LogCaptureFixture) -> RedisServer:
    """A Redis that is going to be killed, which pybreaker logs at length."""
    caplog.set_level(logging.CRITICAL, logger="pybreaker")
    return redis


class Rubbish(pybreaker.CircuitMemoryStorage):
    """A storage whose every answer is the same, and none."""

    def __init__(self, answer: Any) -> None:
        super().__init__("closed")
        self.answer = answer

    @property
    def state(self) -> Any:
        return self.answer

    @state.setter
    def state(self, state: Any) -> None: ...

    @property
    def opened_at(self) -> Any:
        return self.answer

    @opened_at.setter
    def opened_at(self, datetime: Any) -> None: ...

    @property
    def counter(self) -> Any:
        return self.answer


def test_a_storage_that_answers_rubbish_changes_no_answer_of_a_call(upstream: Upstream) -> None:
    """Calls have their own errors, or are rejected by a circuit that is said to be open."""
    for answer in ["open", datetime(2026, 1, 1), *MISTAKES]:  # noqa: DTZ001 - of no zone
        breaker = make(lambda answer=answer: Rubbish(answer))
        call = upstream.guarded(breaker, "call")
        upstream.down()
        assert set(outcomes_of(call, 5)) <= {"ConnectionError", "rejected"}
        upstream.time.advance(60)
        assert set(outcomes_of(call, 2)) <= {"ConnectionError", "rejected"}


def test_an_open_period_of_rubbish_is_the_breakers_own(upstream: Upstream) -> None:
    """A moment of no zone, or no moment at all, leaves the circuit open for its whole period."""
    for opened_at in [datetime(2026, 1, 1), *MISTAKES]:  # noqa: DTZ001 - of no zone
        shared = pybreaker.CircuitMemoryStorage("open")
        shared._opened_at = opened_at  # type: ignore[assignment]
        breaker = make(lambda shared=shared: shared)
        assert outcomes_of(upstream.guarded(breaker, "call"), 1) == ["rejected"]
        assert breaker.retry_after == 60


@pytest.mark.parametrize("way", WAYS)
def test_calls_go_on_while_redis_is_down(
    upstream: Upstream, quiet_redis: RedisServer, clients: list[Redis], way: str
) -> None:
    """Killed between two calls: the next ones have their own outcomes."""
    breaker = make(lambda: over_redis(quiet_redis, clients))
    call = upstream.guarded(breaker, way)
    assert outcome_of(call) == "answered"
    quiet_redis.kill()

    assert outcomes_of(call, 3) == ["answered"] * 3
    upstream.down()
    assert outcome_of(call) == "ConnectionError"


def test_the_circuit_opens_and_stays_open_while_redis_is_down(
    upstream: Upstream, quiet_redis: RedisServer, clients: list[Redis]
) -> None:
    """Outages come together: without Redis each process protects what it calls by itself."""
    breaker = make(lambda: over_redis(quiet_redis, clients))
    call = upstream.guarded(breaker)
    quiet_redis.kill()
    upstream.down()

    assert outcomes_of(call, 6) == ["ConnectionError"] * 3 + ["rejected"] * 3
    upstream.up()
    upstream.time.advance(60)
    assert outcomes_of(call, 3) == ["answered"] * 3


def test_an_open_circuit_takes_pybreakers_fallback_state_when_redis_goes_down(
    upstream: Upstream, quiet_redis: RedisServer, clients: list[Redis]
) -> None:
    """fallback_circuit_state is what its user wants then: closed unless said otherwise."""
    breaker = make(lambda: over_redis(quiet_redis, clients))
    call = upstream.guarded(breaker)
    upstream.down()
    assert outcomes_of(call, 4) == ["ConnectionError"] * 3 + ["rejected"]
    quiet_redis.kill()
    upstream.up()

    assert outcome_of(call) == "answered"


def test_breakers_share_their_state_again_when_redis_is_back(
    upstream: Upstream, quiet_redis: RedisServer, clients: list[Redis]
) -> None:
    """It comes back empty, as after a restart without persistence."""
    here = upstream.guarded(make(lambda: over_redis(quiet_redis, clients)))
    there = upstream.guarded(make(lambda: over_redis(quiet_redis, clients)))
    outcome_of(here)
    outcome_of(there)
    quiet_redis.kill()
    outcome_of(here)
    outcome_of(there)
    quiet_redis.start()
    upstream.down()
    outcomes_of(here, 3)

    assert outcome_of(there) == "rejected"
