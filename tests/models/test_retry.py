"""Retries with a budget and a deadline, and a model of them: what is tried, when, and why no more.

Calls follow each other here, as what a retry decides depends on no other call but by the budget.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, pairwise
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient import CallRejected, CallTimeout, Pipeline, RetryBudget, pipeline_of, retry, timeout
from resilient.testing import VirtualTime
from tests.generated import examples

numbers = count(1)


class Passing(ConnectionError):
    """May be tried again."""

    def __init__(self, retry_after: float | None = None) -> None:
        super().__init__("passing")
        if retry_after is not None:
            self.retry_after = retry_after


class Lasting(ValueError):
    """Must not be tried again."""


class Full(CallRejected):
    """A rejection by something further in."""

    def __init__(self) -> None:
        super().__init__("further in", "full")


@dataclass(frozen=True)
class Attempt:
    """How long an attempt takes, and what it then comes to."""

    seconds: float
    comes_to: str
    retry_after: float | None = None

    def error(self) -> Exception | None:
        """Return the error that it comes to, if any."""
        errors = {"passing": lambda: Passing(self.retry_after), "lasting": Lasting, "full": Full}
        make = errors.get(self.comes_to)
        return None if make is None else make()


@dataclass(frozen=True)
class Rules:
    """The settings, of retries and of the time limits without and within."""

    attempts: int
    pause: float
    max_retry_after: float
    in_all: float | None
    each: float | None
    size: int | None
    per_success: float


@dataclass
class Model:
    """What the pages say."""

    rules: Rules
    left: float = 0.0

    def __post_init__(self) -> None:
        self.left = float(self.rules.size or 0)

    def call(self, script: list[Attempt]) -> tuple[str, int, float, str | None]:
        """Return what a call comes to, after how many attempts and seconds, and why it stopped."""
        rules, passed, failed = self.rules, 0.0, ""
        ends = inf if rules.in_all is None else rules.in_all
        for number, attempt in enumerate(script, start=1):
            came_to, last = attempt.comes_to, passed + attempt.seconds
            limit = min(ends, inf if rules.each is None else passed + rules.each)
            if last >= limit:  # taken away at that very moment
                came_to, last = ("each" if limit < ends else "in_all"), limit
            passed = last
            if came_to == "well":
                self.left = min(float(rules.size or 0), round(self.left + rules.per_success, 6))
                return came_to, number, passed, None
            if came_to == "full":  # not made: the error before it counts
                return (failed or came_to), number, passed, "rejected" if failed else None
            failed = came_to
            if came_to in ("lasting", "in_all"):
                return came_to, number, passed, "not retryable"
            if number >= rules.attempts:
                return came_to, number, passed, "attempts"
            asked = attempt.retry_after if came_to == "passing" else None
            pause = max(rules.pause, min(asked or 0.0, rules.max_retry_after))
            if passed + pause >= ends:
                return came_to, number, passed, "deadline"
            if rules.size is not None:
                if self.left < 1:
                    return came_to, number, passed, "budget"
                self.left -= 1
            passed += pause
        raise AssertionError("the script is as long as there are attempts")


class Real:
    """The real thing, told by a script what each attempt comes to."""

    def __init__(self, rules: Rules, time: VirtualTime) -> None:
        self.time = time
        self.budget = None if rules.size is None else RetryBudget(rules.size, rules.per_success)
        self.each = None if rules.each is None else timeout(rules.each)
        self.script: Iterator[Attempt] = iter(())
        #: Two functions that share a budget, and nothing else.
        self.guarded = [self.guarded_by(rules) for _ in range(2)]

    def guarded_by(self, rules: Rules) -> Callable[[], str]:
        again = retry(
            on=lambda error: isinstance(error, Passing) or self.is_of_each(error),
            attempts=rules.attempts,
            wait=lambda _: rules.pause,
            max_retry_after=rules.max_retry_after,
            budget=self.budget,
        )
        strategies = [None if rules.in_all is None else timeout(rules.in_all), again, self.each]
        name = f"model of a retry {next(numbers)}"
        return Pipeline(*(one for one in strategies if one is not None), name=name)(self.attempt)

    def is_of_each(self, error: BaseException) -> bool:
        return isinstance(error, CallTimeout) and error.owner is self.each

    def attempt(self) -> str:
        self.made += 1
        attempt = next(self.script)
        self.time.sleep(attempt.seconds)
        error = attempt.error()
        if error is not None:
            raise error
        return "well"

    def call(self, which: int, script: list[Attempt]) -> tuple[str, int, float, str | None]:
        """Return what the model returns."""
        self.made, self.script = 0, iter(script)
        began, reason = self.time.now(), None
        try:
            came_to = self.guarded[which]()
        except Exception as error:
            names: dict[type, str] = {Passing: "passing", Lasting: "lasting", Full: "full"}
            timed_out = "each" if self.is_of_each(error) else "in_all"
            came_to = names.get(type(error), timed_out)
            for note in getattr(error, "__notes__", ()):
                reason = note.partition("stopped by: ")[2]
        return came_to, self.made, self.time.now() - began, reason


seconds = st.sampled_from([0.0, 0.0, 0.25, 1.0, 3.0])
attempts = st.one_of(
    st.builds(Attempt, seconds, st.sampled_from(["well", "lasting", "full"])),
    st.builds(Attempt, seconds, st.just("passing")),
    st.builds(Attempt, seconds, st.just("passing"), st.sampled_from([0.0, 0.5, 2.0, 60.0])),
)
scripts = st.lists(attempts, min_size=5, max_size=5)
rules = st.builds(
    Rules,
    attempts=st.integers(1, 5),
    pause=st.sampled_from([0.0, 0.5, 1.0]),
    max_retry_after=st.sampled_from([0.0, 1.0, 30.0]),
    in_all=st.sampled_from([None, 2.125, 5.125]),
    each=st.sampled_from([None, 0.5, 2.0]),
    size=st.sampled_from([None, 1, 3]),
    per_success=st.sampled_from([0.1, 0.5, 1.0]),
)


@examples(120)
@given(rules=rules, calls=st.lists(st.tuples(st.integers(0, 1), scripts), max_size=8))
def test_retries_do_what_their_page_says(
    rules: Rules, calls: list[tuple[int, list[Attempt]]]
) -> None:
    """Each call comes to what the model says: outcome, attempts, time, reason and budget."""
    model, made = Model(rules), 0
    with VirtualTime(start=1024.0) as time:
        real = Real(rules, time)
        for which, script in calls:
            came_to = real.call(which, script)
            assert came_to == model.call(script)
            made += came_to[1]
            if real.budget is not None:
                assert real.budget.left == model.left
    counted = [pipeline_of(guarded).measures for guarded in real.guarded]
    for measures in counted:
        measures.settle()
    assert sum(measures.attempts for measures in counted) == made
    assert sum(measures.retries for measures in counted) == made - len(calls)


@examples(100)
@given(
    initial=st.sampled_from([0.0, 0.125, 1.0, 40.0]),
    most=st.sampled_from([0.0, 0.5, 5.0, 100.0]),
    seed=st.integers(0, 1000),
)
def test_each_pause_lies_below_its_bound(initial: float, most: float, seed: int) -> None:
    """Drawn below a bound that doubles as far as its own bound; never beyond, however often."""
    random.seed(seed)
    moments: list[float] = []

    with VirtualTime(start=1024.0) as time:

        @retry(on=Passing, attempts=8, wait_initial=initial, wait_max=most, budget=None)
        def fetch() -> Any:
            moments.append(time.now())
            raise Passing

        with pytest.raises(Passing):
            fetch()
    pauses = [later - earlier for earlier, later in pairwise(moments)]
    assert len(pauses) == 7
    for number, pause in enumerate(pauses):
        assert 0.0 <= pause <= min(most, initial * 2**number) + 1e-9
