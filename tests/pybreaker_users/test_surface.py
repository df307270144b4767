"""Everything that pybreaker offers is taken, so that a new pybreaker cannot bring a surprise."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pybreaker
import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from resilient import CircuitBreaker, InvalidSetting
from resilient.testing import VirtualTime
from tests.circuits import Upstream, outcome_of, outcomes_of
from tests.project.tree import text_of
from tests.servers import RedisServer


@pytest.fixture
def upstream(virtual_time: VirtualTime) -> Upstream:
    """A dependency in virtual time."""
    return Upstream(virtual_time)


def public(owner: type) -> set[str]:
    """Return the names of what a class offers."""
    return {name for name in vars(owner) if not name.startswith("_")}


# What there is


def test_every_argument_of_its_constructor_is_taken() -> None:
    """Also one that a later pybreaker brings: then this test says so."""
    theirs = inspect.signature(pybreaker.CircuitBreaker).parameters
    ours = inspect.signature(CircuitBreaker).parameters

    assert theirs.keys() <= ours.keys()


def test_everything_that_it_offers_is_ours_or_rests_on_ours() -> None:
    """What pybreaker does by itself with state of its own would say nothing about our circuit."""
    inherited = {
        name
        for name in public(pybreaker.CircuitBreaker)
        if getattr(CircuitBreaker, name) is getattr(pybreaker.CircuitBreaker, name)
    }

    # They only call `add_excluded_exception` and `add_listener`, or read what these have added.
    assert inherited == {"add_excluded_exceptions", "add_listeners", "excluded_exceptions"}


def test_its_listeners_and_storages_have_no_method_that_we_do_not_know() -> None:
    """A hook that is never called, or a counter that is never written, would go unnoticed."""
    assert public(pybreaker.CircuitBreakerListener) == {
        "before_call",
        "success",
        "failure",
        "state_change",
    }
    assert public(pybreaker.CircuitBreakerStorage) == {
        "name",
        "state",
        "counter",
        "success_counter",
        "opened_at",
        "increment_counter",
        "reset_counter",
        "increment_success_counter",
        "reset_success_counter",
    }


def test_defaults_are_those_of_pybreaker_where_the_page_says_nothing_else() -> None:
    """A breaker without arguments opens after as many failures, and closes after one success."""
    ours, theirs = CircuitBreaker(), pybreaker.CircuitBreaker()

    assert ours.fail_max == theirs.fail_max == 5
    assert ours.success_threshold == theirs.success_threshold == 1
    assert (ours.excluded_exceptions, ours.listeners, ours.name) == ((), (), None)
    page = text_of("docs/pybreaker.md")
    assert theirs.reset_timeout == 60
    assert f"`reset_timeout` is {theirs.reset_timeout} unless given" in page
    assert ours.reset_timeout == 1


# Settings


def test_settings_can_be_changed_while_it_is_in_use(upstream: Upstream) -> None:
    """The next failure, trip or probe goes by the new ones."""
    breaker = CircuitBreaker(fail_max=5, reset_timeout=60)
    call = upstream.guarded(breaker)
    breaker.fail_max, breaker.reset_timeout, breaker.success_threshold = 2, 10, 3
    assert (breaker.fail_max, breaker.reset_timeout, breaker.success_threshold) == (2, 10, 3)
    upstream.down()
    assert outcomes_of(call, 3) == ["ConnectionError", "ConnectionError", "rejected"]
    upstream.up()
    upstream.time.advance(10)

    assert outcomes_of(call, 2) == ["answered"] * 2
    assert breaker.current_state == "half-open"
    outcome_of(call)
    assert breaker.current_state == "closed"


@pytest.mark.parametrize(
    ("setting", "value"), [("fail_max", 0), ("reset_timeout", -1), ("success_threshold", 0)]
)
def test_a_setting_cannot_be_changed_to_nonsense(setting: str, value: int) -> None:
    """It says so, as the constructor does, and goes on with what it had."""
    breaker = CircuitBreaker(fail_max=5, reset_timeout=60)
    before = getattr(breaker, setting)

    with pytest.raises(InvalidSetting, match=setting):
        setattr(breaker, setting, value)
    assert getattr(breaker, setting) == before


def test_exclusions_may_come_from_anywhere(upstream: Upstream) -> None:
    """From a set, a tuple or a generator; they are read once."""
    for exclude in ({KeyError}, (KeyError,), (error for error in [KeyError])):
        breaker = CircuitBreaker(fail_max=1, exclude=exclude)
        upstream.error = KeyError("k")
        assert outcomes_of(upstream.guarded(breaker), 2) == ["KeyError"] * 2


def test_a_failing_probe_starts_the_count_of_successes_anew(upstream: Upstream) -> None:
    """Two successes, a failure and two more are not three in a row."""
    breaker = CircuitBreaker(fail_max=1, reset_timeout=60, success_threshold=3)
    call = upstream.guarded(breaker)
    breaker.half_open()
    outcomes_of(call, 2)
    upstream.down()
    outcome_of(call)
    upstream.up()
    upstream.time.advance(60)
    outcomes_of(call, 2)

    assert (breaker.current_state, breaker.success_counter) == ("half-open", 2)


# Differences


def test_a_decorator_has_no_brackets(virtual_time: VirtualTime) -> None:
    """`@breaker()` and its switch for Tornado are errors when decorating."""
    breaker = CircuitBreaker("without brackets", fail_max=1)
    with pytest.raises(TypeError, match="function"):
        breaker()  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="__pybreaker_call_async"):
        breaker(len, __pybreaker_call_async=True)  # type: ignore[call-overload]


def test_what_is_not_there_can_be_removed(virtual_time: VirtualTime) -> None:
    """Pybreaker raises ValueError; afterwards it is gone either way."""
    breaker = CircuitBreaker("nothing there", fail_max=1)
    breaker.remove_listener(pybreaker.CircuitBreakerListener())
    breaker.remove_excluded_exception(KeyError)

    assert (breaker.listeners, breaker.excluded_exceptions) == ((), ())


def test_opening_by_hand_says_whether_the_tripping_call_gets_another_error() -> None:
    """As pybreaker's own `open` does, whose default is the other way round."""
    assert pybreaker.CircuitBreaker().open() is True
    assert CircuitBreaker().open() is False
    assert CircuitBreaker(throw_new_error_on_trip=True).open() is True


def test_the_same_exclusions_are_excluded_as_in_pybreaker(virtual_time: VirtualTime) -> None:
    """By type with its subclasses, and by predicate; only a class with a metaclass differs."""

    class Meta(type):
        pass

    class Marked(Exception, metaclass=Meta):
        pass

    exclude: list[Any] = [LookupError, lambda error: "busy" in str(error), Marked]
    ours = CircuitBreaker(exclude=exclude)
    theirs = pybreaker.CircuitBreaker(exclude=exclude[:2])
    for error in (KeyError(), LookupError(), OSError("busy"), OSError("down"), Exception()):
        assert ours.is_system_error(error) == theirs.is_system_error(error)

    assert not ours.is_system_error(Marked())
    assert ours.is_system_error(OSError("down"))
    # pybreaker takes such a class for a predicate, and every error that it can be made of matches.
    assert not pybreaker.CircuitBreaker(exclude=[Marked]).is_system_error(OSError("down"))


# Storages of others


class Kept(pybreaker.CircuitBreakerStorage):
    """A storage that somebody has written, with nothing but what pybreaker asks for."""

    def __init__(self) -> None:
        super().__init__("kept")
        self._kept: dict[str, Any] = {"state": "closed", "failures": 0, "successes": 0, "at": None}

    @property
    def state(self) -> str:
        return str(self._kept["state"])

    @state.setter
    def state(self, state: str) -> None:
        self._kept["state"] = state

    def increment_counter(self) -> None:
        self._kept["failures"] += 1

    def reset_counter(self) -> None:
        self._kept["failures"] = 0

    def increment_success_counter(self) -> None:
        self._kept["successes"] += 1

    def reset_success_counter(self) -> None:
        self._kept["successes"] = 0

    @property
    def counter(self) -> int:
        return int(self._kept["failures"])

    @property
    def success_counter(self) -> int:
        return int(self._kept["successes"])

    @property
    def opened_at(self) -> datetime | None:
        return self._kept["at"]  # type: ignore[no-any-return]

    @opened_at.setter
    def opened_at(self, datetime: datetime) -> None:
        self._kept["at"] = datetime


def test_a_storage_of_ones_own_is_told_what_pybreaker_would_tell_it(upstream: Upstream) -> None:
    """State, both counters, and when the circuit opened."""
    storage = Kept()
    breaker = CircuitBreaker(
        fail_max=2, reset_timeout=60, success_threshold=2, state_storage=storage
    )
    call = upstream.guarded(breaker)
    seen = []
    upstream.down()
    outcome_of(call)
    seen.append((storage.state, storage.counter, storage.success_counter))
    outcome_of(call)
    assert storage.opened_at is not None
    assert abs((datetime.now(UTC) - storage.opened_at).total_seconds()) < 60
    seen.append((storage.state, storage.counter, storage.success_counter))
    upstream.up()
    upstream.time.advance(60)
    for _ in range(2):
        outcome_of(call)
        seen.append((storage.state, storage.counter, storage.success_counter))

    assert seen == [("closed", 1, 0), ("open", 2, 0), ("half-open", 0, 1), ("closed", 0, 0)]


@pytest.fixture
def stored(redis: RedisServer) -> Any:
    """A function that gives a storage over Redis, with settings of pybreaker's."""
    client = Redis(host=redis.host, port=redis.port, socket_timeout=1, retry=Retry(NoBackoff(), 0))

    def storage(**settings: Any) -> pybreaker.CircuitRedisStorage:
        return pybreaker.CircuitRedisStorage(pybreaker.STATE_CLOSED, client, **settings)

    yield storage
    client.close()


def test_namespaces_in_redis_are_kept_apart(
    upstream: Upstream, stored: Callable[..., pybreaker.CircuitRedisStorage]
) -> None:
    """Two breakers over one Redis share a state only if they share a namespace."""
    breakers = [
        CircuitBreaker(fail_max=1, reset_timeout=60, state_storage=stored(namespace=name))
        for name in ("orders", "orders", "mail")
    ]
    breakers[0].open()

    calls = [upstream.guarded(breaker) for breaker in breakers]
    assert [outcome_of(call) for call in calls] == ["rejected", "rejected", "answered"]


def test_a_storage_for_a_cluster_of_redis_is_taken_as_well(
    upstream: Upstream, stored: Callable[..., pybreaker.CircuitRedisStorage]
) -> None:
    """In pybreaker's cluster mode it writes without a transaction."""
    storage = stored(namespace="clustered", cluster_mode=True)
    breaker = CircuitBreaker(fail_max=1, reset_timeout=60, state_storage=storage)
    call = upstream.guarded(breaker)
    upstream.down()

    assert outcomes_of(call, 2) == ["ConnectionError", "rejected"]
    assert storage.opened_at is not None


def test_a_state_that_is_lost_from_redis_is_set_up_again(
    upstream: Upstream,
    redis: RedisServer,
    stored: Callable[..., pybreaker.CircuitRedisStorage],
) -> None:
    """Somebody flushes it during an outage: the circuit is what pybreaker falls back to."""
    storage = stored(namespace="flushed", fallback_circuit_state=pybreaker.STATE_CLOSED)
    breaker = CircuitBreaker(fail_max=2, reset_timeout=60, state_storage=storage)
    call = upstream.guarded(breaker)
    upstream.down()
    assert outcomes_of(call, 3) == ["ConnectionError"] * 2 + ["rejected"]
    redis.clear()

    assert outcomes_of(call, 3) == ["ConnectionError"] * 2 + ["rejected"]


def test_a_fallback_state_of_open_keeps_the_circuit_open_while_redis_is_down(
    upstream: Upstream,
    redis: RedisServer,
    stored: Callable[..., pybreaker.CircuitRedisStorage],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is what its user wants then."""
    caplog.set_level("CRITICAL", logger="pybreaker")
    storage = stored(namespace="careful", fallback_circuit_state=pybreaker.STATE_OPEN)
    breaker = CircuitBreaker(fail_max=2, reset_timeout=60, state_storage=storage)
    call = upstream.guarded(breaker)
    assert outcome_of(call) == "answered"
    redis.kill()

    assert outcome_of(call) == "rejected"
