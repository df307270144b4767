"""Failover: another way to the same answer."""

# What returns Any may be a coroutine, for all that a type checker knows.
# pyright: reportUnusedCoroutine=false, reportIndexIssue=false, reportAttributeAccessIssue=false

from __future__ import annotations

from typing import Any

import pytest

from resilient import InvalidUse, circuit_breaker, degradation_scope, failover, with_fallback
from resilient.testing import VirtualTime
from tests.doubles import Scripted, calls, series


def test_another_function_answers_for_the_same_arguments(virtual_time: VirtualTime) -> None:
    """The replica is called with the arguments of the call, as they were given."""

    def from_replica(order_id: str, *, lines: bool = False) -> tuple[str, bool]:
        return order_id, lines

    @with_fallback(failover(from_replica))
    def load(order_id: str, *, lines: bool = False) -> tuple[str, bool]:
        raise ConnectionError

    assert load("o1") == ("o1", False)
    assert load(order_id="o1", lines=True) == ("o1", True)


def test_a_replica_is_asked_only_when_the_primary_fails(virtual_time: VirtualTime) -> None:
    """No call goes to the replica while the primary answers."""
    replica = Scripted("replica")
    guarded = with_fallback(failover(replica))(Scripted("primary", ConnectionError))
    assert [guarded(), guarded()] == ["primary", "replica"]
    assert replica.calls == 1


def test_replicas_are_tried_in_order(virtual_time: VirtualTime) -> None:
    """A replica that is down as well falls to the next region."""
    guarded = with_fallback(failover(Scripted(OSError)), failover(Scripted("second region")))(
        Scripted(ConnectionError)
    )
    assert guarded() == "second region"


def test_a_replica_can_be_guarded_itself(virtual_time: VirtualTime) -> None:
    """A breaker around the replica keeps a dead replica from being asked over and over."""
    replica = Scripted(OSError)
    guarded_replica = circuit_breaker("replica", fail_max=2, reset_timeout=60)(replica)
    guarded = with_fallback(failover(guarded_replica), "nothing")(Scripted(ConnectionError))
    assert [guarded() for _ in range(10)] == ["nothing"] * 10
    assert replica.calls == 2


def test_a_replica_whose_signature_cannot_be_seen_is_taken_as_it_is(
    virtual_time: VirtualTime,
) -> None:
    """What is written in C may say nothing of its arguments: calls will tell."""
    guarded = with_fallback(failover(max))(Scripted(ConnectionError))
    assert guarded(3, 7) == 7


def test_a_method_fails_over_to_a_function_that_takes_the_object(
    virtual_time: VirtualTime,
) -> None:
    """For a method, the object comes first among the arguments."""

    def from_replica(orders: Any, order_id: str) -> str:
        return f"{orders.region}/{order_id}"

    class Orders:
        region = "west"

        @with_fallback(failover(from_replica))
        def load(self, order_id: str) -> str:
            raise ConnectionError

    assert Orders().load("o1") == "west/o1"


def test_coroutine_functions_fail_over_to_each_other(virtual_time: VirtualTime) -> None:
    """An asynchronous replica serves an asynchronous primary."""

    async def from_replica(order_id: str) -> str:
        return f"{order_id} from the replica"

    @with_fallback(failover(from_replica))
    async def load(order_id: str) -> str:
        raise ConnectionError

    assert virtual_time.run(load("o1")) == "o1 from the replica"


def test_a_failover_is_recorded_as_one(virtual_time: VirtualTime) -> None:
    """Tier and outcome tell that the answer came from elsewhere."""
    primary = Scripted(ConnectionError)
    guarded = circuit_breaker("primary", fail_max=9)(
        with_fallback(failover(Scripted("replica")))(primary)
    )
    with degradation_scope() as degraded:
        guarded()
    assert [(one.tier, one.age) for one in degraded] == [("failover", None)]
    assert calls("primary") == {"degraded": 1}
    assert series("primary")["resilient_fallbacks_total{failover}"] == 1


def test_a_replica_that_takes_other_arguments_is_refused() -> None:
    """A function that does not fit is told when decorating, not during the outage."""

    def load(order_id: str, region: str) -> str:
        raise ConnectionError

    for replica in (lambda order_id: order_id, lambda: None, lambda a, b, c: a):
        with pytest.raises(InvalidUse, match="failover"):
            with_fallback(failover(replica))(load)


def test_an_asynchronous_replica_of_a_plain_function_is_refused() -> None:
    """A plain call cannot wait for a coroutine, and that is told when decorating."""

    async def from_replica(order_id: str) -> str:
        return order_id

    def load(order_id: str) -> str:
        raise ConnectionError

    with pytest.raises(InvalidUse, match="asynchronous"):
        with_fallback(failover(from_replica))(load)
