"""Faults in pairs: each dependency broken alone, and together with all that its fallback uses.

The caller always gets the best answer that is left, and when nothing is left the original error,
with what became of every tier in its notes.
"""

# What returns Any may be a coroutine, for all that a type checker knows.
# pyright: reportUnusedCoroutine=false, reportAttributeAccessIssue=false, reportIndexIssue=false

from __future__ import annotations

import asyncio
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from resilient import (
    CallTimeout,
    CircuitOpen,
    Dependency,
    NewCall,
    Outbox,
    Receipt,
    cached,
    circuit_breaker,
    default,
    degradation_scope,
    failover,
    gather_partial,
    queued,
)
from resilient.testing import VirtualTime

HANGS = 60.0
SERVICE = ("well", "refuses", "hangs", "fails", "rejected")
CACHE = ("has an answer", "has an empty list", "is empty", "refuses", "hangs")
REPLICA = ("well", "refuses", "hangs")
DEFAULT = ("well", "refuses", "hangs")
ERRORS = {
    "refuses": ConnectionRefusedError,
    "hangs": CallTimeout,
    "fails": RuntimeError,
    "rejected": CircuitOpen,
}


class Faults:
    """What is broken now, and how."""

    def __init__(self, virtual: VirtualTime) -> None:
        self.virtual = virtual
        self.of: dict[str, str] = {}

    def hit(self, name: str) -> None:
        """Do to a plain call what is wrong with `name`."""
        match self.of.get(name, "well"):
            case "refuses":
                raise ConnectionRefusedError(f"{name} refuses")
            case "fails":
                raise RuntimeError(f"{name} fails")
            case "hangs":
                self.virtual.sleep(HANGS)
            case _:
                pass

    async def hit_async(self, name: str) -> None:
        """Do the same to an asynchronous one."""
        if self.of.get(name) == "hangs":
            await asyncio.sleep(HANGS)
        else:
            self.hit(name)


class FaultyStore:
    """A store of a service's own, somewhere else, which can be away."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.held: dict[str, bytes] = {}

    def get(self, name: str) -> bytes | None:
        self.faults.hit("cache")
        return self.held.get(name)

    def put(self, name: str, data: bytes, ttl: float) -> None:
        self.faults.hit("cache")
        self.held[name] = data

    def delete(self, name: str) -> None:
        self.held.pop(name, None)


class Recommendations:
    """The example's recommendations: a remembered answer, a replica's, or what is popular."""

    def __init__(self, faults: Faults, kind: str, name: str) -> None:
        self.faults = faults
        self.answer = ["fresh"]
        self.breaker = circuit_breaker(fail_max=1000)
        dependency = Dependency(
            name,
            failures=(ConnectionError, TimeoutError, RuntimeError),
            timeout=1,
            breaker=self.breaker,
        )
        from_replica = self.from_replica if kind == "threads" else self.from_replica_async
        popular = self.popular if kind == "threads" else self.popular_async
        store = FaultyStore(faults)
        tiers = (
            cached(ttl=3600, key="rec:{user_id}", store=store, store_timeout=0.1),
            failover(from_replica, timeout=1),
            default(popular, timeout=1),
        )
        ask = self.ask if kind == "threads" else self.ask_async
        self.call: Any = dependency.with_fallback(*tiers)(ask)

    def ask(self, user_id: str) -> list[str]:
        self.faults.hit("service")
        return self.answer

    async def ask_async(self, user_id: str) -> list[str]:
        await self.faults.hit_async("service")
        return self.answer

    def from_replica(self, user_id: str) -> list[str]:
        self.faults.hit("replica")
        return ["replica"]

    async def from_replica_async(self, user_id: str) -> list[str]:
        await self.faults.hit_async("replica")
        return ["replica"]

    def popular(self) -> list[str]:
        self.faults.hit("default")
        return ["popular"]

    async def popular_async(self) -> list[str]:
        await self.faults.hit_async("default")
        return ["popular"]


def best_left(service: str, cache: str, replica: str, popular: str) -> tuple[list[str], str] | None:
    """Return the best answer that is left and the tier that serves it, or None if there is none."""
    remembered = {"has an answer": ["remembered"], "has an empty list": []}
    if service == "well":
        return ["fresh"], ""
    if cache in remembered:
        return remembered[cache], "cached"
    if replica == "well":
        return ["replica"], "failover"
    if popular == "well":
        return ["popular"], "default"
    return None


def called(virtual: VirtualTime, kind: str, function: Any, *args: Any) -> Any:
    return function(*args) if kind == "threads" else virtual.run(function(*args))


@pytest.mark.parametrize("kind", ["threads", "asyncio"])
@pytest.mark.parametrize("service", SERVICE)
def test_the_caller_gets_the_best_answer_that_is_left(
    virtual_time: VirtualTime, kind: str, service: str
) -> None:
    """Whatever is broken together with the service, the best of what is left is served in time."""
    for number, (cache, replica, popular) in enumerate(product(CACHE, REPLICA, DEFAULT)):
        case = (service, cache, replica, popular)
        faults = Faults(virtual_time)
        recommendations = Recommendations(faults, kind, f"rec-{kind}-{service}-{number}")
        if cache in ("has an answer", "has an empty list"):
            recommendations.answer = ["remembered"] if cache == "has an answer" else []
            called(virtual_time, kind, recommendations.call, "u1")
            recommendations.answer = ["fresh"]
        faults.of = {"service": service, "cache": cache, "replica": replica, "default": popular}
        if service == "rejected":
            recommendations.breaker.force_open()
        expected = best_left(*case)
        began = virtual_time.now()
        if expected is None:
            with pytest.raises(ERRORS[service]) as caught, degradation_scope() as degraded:
                called(virtual_time, kind, recommendations.call, "u1")
            nothing_was_left(caught.value, cache, replica, popular)
            assert degraded == [], case
        else:
            with degradation_scope() as degraded:
                assert called(virtual_time, kind, recommendations.call, "u1") == expected[0], case
            assert [one.tier for one in degraded] == [expected[1]] * bool(expected[1]), case
        assert virtual_time.now() - began <= 1 + 0.2 + 1 + 1, case


def nothing_was_left(error: BaseException, *states: str) -> None:
    """Check that the original error says of every tier, in order, why it has not served."""
    notes = [note for note in error.__notes__ if ": tier " in note]
    reasons = {"refuses": "ConnectionRefusedError", "hangs": "CallTimeout"}
    assert [note.partition(": tier ")[2].split()[0] for note in notes] == [
        "cached",
        "failover",
        "default",
    ]
    assert notes[0].endswith(": NothingToServe")
    for note, state in zip(notes[1:], states[1:], strict=True):
        assert note.endswith(f": {reasons[state]}"), (note, state)
    assert error.__cause__ is not None


class FaultyOutbox:
    """The example's outbox, whose disk can be full or hang."""

    def __init__(self, faults: Faults, outbox: Outbox) -> None:
        self.faults = faults
        self.outbox = outbox
        self.register = outbox.register

    def put(self, call: NewCall) -> Receipt:
        self.faults.hit("outbox")
        return self.outbox.put(call)


@pytest.mark.parametrize("kind", ["threads", "asyncio"])
@pytest.mark.parametrize("service", SERVICE)
@pytest.mark.parametrize("outbox", ["well", "refuses", "hangs"])
def test_a_payment_is_made_queued_or_refused_with_its_own_error(
    virtual_time: VirtualTime, tmp_path: Path, kind: str, service: str, outbox: str
) -> None:
    """Whatever is broken together with payments, nobody has a receipt for what is not kept."""
    faults, name = Faults(virtual_time), f"pay-{kind}-{service}-{outbox}"
    breaker = circuit_breaker(fail_max=1000)
    payments = Dependency(
        name,
        failures=(ConnectionError, TimeoutError, RuntimeError),
        timeout=1,
        breaker=breaker,
    )
    kept = Outbox(tmp_path / "outbox.db", name=name)
    guard = payments.with_fallback(
        queued(FaultyOutbox(faults, kept), key="{order_id}", timeout=0.5)
    )

    def charge(order_id: str) -> str:
        faults.hit("service")
        return "paid"

    async def charge_async(order_id: str) -> str:
        await faults.hit_async("service")
        return "paid"

    function = guard(charge) if kind == "threads" else guard(charge_async)
    faults.of = {"service": service, "outbox": outbox}
    if service == "rejected":
        breaker.force_open()
    began = virtual_time.now()
    if service == "well":
        assert called(virtual_time, kind, function, "o1") == "paid"
    elif outbox == "well":
        assert isinstance(called(virtual_time, kind, function, "o1"), Receipt)
    else:
        with pytest.raises(ERRORS[service]) as caught:
            called(virtual_time, kind, function, "o1")
        reason = {"refuses": "ConnectionRefusedError", "hangs": "CallTimeout"}[outbox]
        assert caught.value.__notes__[-1] == (
            f"resilient: {name}: tier queued failed as well: {reason}"
        )
    assert virtual_time.now() - began <= 1 + 0.5
    assert len(kept.pending()) == (service != "well" and outbox == "well")
    kept.close()


@pytest.mark.parametrize("broken", [(), ("auth",), ("recommendations",), ("auth", "product")])
def test_the_page_of_the_example_is_the_best_that_is_left(
    virtual_time: VirtualTime, broken: tuple[str, ...]
) -> None:
    """Each part of the page degrades by itself; only without the product there is no page."""
    faults = Faults(virtual_time)
    faults.of = dict.fromkeys(broken, "refuses")
    auth = Dependency(f"auth-of-the-page-{len(broken)}-{broken}", timeout=1)

    @auth.with_fallback("guest")
    def visitor() -> str:
        faults.hit("auth")
        return "member"

    def lamp() -> str:
        faults.hit("product")
        return "lamp"

    def items() -> list[str]:
        faults.hit("recommendations")
        return ["shade"]

    def page() -> Any:
        return gather_partial(visitor=visitor, product=lamp, items=items, required={"product"})

    if "product" in broken:
        with pytest.raises(ConnectionRefusedError, match="product refuses"):
            page()
        return
    with degradation_scope() as degraded:
        found = page()
    assert found["visitor"] == ("guest" if "auth" in broken else "member")
    assert ("items" in found) == ("recommendations" not in broken)
    assert len(degraded) == len(broken)
