"""Equivalents of a function: which is asked, what is remembered, and the way back."""

# What returns Any may be a coroutine, for all that a type checker knows.
# pyright: reportUnusedCoroutine=false, reportAttributeAccessIssue=false

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from resilient import (
    CircuitOpen,
    InvalidSetting,
    InvalidUse,
    circuit_breaker,
    deadline,
    degradation_scope,
    failover_to,
    pipeline_of,
    timeout,
    with_fallback,
)
from resilient.engine.outcome import Outcome
from resilient.engine.reported import all_conditions, all_readings
from resilient.testing import VirtualTime
from tests.doubles import Scripted, calls, each


class Region:
    """A place that answers with its name, or is down; each call takes a second while it is."""

    def __init__(self, virtual: VirtualTime, name: str) -> None:
        self.virtual = virtual
        self.name = name
        self.is_up = True
        self.asked = 0

    def __call__(self, order_id: str = "o1") -> str:
        self.asked += 1
        if not self.is_up:
            self.virtual.sleep(1)
            raise ConnectionError(f"{self.name} is down")
        return self.name


@pytest.fixture
def primary(virtual_time: VirtualTime) -> Region:
    return Region(virtual_time, "primary")


@pytest.fixture
def replica(virtual_time: VirtualTime) -> Region:
    return Region(virtual_time, "replica")


@pytest.fixture
def west(virtual_time: VirtualTime) -> Region:
    return Region(virtual_time, "west")


def test_equivalents_are_not_asked_while_the_function_answers(
    primary: Region, replica: Region
) -> None:
    """Nothing is degraded, and nobody else is called, while all is well."""
    load = failover_to(replica)(primary)
    with degradation_scope() as degraded:
        assert [load() for _ in range(5)] == ["primary"] * 5
    assert (replica.asked, degraded) == (0, [])


def test_a_call_that_fails_is_answered_by_the_first_that_can(
    primary: Region, replica: Region, west: Region
) -> None:
    """Equivalents are tried in order, with the arguments of the call."""
    load = failover_to(replica, west)(primary)
    primary.is_up = False
    assert load("o7") == "replica"
    replica.is_up = False
    assert load(order_id="o8") == "west"


def test_what_works_is_remembered(
    virtual_time: VirtualTime, primary: Region, replica: Region
) -> None:
    """After three failures in a row nobody waits for the dead primary any more."""
    load = failover_to(replica)(primary)
    primary.is_up = False
    began = virtual_time.now()
    assert [load() for _ in range(10)] == ["replica"] * 10
    assert (primary.asked, virtual_time.now() - began) == (3, 3)


def test_failures_that_are_not_in_a_row_change_nothing(primary: Region, replica: Region) -> None:
    """A primary that fails now and then stays the one that is asked first."""
    load = failover_to(replica, switch_after=2)(primary)
    for _ in range(5):
        primary.is_up = False
        assert load() == "replica"
        primary.is_up = True
        assert load() == "primary"
    assert primary.asked == 10


def test_one_call_returns_to_the_primary_after_a_time(
    virtual_time: VirtualTime, primary: Region, replica: Region
) -> None:
    """Each thirty seconds one call tries the primary; when that answers, all of them return."""
    load = failover_to(replica, switch_after=1, return_after=30)(primary)
    primary.is_up = False
    load()
    virtual_time.advance(30)
    assert [load() for _ in range(5)] == ["replica"] * 5
    assert primary.asked == 2
    primary.is_up = True
    virtual_time.advance(30)
    assert [load() for _ in range(5)] == ["primary"] * 5


def test_a_probe_spares_every_call_the_trial(
    virtual_time: VirtualTime, primary: Region, replica: Region
) -> None:
    """With a probe no call pays for a dead primary, and all return when the probe says so."""
    probe = Scripted(*[OSError] * 150, "well")
    load = failover_to(replica, switch_after=1, probe=probe, probe_every=2)(primary)
    primary.is_up = False
    load()
    virtual_time.advance(300)
    assert load() == "replica"
    assert primary.asked == 1
    primary.is_up = True
    virtual_time.advance(2)
    assert load() == "primary"
    virtual_time.advance(300)
    assert probe.calls == 151


def test_a_probe_that_ends_when_the_calls_have_returned_tells_it_no_second_time(
    virtual_time: VirtualTime, primary: Region, replica: Region
) -> None:
    """The verdict of a probe may come while another thread's call has just found the way back."""
    load = failover_to(replica, switch_after=1, probe=lambda: None, probe_every=60)(primary)
    primary.is_up = False
    load()
    primary.is_up, replica.is_up = True, False
    with capture_logs() as logs:
        load()
        pipeline_of(load).strategies[0]._probed(Outcome(None, None, 0.0, 1.0))
    assert [one["event"] for one in logs] == ["resilient.failed_back"]
    assert load() == "primary"


def test_a_region_further_off_is_left_for_a_nearer_one(
    virtual_time: VirtualTime, primary: Region, replica: Region, west: Region
) -> None:
    """The way back stops at the first that works, and goes on from there."""
    load = failover_to(replica, west, switch_after=1, return_after=10)(primary)
    primary.is_up = replica.is_up = False
    assert [load(), load()] == ["west", "west"]
    replica.is_up = True
    virtual_time.advance(10)
    assert [load(), load()] == ["replica", "replica"]
    assert (primary.asked, west.asked) == (2, 2)
    primary.is_up = True
    virtual_time.advance(10)
    assert load() == "primary"


def test_an_equivalent_that_dies_is_left_as_well(
    primary: Region, replica: Region, west: Region
) -> None:
    """When the one in use fails, the others are tried, the function first."""
    load = failover_to(replica, west, switch_after=1)(primary)
    primary.is_up = False
    load()
    replica.is_up = False
    assert [load(), load()] == ["west", "west"]
    assert (primary.asked, replica.asked) == (2, 2)


def test_when_all_fail_the_functions_own_error_says_so(
    primary: Region, replica: Region, west: Region
) -> None:
    """The error is the primary's, with a note on each equivalent and nothing of what they said."""
    load = circuit_breaker("orders-all-down", fail_max=99)(failover_to(replica, west)(primary))
    primary.is_up = replica.is_up = west.is_up = False
    with pytest.raises(ConnectionError, match="primary is down") as caught:
        load()
    assert len(caught.value.__notes__) == 2
    assert all("failed as well: ConnectionError" in note for note in caught.value.__notes__)


def test_errors_that_another_would_give_too_are_not_failed_over(
    primary: Region, replica: Region
) -> None:
    """What `on` does not name is the answer, also when an equivalent gives it."""
    unknown = Scripted(ConnectionError, KeyError)
    load = failover_to(Scripted(KeyError), on=ConnectionError)(unknown)
    with pytest.raises(KeyError):
        load()
    assert unknown.calls == 1
    with pytest.raises(KeyError):
        load()


def test_an_open_circuit_of_the_function_is_failed_over(primary: Region, replica: Region) -> None:
    """A breaker further in rejects at once, which is a failure whatever `on` says."""
    load = failover_to(replica, on=ConnectionError, switch_after=99)(
        circuit_breaker("orders-circuit", fail_max=2, reset_timeout=60)(primary)
    )
    primary.is_up = False
    with degradation_scope() as degraded:
        assert [load() for _ in range(5)] == ["replica"] * 5
    assert primary.asked == 2
    assert degraded[-1].reason == CircuitOpen.__name__


def test_the_callers_own_deadline_says_nothing_about_the_function(
    virtual_time: VirtualTime, replica: Region
) -> None:
    """A call whose time is over tries nobody else, and is no failure of the function."""

    async def hangs(order_id: str = "o1") -> str:
        await asyncio.sleep(60)
        return "late"

    async def from_replica(order_id: str = "o1") -> str:
        return replica(order_id)

    load = failover_to(from_replica, switch_after=1)(hangs)

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with timeout(1):
                await load()
        with deadline(1), pytest.raises(TimeoutError):
            await load()

    virtual_time.run(main())
    assert replica.asked == 0
    assert pipeline_of(load).strategies[0].at_rest


def test_a_limit_of_the_function_alone_is_a_failure(virtual_time: VirtualTime) -> None:
    """A primary that hangs is cut by its own limit, and the replica answers."""

    async def from_replica() -> str:
        return "replica"

    @failover_to(from_replica)
    @timeout(2)
    async def load() -> str:
        await asyncio.sleep(60)
        return "late"

    began = virtual_time.now()
    assert virtual_time.run(load()) == "replica"
    assert virtual_time.now() - began == 2


def test_it_is_seen_who_answers(
    virtual_time: VirtualTime, primary: Region, replica: Region
) -> None:
    """Calls answered elsewhere are degraded; health, metrics and events tell since when."""

    def from_replica(order_id: str = "o1") -> str:
        return replica(order_id)

    load = circuit_breaker("orders-seen", fail_max=99)(
        failover_to(from_replica, switch_after=1, return_after=5)(primary)
    )
    primary.is_up = False
    with capture_logs() as logs, degradation_scope() as degraded:
        load()
        load()
    assert {(one.tier, one.reason) for one in degraded} == {("failover", "ConnectionError")}
    assert calls("orders-seen") == {"degraded": 2}
    [condition] = [one for one in all_conditions() if one.name == "orders-seen:failover"]
    assert condition.status == "warn"
    shown = {
        (one.name, one.labels.get("equivalent", "").rpartition(".")[2]): one.value
        for one in all_readings()
        if one.labels.get("dependency") == "orders-seen"
    }
    assert shown == {
        ("failover_in_use", "__call__"): 0,
        ("failover_in_use", "from_replica"): 1,
        ("failovers", ""): 1,
    }
    assert "resilient.failed_over" in [one["event"] for one in logs]
    primary.is_up = True
    virtual_time.advance(5)
    with capture_logs() as logs:
        load()
    assert [one["event"] for one in logs] == ["resilient.failed_back"]
    assert next(one for one in all_conditions() if one.name == "orders-seen:failover").status == (
        "pass"
    )


def test_many_threads_agree_on_who_is_asked(virtual_time: VirtualTime) -> None:
    """Threads that fail at once switch once, and none is without an answer."""
    lock = threading.Lock()
    asked = 0

    def down() -> str:
        nonlocal asked
        with lock:
            asked += 1
        raise ConnectionError

    load = failover_to(lambda: "replica")(down)
    answers: list[str] = []
    threads = [
        threading.Thread(target=lambda: answers.extend(load() for _ in range(50))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == ["replica"] * 400
    assert 3 <= asked <= 3 + 8
    switches = [one.value for one in all_readings() if one.name == "failovers"]
    assert 1 in switches


def test_answers_of_the_function_that_are_counted_late_excuse_no_equivalent(
    primary: Region, replica: Region
) -> None:
    """What a slow thread had from the function before the switch says nothing about the replica."""
    load = failover_to(replica, switch_after=3)(primary)
    primary.is_up = False
    for _ in range(3):
        load()
    primary.is_up, replica.is_up = True, False
    assert [load(), load()] == ["primary", "primary"]
    pipeline_of(load).strategies[0].absorb(1, 0.0, 0.0)
    asked = replica.asked
    assert [load(), load()] == ["primary", "primary"]
    assert replica.asked == asked + 1


def test_it_stands_among_other_strategies(primary: Region, replica: Region) -> None:
    """A fallback around it serves when no equivalent can."""
    load = with_fallback("nothing")(failover_to(replica)(primary))
    primary.is_up = replica.is_up = False
    assert load() == "nothing"
    fallback, failover = pipeline_of(load).strategies
    assert type(fallback).__name__ == "Fallback"
    assert repr(failover) == f"failover_to({__name__}.Region.__call__)"


# Wrong use


def test_a_generator_is_refused() -> None:
    """A stream cannot be done over, and that is told when decorating."""

    def pages() -> Iterator[int]:
        yield 1

    with pytest.raises(InvalidUse, match="generator"):
        failover_to(lambda: 1)(pages)


def test_an_equivalent_that_takes_other_arguments_is_refused() -> None:
    """A function that does not fit is told when decorating, not during the outage."""

    def load(order_id: str) -> str:
        return order_id

    with pytest.raises(InvalidUse, match="failover_to"):
        failover_to(lambda: "one")(load)


@each(
    "settings",
    {
        "no equivalents": ((), {}),
        "a value": (("replica",), {}),
        "no failures": ((print,), {"switch_after": 0}),
        "no time": ((print,), {"return_after": 0}),
        "a probe that cannot be called": ((print,), {"probe": "ping"}),
    },
)
def test_wrong_settings_are_told_at_once(settings: Any) -> None:
    """Settings are checked where they are written."""
    args, kwargs = settings
    with pytest.raises((InvalidSetting, InvalidUse)):
        failover_to(*args, **kwargs)
