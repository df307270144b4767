"""The errors of users come out as they were, of whatever kind they are and wherever they happen."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from resilient import (
    Dependency,
    bulkhead,
    cached,
    circuit_breaker,
    deadline,
    failover,
    retry,
    retrying,
    timeout,
    with_fallback,
)
from resilient.testing import VirtualTime
from tests.doubles import each

# Errors to whose attributes nothing can be assigned


@dataclasses.dataclass(frozen=True)
class Declined(Exception):
    """An error as a frozen data class: Python itself can give it a traceback, and others cannot."""

    code: int


def decline() -> str:
    raise Declined(51)


async def decline_async() -> str:
    raise Declined(51)


GUARDS: dict[str, Any] = {
    "bulkhead": bulkhead(1),
    "breaker": circuit_breaker("declining", fail_max=100),
    "limit": timeout(5),
    "deadline": deadline(5),
    "retry": retry(on=OSError),
    "dependency": Dependency("declining", timeout=5, max_concurrent=1),
}


@each("guard", GUARDS)
def test_a_frozen_error_is_raised_as_it_was(guard: Any, virtual_time: VirtualTime) -> None:
    """Time and again, so that no permit is kept for it."""
    guarded, guarded_async = guard(decline), guard(decline_async)
    for _ in range(3):
        with pytest.raises(Declined, match="51"):
            guarded()
        with pytest.raises(Declined, match="51"):
            virtual_time.run(guarded_async())


def test_a_frozen_error_is_tried_again_and_has_a_note(virtual_time: VirtualTime) -> None:
    """It may pass like any other, and says how often it has not."""
    with pytest.raises(Declined) as raised:
        retry(on=Declined, attempts=2)(decline)()
    assert "2 attempts" in raised.value.__notes__[0]

    def decline_in_blocks() -> None:
        for attempt in retrying(on=Declined, attempts=2):
            with attempt:
                numbers.append(attempt.number)
                decline()

    numbers: list[int] = []
    with pytest.raises(Declined):
        decline_in_blocks()
    assert numbers == [1, 2]


def test_a_frozen_error_says_what_failed_instead_of_it_as_well() -> None:
    """The error of the last tier is its cause."""

    def replica() -> str:
        raise LookupError("nothing here")

    with pytest.raises(Declined) as raised:
        with_fallback(failover(replica))(decline)()
    assert isinstance(raised.value.__cause__, LookupError)


def test_a_frozen_error_is_an_answer_that_can_be_kept() -> None:
    """A cache that remembers which errors are answers remembers these."""
    made = []

    @with_fallback(cached(ttl=60, fresh_for=60, key="{number}", negative=Declined, negative_for=60))
    def ask(number: int) -> str:
        made.append(number)
        raise Declined(number) from LookupError("no such card")

    for _ in range(3):
        with pytest.raises(Declined, match="7") as raised:
            ask(7)
        assert isinstance(raised.value.__cause__, LookupError)
    assert made == [7]


# What led to an error


def fail_on_the_way() -> str:
    try:
        raise LookupError("first")
    except LookupError:
        raise KeyError("second")  # noqa: B904 - what led to it is told by Python


async def fail_on_the_way_async() -> str:
    return fail_on_the_way()


def origins(error: BaseException | None) -> list[str]:
    """Return the kinds of errors of which each has led to the one before."""
    found = []
    while error is not None:
        found.append(type(error).__name__)
        error = error.__context__
    return found


def origins_beneath_another(call: Callable[[], object]) -> list[str]:
    """Return them for the error of `call`, made where its caller handles another error."""
    try:
        try:
            raise ConnectionError("the caller's")
        except ConnectionError:
            call()
    except KeyError as error:
        return origins(error)
    return []


async def origins_beneath_another_async(call: Callable[[], Any]) -> list[str]:
    """Return the same for a call that is awaited."""
    try:
        try:
            raise ConnectionError("the caller's")
        except ConnectionError:
            await call()
    except KeyError as error:
        return origins(error)
    return []


@each("guard", GUARDS)
def test_an_error_keeps_what_led_to_it_where_its_caller_handles_another(
    guard: Any, virtual_time: VirtualTime
) -> None:
    """A call from an `except` clause does not put that clause's error in place of the origin."""
    led = ["KeyError", "LookupError", "ConnectionError"]
    guarded_async = guard(fail_on_the_way_async)

    assert origins_beneath_another(guard(fail_on_the_way)) == led
    assert virtual_time.run(origins_beneath_another_async(guarded_async)) == led


def test_a_single_call_keeps_what_led_to_its_error(virtual_time: VirtualTime) -> None:
    """It is the same for the `call` of a dependency."""
    shop = Dependency("calls that fail on the way")
    led = ["KeyError", "LookupError", "ConnectionError"]

    assert origins_beneath_another(lambda: shop.call(fail_on_the_way)) == led
    single = origins_beneath_another_async(lambda: shop.call(fail_on_the_way_async))
    assert virtual_time.run(single) == led


def test_an_error_on_a_worker_keeps_what_led_to_it() -> None:
    """What its caller was handling is not known there, and is not put in place of the origin."""
    limited = timeout(5)(fail_on_the_way)
    assert origins_beneath_another(limited) == ["KeyError", "LookupError"]


def test_an_error_without_an_origin_has_that_of_its_place() -> None:
    """What its caller was handling, as Python does it."""

    def fail() -> None:
        raise KeyError("alone")

    assert origins_beneath_another(retry(on=OSError)(fail)) == ["KeyError", "ConnectionError"]


# The end of the stack


def below(depth: int, call: Callable[[], object]) -> object:
    """Make `call` so many frames further down."""
    return below(depth - 1, call) if depth else call()


@pytest.fixture
def short_stack() -> Iterator[None]:
    """A stack that is soon at its end, for calls that go there many times."""
    usual = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 250)
    yield
    sys.setrecursionlimit(usual)


@pytest.mark.usefixtures("short_stack")
@pytest.mark.parametrize("outer", [(), (with_fallback("instead"), retry(on=OSError))])
@pytest.mark.parametrize("inner", [(), (timeout(5),), (bulkhead(100_000),)])
def test_a_recursion_without_end_keeps_no_permits(
    outer: Any, inner: Any, virtual_time: VirtualTime
) -> None:
    """Wherever the stack ends, also amid our own frames, each call gives its permit back."""
    limit = bulkhead(100_000)

    def guard(function: Any) -> Any:
        for one in (*reversed(inner), limit, *reversed(outer)):
            function = one(function)
        return function

    @guard
    def call_itself(levels: int) -> Any:
        return call_itself(levels - 1) if levels else "at the end"

    @guard
    async def call_itself_async(levels: int) -> Any:
        return await call_itself_async(levels - 1) if levels else "at the end"

    async def main(levels: int) -> Any:
        return await call_itself_async(levels)

    for _ in range(20):  # Python counts less towards the end of the stack once code is warm
        assert call_itself(2) == virtual_time.run(main(2)) == "at the end"
    for depth in range(4):
        for call in (lambda: call_itself(10_000), lambda: asyncio.run(main(10_000))):
            with suppress(RecursionError):
                below(depth, call)
        assert limit.in_flight == 0
