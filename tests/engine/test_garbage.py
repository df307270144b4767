"""What a failed call leaves behind: nothing that only the garbage collector would find."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Generator
from contextlib import suppress
from typing import Any

import pytest

from resilient import (
    CallRejected,
    CallTimeout,
    bulkhead,
    cached,
    circuit_breaker,
    deadline,
    failover_to,
    retry,
    timeout,
    with_fallback,
)
from resilient.engine.strategy import Strategy


@pytest.fixture
def leftovers() -> Generator[Callable[[], int]]:
    """Return what counts the objects that are left, while nothing else collects them."""
    gc.collect()
    gc.disable()
    yield gc.collect
    gc.enable()


def fails() -> str:
    """Fail, as a client within a client does."""
    return fails_within()


def fails_within() -> str:
    """Fail."""
    raise ConnectionError("down")


async def fails_async() -> str:
    """Fail when it is awaited."""
    return fails_within()


DECORATORS: dict[str, Callable[[Any], Any]] = {
    "retry": retry(on=ConnectionError, wait_initial=0, budget=None),
    "fallback": lambda function: with_fallback("instead")(DECORATORS["retry"](function)),
    "cached": with_fallback(cached(ttl=1), "instead"),
    "bulkhead": bulkhead(2),
    "timeout": timeout(5),
    "tier that fails": with_fallback(fails_within),
    "equivalent that fails": failover_to(fails_within, on=ConnectionError),
    "breaker": lambda function: circuit_breaker(fail_max=9)(DECORATORS["retry"](function)),
}


@pytest.mark.parametrize("kind", DECORATORS)
def test_a_failed_call_leaves_no_garbage(kind: str, leftovers: Callable[[], int]) -> None:
    """Errors refer to the frames that they came through, and none of ours refers to the error."""
    guarded = DECORATORS[kind](fails)

    def call() -> None:
        with suppress(ConnectionError):
            guarded()

    call()
    leftovers()
    call()
    assert leftovers() == 0


async def left_by(guarded: Callable[[], Any], leftovers: Callable[[], int]) -> int:
    """Return what a second failing call leaves behind: the first one fills what is kept."""

    async def call() -> None:
        with suppress(ConnectionError):
            await guarded()

    await call()
    leftovers()
    await call()
    return leftovers()


@pytest.mark.parametrize("kind", DECORATORS)
async def test_a_failed_call_that_is_awaited_leaves_no_garbage(
    kind: str, leftovers: Callable[[], int]
) -> None:
    """It is the same in a task."""
    guarded = DECORATORS[kind](fails_async)

    assert await left_by(guarded, leftovers) == 0


@pytest.mark.parametrize("kind", ["retry", "breaker", "timeout"])
async def test_a_failed_call_that_turns_out_asynchronous_leaves_no_garbage(
    kind: str, leftovers: Callable[[], int]
) -> None:
    """It is the same for the coroutine that a plain function returns."""

    def hand_over() -> Any:
        return fails_async()

    guarded = DECORATORS[kind](hand_over)

    assert await left_by(guarded, leftovers) == 0


@pytest.mark.parametrize("limit", [timeout(0.001), deadline(0.001)], ids=["timeout", "deadline"])
async def test_a_call_that_is_cancelled_at_its_limit_leaves_no_garbage(
    limit: Callable[[Any], Any], leftovers: Callable[[], int]
) -> None:
    """On the fast lane and on the other: an error of ours is like one of the callee's."""
    guarded = limit(asyncio.sleep)

    async def call() -> None:
        with suppress(CallTimeout):
            await guarded(60)

    await call()
    leftovers()
    await call()
    assert leftovers() == 0


def opened() -> Strategy:
    """Return a breaker that is open."""
    breaker = circuit_breaker(fail_max=1)
    breaker.force_open()
    return breaker


def taken() -> Strategy:
    """Return a bulkhead in which there is no place."""
    full = bulkhead(1)
    full.take()
    return full


BLOCKS: dict[str, Callable[[], Strategy]] = {
    "fails": lambda: circuit_breaker(fail_max=9),
    "opens its circuit": lambda: circuit_breaker(
        fail_max=1, reset_timeout=0, throw_new_error_on_trip=True
    ),
    "is rejected by a circuit": opened,
    "is rejected by a bulkhead": taken,
}


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("kind", BLOCKS)
async def test_a_block_that_fails_leaves_no_garbage(
    kind: str, is_async: bool, leftovers: Callable[[], int]
) -> None:
    """Whether it does so by itself or is not begun at all."""
    guard = BLOCKS[kind]()

    async def call() -> None:
        with suppress(ConnectionError, CallRejected):
            if is_async:
                async with guard:
                    fails()
            else:
                with guard:
                    fails()

    await call()
    leftovers()
    await call()
    assert leftovers() == 0
