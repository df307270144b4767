"""A dependency that does as it is told, and the ways in which a circuit breaker can guard it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from typing import Any

from resilient import CircuitBreaker, CircuitOpen
from resilient.testing import VirtualTime

WAYS = ("decorated", "decorated async", "call", "call async", "block", "async block")
"""How a breaker can be put around a call; what holds for a circuit holds for each of them."""


# A test that fails keeps its breakers alive, and with them the names that they would take.
_numbers = count(1)


class Upstream:
    """Answers, fails or takes long, in virtual time, and counts the calls that reach it."""

    def __init__(self, time: VirtualTime) -> None:
        self.time = time
        self.error: BaseException | None = None
        self.seconds = 0.0
        self.calls = 0

    def answer(self) -> str:
        """Be called from a thread."""
        self.calls += 1
        if self.seconds:
            self.time.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        return "answer"

    async def answer_async(self) -> str:
        """Be called from a task."""
        self.calls += 1
        if self.seconds:
            await asyncio.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        return "answer"

    def guarded(self, breaker: CircuitBreaker, way: str = "decorated") -> Callable[[], Any]:
        """Return a function that calls this dependency once, guarded by `breaker`, and returns."""
        breaker.named(f"upstream {next(_numbers)}")
        if way == "decorated":
            return breaker(self.answer)
        if way == "call":
            return lambda: breaker.call(self.answer)
        if way == "block":

            def within_block() -> str:
                with breaker:
                    return self.answer()

            return within_block
        decorated = breaker(self.answer_async)

        async def main() -> Any:
            if way == "decorated async":
                return await decorated()
            if way == "call async":
                return await breaker.call(self.answer_async)
            async with breaker:
                return await self.answer_async()

        return lambda: self.time.run(main())

    def down(self, message: str = "down") -> None:
        """Fail from now on."""
        self.error = ConnectionError(message)

    def up(self) -> None:
        """Answer from now on."""
        self.error = None


def outcome_of(call: Callable[[], Any]) -> str:
    """Make a call and say what it came to: "answered", "rejected" or the name of the error."""
    try:
        call()
    except CircuitOpen:
        return "rejected"
    except Exception as error:
        return type(error).__name__
    return "answered"


def outcomes_of(call: Callable[[], Any], times: int) -> list[str]:
    """Make a call several times and return what each came to."""
    return [outcome_of(call) for _ in range(times)]


def rejection_of(call: Callable[[], Any]) -> CircuitOpen:
    """Make a call that is to be rejected and return the rejection."""
    try:
        call()
    except CircuitOpen as rejected:
        return rejected
    raise AssertionError("the call was let through")
