"""The fast lanes and the slow lane alone: the same decisions, counts and histograms."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient import CircuitBreaker, bulkhead, cached, pipeline_of, retry, with_fallback
from resilient.engine import clock
from resilient.engine.strategy import Strategy
from resilient.testing import VirtualTime

numbers = count(1)


class Awake(Strategy):
    """A strategy that is never at rest, and lets nothing be decided before it."""

    @property
    def at_rest(self) -> bool:
        """Never."""
        return False


#: What one call does: it takes so many seconds, and then fails or answers.
Step = tuple[float, bool]
#: Calls, with seconds that pass before each.
History = list[tuple[float, Step]]


def strategies_of(kind: str, name: str) -> list[Strategy]:
    """Return the strategies of one kind of stack."""
    breakers: dict[str, dict[str, Any]] = {
        "rate": {"failure_rate": 0.5, "window": 10, "min_calls": 4},
        "seconds": {"failure_rate": 0.5, "window": "5s", "min_calls": 4},
        "in a row": {"fail_max": 3},
        "slow": {"slow_call_rate": 0.5, "slow_call_seconds": 0.5, "window": 8, "min_calls": 4},
        "ramp": {"fail_max": 2, "ramp": True},
        "shadow": {"fail_max": 2, "mode": "shadow"},
    }
    rules = breakers.get(kind, {"fail_max": 3})
    breaker = CircuitBreaker(name, reset_timeout=2, **rules)
    again = retry(on=ConnectionError, attempts=2, wait_initial=0)
    stacks: dict[str, list[Strategy]] = {
        "fallback": [with_fallback("instead"), again, breaker],
        "list": [with_fallback(["instead"]), breaker],
        "excluded": [with_fallback("instead", exclude=OSError), breaker],
        "made": [with_fallback(lambda: "made"), breaker],
        "cached": [with_fallback(cached(ttl=9), "instead"), again, breaker],
        "bulkhead": [with_fallback("instead"), bulkhead(2), breaker],
    }
    return stacks.get(kind, [breaker])


class Told:
    """All that can be seen of a guarded function after each call of a history."""

    def __init__(self, kind: str, *, awake: bool, is_async: bool = False) -> None:
        name = f"lanes {next(numbers)}"
        self.step: Step = (0.0, True)
        strategies = strategies_of(kind, name)
        self.breaker = next(one for one in strategies if isinstance(one, CircuitBreaker))
        function: Callable[[], Any] = self.dependency_async if is_async else self.dependency
        for strategy in reversed([Awake(), *strategies] if awake else strategies):
            function = strategy(function)
        self.guarded = function
        self.made = 0

    def dependency(self) -> str:
        """Take the time of this step, and fail or answer."""
        clock.current.sleep(self.step[0])
        return self.answer()

    async def dependency_async(self) -> str:
        """Do the same in a task."""
        await asyncio.sleep(self.step[0])
        return self.answer()

    def answer(self) -> str:
        """Fail or answer, as this step says."""
        self.made += 1
        if not self.step[1]:
            raise ConnectionError("down")
        return f"answer {self.made}"

    def after(self, step: Step) -> tuple[object, ...]:
        """Make a call, and return what it came to with the state after it."""
        self.step = step
        try:
            return self.state_with(self.guarded())
        except Exception as error:
            return self.state_with((type(error), getattr(error, "retry_after", None)))

    async def after_async(self, step: Step) -> tuple[object, ...]:
        """Do the same and await it."""
        self.step = step
        try:
            return self.state_with(await self.guarded())
        except Exception as error:
            return self.state_with((type(error), getattr(error, "retry_after", None)))

    def state_with(self, came_to: object) -> tuple[object, ...]:
        """Return what a call came to with the state after it."""
        circuit = self.breaker
        return came_to, self.made, circuit.current_state, circuit.retry_after

    def through(self, history: History, virtual: VirtualTime) -> list[object]:
        """Make all calls, and return what was seen after each and what was counted in the end."""
        seen: list[object] = []
        for pause, step in history:
            virtual.advance(pause)
            seen.append(self.after(step))
        return [*seen, self.counted()]

    async def through_async(self, history: History, virtual: VirtualTime) -> list[object]:
        """Do the same in a task."""
        seen: list[object] = []
        for pause, step in history:
            virtual.advance(pause)
            seen.append(await self.after_async(step))
        return [*seen, self.counted()]

    def counted(self) -> tuple[object, ...]:
        """Return all counts, settled."""
        measures = pipeline_of(self.guarded).measures
        measures.settle()
        breaker = self.breaker
        return (
            measures.calls,
            measures.attempts,
            measures.retries,
            measures.rejections,
            measures.fallbacks,
            measures.durations.counts,
            pytest.approx(measures.durations.sum),
            measures.detection.counts,
            measures.recovery.counts,
            breaker.failure_rate,
            breaker.slow_call_rate,
            breaker.fail_counter,
            breaker.transitions,
        )


ALONE = ("rate", "seconds", "in a row", "slow", "ramp", "shadow")
STACKED = ("fallback", "list", "excluded", "made", "cached", "bulkhead")

steps = st.tuples(st.sampled_from([0.0, 0.0004, 0.003, 0.6]), st.booleans())
histories = st.lists(st.tuples(st.sampled_from([0.0, 0.0, 0.1, 1.0, 2.5, 7.0]), steps), max_size=60)


@pytest.mark.parametrize("kind", [*ALONE, *STACKED])
@settings(deadline=None)
@given(history=histories)
def test_both_lanes_decide_and_count_alike(kind: str, history: History) -> None:
    """After each call of a random history, nothing that can be seen tells the lanes apart."""
    told: list[list[object]] = []
    for awake in (False, True):
        with VirtualTime(start=1000.0) as virtual:
            told.append(Told(kind, awake=awake).through(history, virtual))
    assert told[0] == told[1]


@pytest.mark.parametrize("kind", [*ALONE, *STACKED])
@settings(deadline=None, max_examples=30)
@given(history=histories)
def test_both_lanes_decide_and_count_alike_for_what_is_awaited(kind: str, history: History) -> None:
    """After each awaited call of a random history, nothing tells the lanes apart either."""
    told: list[list[object]] = []
    for awake in (False, True):
        with VirtualTime(start=1000.0) as virtual:
            one = Told(kind, awake=awake, is_async=True)
            told.append(virtual.run(one.through_async(history, virtual)))
    assert told[0] == told[1]


@pytest.mark.parametrize("kind", ["rate", "fallback", "list"])
def test_a_history_longer_than_the_journals_is_counted_to_the_last_call(kind: str) -> None:
    """Thousands of successes, and thousands of refusals, add up in both lanes alike."""
    told: list[object] = []
    for awake in (False, True):
        with VirtualTime(start=1000.0) as virtual:
            one = Told(kind, awake=awake)
            for _ in range(1000):
                one.after((0.0, True))
            for _ in range(20):
                one.after((0.0, False))
            for _ in range(1000):
                one.after((0.0, False))
            virtual.advance(2.0)
            one.after((0.0, True))
            told.append(one.counted())
    assert told[0] == told[1]
