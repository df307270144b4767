"""Calls that overlap, in virtual time, each of which goes on when the test says so.

They are tasks of one event loop whose clock is virtual. Between two actions of a test the loop
runs until nothing is left to do; time passes only where a test lets it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, final

from resilient.testing import VirtualTime
from resilient.testing.virtual import VirtualLoop

__all__ = ["TICK", "Excluded", "Failed", "Running", "World"]

#: What passes before each action, so that no two of them are at one moment. A power of two, so
#: that sums of times are exact, and one that the rounding to ten nanoseconds keeps.
TICK = 1 / 256
#: Enough rounds of the loop for whatever an action sets off.
ROUNDS = 8


class Failed(ConnectionError):
    """What a call comes to that fails."""


class Excluded(LookupError):
    """What a call comes to that says nothing against the dependency."""


@final
class Running:
    """One call: whether it has reached the dependency, and what it came to if it has ended."""

    def __init__(self) -> None:
        self.reached = False
        self.task: asyncio.Task[Any] | None = None
        self._end: asyncio.Future[Any] | None = None

    async def dependency(self) -> Any:
        """Be the dependency: wait to be told what to answer."""
        self.reached = True
        self._end = asyncio.get_running_loop().create_future()
        return await self._end

    @property
    def cancelled(self) -> bool:
        """Whether the dependency was told to stop before it was told what to answer."""
        return self._end is not None and self._end.cancelled()

    def end(self, answer: object) -> None:
        """Have the dependency answer, or fail if `answer` is an error."""
        assert self._end is not None
        if isinstance(answer, Exception):
            self._end.set_exception(answer)
        else:
            self._end.set_result(answer)

    @property
    def ended(self) -> bool:
        """Whether its caller has an answer, or an error, or has been cancelled."""
        assert self.task is not None
        return self.task.done()

    @property
    def error(self) -> BaseException | None:
        """The error that its caller got, a cancellation included; None if it got an answer."""
        assert self.task is not None
        if self.task.cancelled():
            return asyncio.CancelledError()
        return self.task.exception()

    @property
    def answer(self) -> Any:
        """What its caller got."""
        assert self.task is not None
        return self.task.result()


@final
class World:
    """A virtual clock, a loop, and the calls on it."""

    def __init__(self) -> None:
        self.time = VirtualTime(start=1024.0)
        self.time.__enter__()
        self.loop = VirtualLoop(self.time)
        self.calls: list[Running] = []

    @property
    def now(self) -> float:
        """The virtual time."""
        return self.time.now()

    def begin(
        self, guarded: Callable[..., Coroutine[Any, Any, Any]], *args: Any, settle: bool = True
    ) -> Running:
        """Call `guarded` with a call that is going to be its dependency."""
        running = Running()
        running.task = self.loop.create_task(guarded(running, *args))
        self.calls.append(running)
        if settle:
            self.settle()
        return running

    def settle(self) -> None:
        """Let everything go on that can without any time."""

        async def rounds() -> None:
            for _ in range(ROUNDS):
                await asyncio.sleep(0)

        self.loop.run_until_complete(rounds())

    def step(self) -> None:
        """Let every task go on to where it waits next, and no further."""
        self.loop.run_until_complete(asyncio.sleep(0))

    def tick(self) -> float:
        """Let the moment pass that lies between two actions; return the new time."""
        self.time.advance(TICK)
        return self.time.now()

    def pass_time(self, seconds: float) -> None:
        """Let `seconds` pass, with all that is due on the way."""
        self.loop.run_until_complete(asyncio.sleep(seconds))
        self.settle()

    def close(self) -> None:
        """Cancel what is left, and give the library its own clock back."""
        try:
            for running in self.calls:
                assert running.task is not None
                running.task.cancel()
            self.settle()
            for running in self.calls:
                if running.ended:  # taken note of, as asyncio would complain of an error unseen
                    assert running.error is not self
            self.loop.close()
        finally:
            self.time.__exit__(None, None, None)
