"""The cache, and a model of it: what is stored, who shares a call, and who is served what."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from resilient import MemoryStore, cache_of, cached, degradation_scope, with_fallback
from tests.generated import examples
from tests.models.world import Excluded, Failed, Running, World

numbers = count(1)
KEYS = ["a", "b", "c"]


@dataclass
class Made:
    """A call that is being made, and who waits for what it comes to."""

    key: str
    dependency: Running | None
    callers: list[Running] = field(default_factory=list)
    #: Whether it was begun for nobody, to have a fresh answer; who joins it may leave it.
    refreshes: bool = False

    @property
    def is_wanted(self) -> bool:
        return bool(self.callers) or self.refreshes


@dataclass
class Model:
    """What the page says of `cached`, with `fresh_for`, `refresh_ahead` and `negative`."""

    ttl: float
    fresh_for: float
    refresh_ahead: float
    negative_for: float

    stored: dict[str, tuple[Any, float]] = field(default_factory=dict)
    errors: dict[str, tuple[Exception, float]] = field(default_factory=dict)
    made: list[Made] = field(default_factory=list)

    @property
    def shares(self) -> bool:
        """Whether callers who miss share one call."""
        return self.fresh_for > 0 or self.negative_for > 0

    def stands_in(self, key: str, now: float, error: Exception) -> Any:
        """Return what is served for a call that failed: an answer, or its error."""
        answer, stored = self.stored.get(key, (error, now))
        return answer if now - stored <= self.ttl else error

    def asked(self, key: str, now: float) -> tuple[Any, bool, bool]:
        """Return what is served at once, whether anything is, and whether a new call is made."""
        if key in self.errors and now - self.errors[key][1] <= self.negative_for:
            return self.stands_in(key, now, self.errors[key][0]), True, False
        if self.shares and key in self.stored:
            answer, stored = self.stored[key]
            if now - stored <= self.fresh_for:
                is_due = self.refresh_ahead > 0 and now - stored > (
                    self.fresh_for - self.refresh_ahead
                )
                return answer, True, is_due and self.shared(key) is None
        return None, False, False

    def shared(self, key: str) -> Made | None:
        """Return the call for `key` that others may wait for."""
        return next((one for one in self.made if one.key == key and self.shares), None)

    def came_to(self, made: Made, answer: Any, now: float) -> Any:
        """Take note of what a call came to; return what its callers get."""
        self.made.remove(made)
        if not isinstance(answer, Exception):
            self.stored[made.key] = (answer, now)
            return answer
        if isinstance(answer, Excluded) and self.negative_for:
            self.errors[made.key] = (answer, now)
        return self.stands_in(made.key, now, answer)


class Caches(RuleBasedStateMachine):
    """The real cache and the model, through the same calls."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        #: The calls that reach the dependency, in the order in which they do.
        self.reached: list[Running] = []
        self.answers = count(1)

    @initialize(
        ttl=st.sampled_from([2.0, 8.0]),
        fresh=st.sampled_from([(0.0, 0.0), (1.0, 0.0), (2.0, 1.0), (2.0, 0.0)]),
        negative_for=st.sampled_from([0.0, 0.0, 1.0]),
    )
    def begun(self, ttl: float, fresh: tuple[float, float], negative_for: float) -> None:
        self.model = Model(ttl, *fresh, negative_for)
        tier = cached(
            ttl,
            key="{key}",
            fresh_for=fresh[0],
            refresh_ahead=fresh[1],
            jitter=0.0,
            negative=Excluded if negative_for else None,
            negative_for=negative_for,
            store=MemoryStore(),
        )

        @with_fallback(tier)
        async def answer_for(key: str) -> Any:
            reached = Running()
            self.reached.append(reached)
            return await reached.dependency()

        async def ask(caller: Running, key: str) -> Any:
            with degradation_scope() as degraded:
                answer = await answer_for(key)
            return answer, [one.age for one in degraded]

        answer_for.__qualname__ = f"answer_for_{next(numbers)}"
        self.ask, self.cache = ask, cache_of(answer_for)

    def newly_reached(self) -> Running | None:
        """Return the call that has reached the dependency in this step, if one has."""
        assert len(self.reached) <= 1
        return self.reached.pop() if self.reached else None

    def got(self, caller: Running, expected: Any) -> None:
        assert caller.ended
        if isinstance(expected, Exception):
            # Not the same one: what is remembered is kept without what it was raised in.
            error = caller.error
            assert type(error) is type(expected)
            assert error is not None
            assert error.args == expected.args
        else:
            assert caller.answer[0] == expected

    @rule(key=st.sampled_from(KEYS))
    def call(self, key: str) -> None:
        now = self.world.tick()
        served, at_once, refreshes = self.model.asked(key, now)
        caller = self.world.begin(self.ask, key)
        reached = self.newly_reached()
        if at_once:
            self.got(caller, served)
            assert (reached is not None) == refreshes
            if reached is not None:
                self.model.made.append(Made(key, reached, refreshes=True))
            return
        assert not caller.ended
        shared = self.model.shared(key)
        if shared is None:
            assert reached is not None
            self.model.made.append(Made(key, reached, [caller]))
        else:
            assert reached is None
            shared.callers.append(caller)

    @precondition(lambda self: self.model.made)
    @rule(which=st.integers(0, 9), how=st.sampled_from(["well", "well", "failed", "no"]))
    def dependency_answers(self, which: int, how: str) -> None:
        now = self.world.tick()
        made = self.model.made[which % len(self.model.made)]
        said = f"answer {next(self.answers)}"
        answer = {"well": said, "failed": Failed(said), "no": Excluded(said)}[how]
        assert made.dependency is not None
        made.dependency.end(answer)
        self.world.settle()
        expected = self.model.came_to(made, answer, now)
        for caller in made.callers:
            self.got(caller, expected)
            if expected is not answer:  # another one stood in, which is marked with its age
                age = now - self.model.stored[made.key][1]
                assert caller.answer[1] == [pytest.approx(age, abs=0.001)]
        assert self.newly_reached() is None

    @precondition(lambda self: any(one.callers for one in self.model.made))
    @rule(which=st.integers(0, 9), last=st.booleans())
    def caller_leaves(self, which: int, last: bool) -> None:
        """A call that others wait for goes on; one that nobody wants any more is cancelled."""
        self.world.tick()
        waited_for = [one for one in self.model.made if one.callers]
        made = waited_for[which % len(waited_for)]
        caller = made.callers.pop(-1 if last else 0)
        assert caller.task is not None
        caller.task.cancel()
        self.world.settle()
        assert caller.ended
        if not made.is_wanted:
            self.model.made.remove(made)
        assert made.dependency is not None
        assert made.dependency.cancelled != made.is_wanted

    @rule(key=st.sampled_from(KEYS))
    def invalidate(self, key: str) -> None:
        self.world.tick()
        self.cache.invalidate(key)
        self.model.stored.pop(key, None)
        self.model.errors.pop(key, None)

    @rule(seconds=st.sampled_from([0.5, 1.0, 2.0, 8.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    def teardown(self) -> None:
        for made in self.model.made if hasattr(self, "model") else ():
            assert made.dependency is not None
            made.dependency.end("the end")
        self.world.close()


def test_a_cache_does_what_its_page_says() -> None:
    """Through any history, calls are made, shared and served as the model has it."""
    run_state_machine_as_test(Caches, settings=examples(30))
