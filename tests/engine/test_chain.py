"""What several strategies come to together: their permits, their looks at a success, an attempt."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from resilient import Pipeline
from resilient.engine.chain import accept_of, attempt, chain_of, permits_of
from resilient.engine.outcome import Outcome
from resilient.engine.steps import Attempt
from resilient.testing import fail


class Gate:
    """As much of a strategy as permits and looks take; notes what it is asked."""

    def __init__(self, seen: list[str], name: str, *, lets: bool = True) -> None:
        self.lets = lets

        def noting(what: str) -> Any:
            def note(*_: Any) -> bool:
                seen.append(f"{what} {name}")
                return self.lets

            return note

        self.take: Any = noting("take")
        self.give: Any = noting("give")
        self.untake: Any = noting("untake")
        self.accept: Any = noting("accept")


def gates(*lets: bool) -> tuple[list[str], list[Any]]:
    """Return what is going to be seen, and gates that let calls through or do not."""
    seen: list[str] = []
    return seen, [Gate(seen, name, lets=let) for name, let in zip("abc", lets, strict=False)]


NONE: Any = SimpleNamespace(take=None, give=None, untake=None, accept=None)


# Steps


def test_the_steps_of_all_are_around_the_attempt_outermost_first() -> None:
    """Each begins before and ends after those further in."""
    seen: list[str] = []

    def around(name: str) -> Any:
        def steps(call: Any, proceed: Any) -> Any:
            seen.append(f"into {name}")
            outcome = yield from proceed(call)
            seen.append(f"out of {name}")
            return outcome

        return SimpleNamespace(steps=steps)

    call = call_of()
    steps = chain_of([around("a"), around("b")])(call)
    assert next(steps) is call
    answered = Outcome("A", None, 0.0, 1.0)
    assert outcome_of(steps, answered) is answered
    assert seen == ["into a", "into b", "out of b", "out of a"]


# Permits


def test_where_nobody_gives_permits_there_is_nothing_to_take() -> None:
    """Most pipelines have no such strategy."""
    assert permits_of([NONE, NONE]) == (None, None)


def test_the_permits_of_one_are_taken_from_it_directly() -> None:
    """Nothing stands between the lane and the strategy."""
    _, [gate] = gates(True)
    assert permits_of([NONE, gate, NONE]) == (gate.take, gate.give)


def test_permits_of_several_are_taken_and_given_back_together() -> None:
    """From the outside in; one that takes none back is left out."""
    seen, parts = gates(True, True, True)
    parts[1].give = None
    take, give = permits_of([parts[0], NONE, *parts[1:]])
    assert take is not None
    assert give is not None
    assert take() is True
    give()
    assert seen == ["take a", "take b", "take c", "give a", "give c"]


def test_a_permit_that_is_not_given_takes_the_others_back() -> None:
    """Those further in are not asked, and those that have given theirs get it again."""
    seen, parts = gates(True, True, False)
    parts[0].untake = None
    take, _ = permits_of(parts)
    assert take is not None
    assert take() is False
    assert seen == ["take a", "take b", "take c", "untake b"]
    seen.clear()
    parts[1].lets = False
    assert take() is False
    assert seen == ["take a", "take b"]


# Looks at a success


def test_a_look_at_a_success_is_that_of_the_one_who_has_one() -> None:
    """Or nobody's."""
    _, [gate] = gates(True)
    assert accept_of([NONE, NONE]) is None
    assert accept_of([NONE, gate]) is gate.accept


@pytest.mark.parametrize(
    ("lets", "expected"),
    [
        ((True, True), (True, ["accept b", "accept a"])),
        ((False, True), (False, ["accept b", "accept a"])),
        ((True, False), (False, ["accept b"])),
    ],
)
def test_a_success_is_one_if_all_say_so(
    lets: tuple[bool, bool], expected: tuple[bool, list[str]]
) -> None:
    """The innermost is asked first, and after a no nobody else."""
    seen, parts = gates(*lets)
    accept = accept_of(parts)
    assert accept is not None
    assert (accept((), {}, "answer", 1.0, 2.0), seen) == expected


# An attempt


def call_of(**more: Any) -> Any:
    """Return as much of a call as an attempt takes."""
    fields: dict[str, Any] = {
        "attempts": 0,
        "resumed": None,
        "function": str.upper,
        "args": ("a",),
        "kwargs": {},
        "limit": None,
        "workers": None,
        "name": "an attempt",
        "pipeline": SimpleNamespace(late=True, came_late=print),
    }
    return SimpleNamespace(**{**fields, **more})


def outcome_of(steps: Any, reply: Outcome) -> Any:
    """Answer the step that an attempt has asked for; return what it comes to."""
    with pytest.raises(StopIteration) as finished:
        steps.send(reply)
    return finished.value.value


def test_a_call_is_the_step_of_its_own_attempt() -> None:
    """There is nothing more to tell of a call on its own thread."""
    call = call_of()
    steps = attempt(call)
    assert next(steps) is call
    assert call.attempts == 1
    answered = Outcome("A", None, 0.0, 1.0)
    assert outcome_of(steps, answered) is answered


def test_an_attempt_that_has_been_made_is_not_made_again() -> None:
    """The fast lane has its outcome; it counts as an attempt, and once."""
    made = Outcome("A", None, 0.0, 1.0)
    call = call_of(resumed=made)
    with pytest.raises(StopIteration) as finished:
        next(attempt(call))
    assert finished.value.value is made
    assert (call.attempts, call.resumed) == (1, None)


@pytest.mark.parametrize("late", [True, False])
def test_an_attempt_on_a_worker_says_where_and_who_hears_of_it_late(late: bool) -> None:
    """If anybody wants to."""
    pipeline = SimpleNamespace(late=late, came_late=print)
    step: Any = next(attempt(call_of(workers="workers", pipeline=pipeline)))
    assert isinstance(step, Attempt)
    assert (step.function, step.args, step.workers) == (str.upper, ("a",), "workers")
    assert (step.late is not None) is late


def test_an_attempt_that_is_told_to_fail_calls_the_fault() -> None:
    """Faults are injected where the function would be called; of other names nothing changes."""
    pipeline = Pipeline(name="an attempt")  # what is not guarded cannot be told to fail
    with fail(pipeline.name, ConnectionError):
        step: Any = next(attempt(call_of()))
        other: Any = next(attempt(call_of(name="another")))
    assert step.function is not str.upper
    assert step.late is None
    assert other.function is str.upper
