"""The rate limit, and a model of it: a bucket of tokens, in fractions."""

from __future__ import annotations

from fractions import Fraction
from itertools import count
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from resilient import Pipeline, RateLimited, rate_limit
from tests.generated import examples
from tests.models.world import TICK, Running, World

numbers = count(1)


class Model:
    """Tokens come evenly; a call that waits has taken its own already, so there may be a debt."""

    def __init__(self, limit: int, per: int, burst: int, max_wait: float, now: float) -> None:
        self.rate = Fraction(limit, per)
        self.burst = burst
        self.max_wait = Fraction(max_wait)
        self.tokens = Fraction(burst)
        self.filled = Fraction(now)

    def comes(self, now: float) -> tuple[bool, Fraction]:
        """Return whether the call may be made, and the seconds until it, or until another may."""
        self.tokens = min(self.burst, self.tokens + (Fraction(now) - self.filled) * self.rate)
        self.filled = Fraction(now)
        wait = max(Fraction(0), (1 - self.tokens) / self.rate)
        if wait > self.max_wait:
            return False, wait
        self.tokens -= 1
        return True, wait


class RateLimits(RuleBasedStateMachine):
    """The real limit and the model, through the same calls at the same times."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        #: The calls that wait, and when each is to reach the dependency.
        self.waiting: list[tuple[Running, float]] = []

    @initialize(
        limit=st.sampled_from([1, 2, 4, 8]),
        per=st.sampled_from([1, 2, 16]),
        burst=st.sampled_from([None, 1, 3]),
        max_wait=st.sampled_from([0.0, 0.5, 2.0]),
    )
    def made(self, limit: int, per: int, burst: int | None, max_wait: float) -> None:
        self.model = Model(limit, per, burst or limit, max_wait, self.world.now)
        strategy = rate_limit(limit, per, burst=burst, max_wait=max_wait)

        @Pipeline(strategy, name=f"model of a rate limit {next(numbers)}")
        async def guarded(running: Running) -> Any:
            running.reached = True
            return self.world.now

        self.guarded = guarded

    @rule(number=st.integers(1, 5))
    def call(self, number: int) -> None:
        for _ in range(number):
            now = self.world.tick()
            may, wait = self.model.comes(now)
            call = self.world.begin(self.guarded)
            if not may:
                assert isinstance(call.error, RateLimited)
                assert call.error.retry_after == wait
            elif wait:
                assert not call.ended
                self.waiting.append((call, now + float(wait)))
            else:
                assert call.answer == now
        self.same()

    def same(self) -> None:
        for call, when in [*self.waiting]:
            if when <= self.world.now:
                assert call.answer == when
                self.waiting.remove((call, when))
            else:
                assert not call.reached

    @precondition(lambda self: self.waiting)
    @rule(which=st.integers(0, 9))
    def cancel(self, which: int) -> None:
        """The token is spent: it was promised, and others have been told when theirs come."""
        self.world.tick()
        call, _ = self.waiting.pop(which % len(self.waiting))
        assert call.task is not None
        call.task.cancel()
        self.world.settle()
        assert call.ended
        assert not call.reached
        self.same()

    @rule(seconds=st.sampled_from([0.0625, 0.25, 0.5, 1.0, 3.0, 40.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.pass_time(seconds - TICK)
        self.same()

    def teardown(self) -> None:
        self.world.close()


def test_a_rate_limit_does_what_its_page_says() -> None:
    """Through any history of calls, each is made, made to wait or rejected as the bucket has it."""
    run_state_machine_as_test(RateLimits, settings=examples(25))
