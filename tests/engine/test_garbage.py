"""What a failed call leaves behind: nothing that only the garbage collector would find."""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator
from contextlib import suppress
from typing import Any

import pytest

from resilient import bulkhead, cached, circuit_breaker, retry, with_fallback


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


@pytest.mark.parametrize("kind", DECORATORS)
async def test_a_failed_call_that_is_awaited_leaves_no_garbage(
    kind: str, leftovers: Callable[[], int]
) -> None:
    """It is the same in a task."""
    guarded = DECORATORS[kind](fails_async)

    async def call() -> None:
        with suppress(ConnectionError):
            await guarded()

    await call()
    leftovers()
    await call()
    assert leftovers() == 0
