"""The drivers for threads and for asyncio: the same trace of the same history, in virtual time.

`tests/engine/test_lanes_agree.py` compares the fast lanes with the slow one, on threads. Here the
same pipelines guard a plain function and an asynchronous one.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count, cycle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient import (
    CallTimeout,
    CircuitBreaker,
    MemoryStore,
    Pipeline,
    bulkhead,
    cached,
    pipeline_of,
    rate_limit,
    retry,
    subscribe,
    timeout,
    unsubscribe,
    with_fallback,
)
from resilient.engine.strategy import Strategy
from resilient.testing import VirtualTime
from tests.generated import examples
from tests.models.world import Excluded, Failed

numbers = count(1)

#: Each part of a pipeline, outermost first, with the forms that it may have.
PARTS: list[list[Callable[[str], Strategy] | None]] = [
    [
        None,
        lambda _: with_fallback("instead"),
        lambda _: with_fallback(lambda: "made", exclude=Excluded),
        lambda _: with_fallback(cached(ttl=4, store=MemoryStore()), "instead"),
        lambda _: with_fallback(cached(ttl=9, fresh_for=2, jitter=0, store=MemoryStore())),
    ],
    [None, lambda _: timeout(2.125)],
    [None, lambda _: bulkhead(1)],
    [
        None,
        lambda _: retry(on=(ConnectionError, TimeoutError), attempts=3),
        lambda _: retry(on=ConnectionError, attempts=4, wait=lambda state: 0.5),
    ],
    [
        None,
        lambda name: CircuitBreaker(name, fail_max=2, reset_timeout=1, exclude=[Excluded]),
        lambda name: CircuitBreaker(name, failure_rate=0.5, window="4s", min_calls=2),
        lambda name: CircuitBreaker(name, fail_max=2, ramp=True),
        lambda name: CircuitBreaker(
            name, slow_call_rate=0.5, slow_call_seconds=0.5, window=4, reset_timeout=1
        ),
        lambda name: CircuitBreaker(name, fail_max=1, mode="shadow"),
    ],
    # A turn comes at no moment at which something else is due: which is first then is rounding.
    [None, lambda _: rate_limit(2, per=1.0137), lambda _: rate_limit(1, per=1.0137, max_wait=2)],
    [None, lambda _: timeout(0.75)],
]

#: Which form of each part.
Stack = tuple[int, ...]
stacks = st.tuples(*(st.integers(0, len(forms) - 1) for forms in PARTS))


@dataclass(frozen=True)
class Attempt:
    """How long an attempt takes, and what it comes to."""

    seconds: float
    error: type[Exception] | None


attempts = st.builds(
    Attempt,
    st.sampled_from([0.0, 0.0, 0.25, 0.5, 1.0, 3.0]),
    st.sampled_from([None, None, Failed, Failed, Excluded]),
)
pauses = st.lists(st.sampled_from([0.0, 0.0, 0.25, 1.0, 5.0]), min_size=1, max_size=15)


def rounded(value: Any) -> Any:
    """Leave out what is lost where a moment is the sum of other pauses, with the same end."""
    return round(value, 6) if isinstance(value, float) else value


class Trace:
    """All that is seen of a history: what calls come to and when, events, and counts."""

    def __init__(self, stack: Stack, script: list[Attempt]) -> None:
        self.name = f"drivers {next(numbers)}"
        forms = [form for forms, which in zip(PARTS, stack, strict=True) if (form := forms[which])]
        self.pipeline = Pipeline(*(form(self.name) for form in forms), name=self.name)
        self.script = cycle(script)
        self.seen: list[tuple[Any, ...]] = []
        random.seed(5)  # both drivers draw the same pauses
        self.time = VirtualTime(start=1024.0)

    def now(self) -> float:
        return round(self.time.now(), 6)

    def listen(self, name: str, fields: Mapping[str, Any]) -> None:
        known = {key: rounded(value) for key, value in fields.items() if key != "dependency"}
        self.seen.append((self.now(), name, known))

    def came_to(self, answer: object) -> None:
        if isinstance(answer, Exception):
            notes = [note.partition(", stopped by: ") for note in getattr(answer, "__notes__", ())]
            answer = (
                type(answer),
                rounded(getattr(answer, "retry_after", None)),
                # Of a task that was too slow, it is its cancellation.
                None if isinstance(answer, CallTimeout) else type(answer.__cause__),
                [(note.partition(": ")[2].partition(": ")[2], why) for note, _, why in notes],
            )
        self.seen.append((self.now(), "came to", answer))

    def made(self, attempt: Attempt) -> str:
        self.seen.append((self.now(), "made", attempt))
        if attempt.error is not None:
            raise attempt.error
        return f"answer {len(self.seen)}"

    def on_threads(self, pauses: list[float]) -> list[Any]:
        @self.pipeline
        def dependency() -> str:
            attempt = next(self.script)
            self.time.sleep(attempt.seconds)
            return self.made(attempt)

        subscribe(self.listen)
        try:
            with self.time:
                for pause in pauses:
                    self.time.advance(pause)
                    try:
                        self.came_to(dependency())
                    except Exception as error:
                        self.came_to(error)
                return [*self.seen, self.counted(dependency)]
        finally:
            unsubscribe(self.listen)

    def on_asyncio(self, pauses: list[float]) -> list[Any]:
        @self.pipeline
        async def dependency() -> str:
            attempt = next(self.script)
            if attempt.seconds:
                await asyncio.sleep(attempt.seconds)
            return self.made(attempt)

        async def main() -> None:
            for pause in pauses:
                if pause:
                    await asyncio.sleep(pause)
                try:
                    self.came_to(await dependency())
                except Exception as error:
                    self.came_to(error)

        subscribe(self.listen)
        try:
            with self.time:
                self.time.run(main())
                return [*self.seen, self.counted(dependency)]
        finally:
            unsubscribe(self.listen)

    def counted(self, guarded: Callable[..., Any]) -> tuple[Any, ...]:
        measures = pipeline_of(guarded).measures
        measures.settle()
        breakers = [one for one in self.pipeline.strategies if isinstance(one, CircuitBreaker)]
        return (
            measures.calls,
            measures.attempts,
            measures.retries,
            measures.rejections,
            measures.fallbacks,
            list(measures.durations.counts),
            pytest.approx(measures.durations.sum),
            list(measures.detection.counts),
            list(measures.recovery.counts),
            list(measures.stale_ages.counts),
            [(one.current_state, one.transitions, one.failure_rate) for one in breakers],
        )


@examples(60)
@given(stack=stacks, script=st.lists(attempts, min_size=1, max_size=12), pauses=pauses)
def test_threads_and_asyncio_make_the_same_of_the_same_history(
    stack: Stack, script: list[Attempt], pauses: list[float]
) -> None:
    """Outcomes, times, attempts, events and counts are the same, in the same order."""
    assert Trace(stack, script).on_threads(pauses) == Trace(stack, script).on_asyncio(pauses)
