"""A pipeline by itself: its lane, its journal, and what it counts at the end of a call."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from math import inf
from types import SimpleNamespace
from typing import Any, cast

import pytest

from resilient import (
    BulkheadFull,
    CallTimeout,
    CircuitOpen,
    InvalidSetting,
    InvalidUse,
    Pipeline,
    circuit_breaker,
    pipeline_of,
    subscribe,
    unsubscribe,
)
from resilient.engine.measures import Measures
from resilient.engine.outcome import Outcome
from resilient.engine.pipeline import Lane, _begin_all_again
from resilient.engine.strategy import Strategy
from resilient.testing import VirtualTime, pass_through
from tests.faults.children import holds_in_a_child


class Noting(Strategy):
    """A strategy that does nothing but note what it is told."""

    def __init__(self, resolution: float | None = None) -> None:
        super().__init__()
        self.resolution = resolution
        self.is_quiet = True
        self.rejects = False
        self.absorbed: list[tuple[int, float, float]] = []
        self.late: list[Outcome] = []

    @property
    def at_rest(self) -> bool:
        return self.is_quiet

    def absorb(self, count: int, seconds: float, when: float) -> None:
        self.absorbed.append((count, seconds, when))

    def came_late(self, call: Any, outcome: Outcome) -> None:
        self.late.append(outcome)

    def refuses(self, call: Any) -> bool:
        return self.rejects


def in_the_slow_lane(name: str) -> Pipeline:
    """Return a pipeline whose calls all take the slow lane."""
    noting = Noting()
    noting.is_quiet = False
    return Pipeline(noting, name=name)


def counted(pipeline: Pipeline) -> dict[str, int]:
    """Return the outcomes that have been counted, those of zero left out."""
    return {label: count for label, count in pipeline.measures.calls.items() if count}


# How it is made


def test_it_is_readable_and_has_a_name() -> None:
    """That of a strategy if one has any, else a plain one."""
    assert Pipeline().name == "pipeline"
    assert repr(Pipeline(name="named")) == "<Pipeline named: >"


class Named(Strategy):
    """A strategy that bears the name of a dependency."""

    @property
    def label(self) -> str:
        return "labelled"


def test_the_name_is_that_of_the_strategy_that_has_one() -> None:
    """Wherever it stands."""
    assert Pipeline(Strategy(), Named(), Strategy()).name == "labelled"
    assert Pipeline(Named(), name="given").name == "given"


def test_what_judges_errors_must_be_a_function() -> None:
    """It would be asked during an outage, and nobody would hear what it says."""
    with pytest.raises(InvalidSetting, match="is_failure"):
        Pipeline(is_failure="never")  # type: ignore[arg-type]


def test_a_lane_is_closed_until_it_is_opened() -> None:
    """Nothing is due, and nobody is turned away."""
    lane = Lane()
    assert (lane.epoch, lane.due, lane.refuse) == (None, inf, None)


def test_it_is_made_of_strategies_each_of_them_once() -> None:
    """Anything else would be found out during an outage."""
    noting = Noting()
    with pytest.raises(InvalidUse, match="is none"):
        Pipeline("timeout")  # type: ignore[arg-type]
    with pytest.raises(InvalidUse, match="twice"):
        Pipeline(noting, Noting(), noting)


class Needing(Strategy):
    """A strategy that has to know what it guards."""

    needs_target = True

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []

    def attach(self, target: Any) -> Strategy:
        self.targets.append(target.name)
        return self


def test_a_call_is_taken_apart_only_where_a_strategy_has_to_know_it() -> None:
    """Else the call goes through this very pipeline, and no other one is made for it."""
    needing, plain = Needing(), Needing()
    plain.needs_target = False  # type: ignore[misc]
    assert Pipeline(needing, name="needing").call(str.upper, "a") == "A"
    assert Pipeline(plain, name="not needing").call(str.upper, "a") == "A"
    assert (len(needing.targets), plain.targets) == (1, [])


# The lane


def test_the_lane_is_open_while_every_strategy_is_at_rest(virtual_time: VirtualTime) -> None:
    """Each opening is a new one, which calls of the last one can tell."""
    first, second = Noting(), Noting()
    pipeline = Pipeline(first, second, name="a lane")
    opened = pipeline.lane.epoch
    assert opened is not None
    pipeline.refresh()
    assert pipeline.lane.epoch is opened
    second.is_quiet = False
    second.rest_changed()
    assert pipeline.lane.epoch is None
    second.is_quiet = True
    second.rest_changed()
    assert pipeline.lane.epoch not in (None, opened)


def test_while_calls_pass_through_nothing_is_on_the_fast_lane(virtual_time: VirtualTime) -> None:
    """They are made as they are, and none is turned away on the spot."""
    pipeline = Pipeline(Noting(), name="passing")
    with pass_through():
        pipeline.refresh()
        assert (pipeline.lane.epoch, pipeline.lane.refuse) == (None, None)
    pipeline.refresh()
    assert pipeline.lane.epoch is not None


# The journal


def test_settling_tells_strategies_and_measures_once(virtual_time: VirtualTime) -> None:
    """How many, how long together, and when; then the journal is empty."""
    noting = Noting()
    pipeline = Pipeline(noting, name="settled")
    guarded = pipeline(virtual_time.sleep)
    guarded(1)
    guarded(2)
    inner = [one for one in Measures.of("settled").pipelines if one.journal]
    for one in (*inner, *inner):
        one.settle()
    assert noting.absorbed == [(2, 3.0, virtual_time.now())]
    assert counted(pipeline) == {"success": 2}


def timed(virtual_time: VirtualTime, *resolutions: float) -> tuple[Pipeline, Noting]:
    """Return a pipeline whose strategies want to know times, and the first of them."""
    virtual_time.advance(100 - virtual_time.now() % 100)
    parts = [Noting(one) for one in resolutions]
    return Pipeline(*parts, name="timed"), parts[0]


def test_the_finest_resolution_counts(virtual_time: VirtualTime) -> None:
    """The journal is due at the end of the stretch that it is in."""
    pipeline, _ = timed(virtual_time, 20.0, 10.0)
    began = virtual_time.now()
    assert (pipeline.resolution, pipeline.lane.due) == (10.0, began + 10)
    assert Pipeline(Noting(), name="untimed").resolution is None


@pytest.mark.parametrize(("later", "when"), [(4, 4), (9.75, 9.75), (10, 5), (35, 5)])
def test_what_is_settled_late_has_ended_within_its_stretch(
    virtual_time: VirtualTime, later: float, when: float
) -> None:
    """Before it is due it is as of now; from then on in the midst of the stretch that is over."""
    pipeline, noting = timed(virtual_time, 10.0)
    began = virtual_time.now()
    pipeline.journal.append(0.5)
    virtual_time.advance(later)
    pipeline.settle()
    assert noting.absorbed == [(1, 0.5, began + when)]
    assert pipeline.lane.due == began + (later // 10 + 1) * 10


def test_an_empty_journal_becomes_due_anew(virtual_time: VirtualTime) -> None:
    """Nobody is told of anything, but the next stretch has begun."""
    pipeline, noting = timed(virtual_time, 10.0)
    began = virtual_time.now()
    virtual_time.advance(12)
    pipeline.settle()
    assert noting.absorbed == []
    assert pipeline.lane.due == began + 20


def test_what_a_pipeline_leaves_is_as_of_its_stretch(virtual_time: VirtualTime) -> None:
    """Strategies and measures take the journal of one that is gone up when they settle."""
    pipeline, noting = timed(virtual_time, 10.0)
    measures, began = pipeline.measures, virtual_time.now()
    pipeline.journal.append(0.5)
    virtual_time.advance(25)
    del pipeline
    noting.settle()
    measures.settle()
    assert noting.absorbed == [(1, 0.5, began + 5)]
    assert measures.calls["success"] == 1


def test_a_journal_is_settled_time_and_again(virtual_time: VirtualTime) -> None:
    """Whoever has settled it lets the next one."""
    noting = Noting()
    pipeline = Pipeline(noting, name="settled again")
    for seconds in (1.0, 2.0):
        pipeline.journal.append(seconds)
        pipeline.settle()
    assert [seconds for _, seconds, _ in noting.absorbed] == [1.0, 2.0]


def test_what_somebody_is_settling_nobody_else_settles(virtual_time: VirtualTime) -> None:
    """Neither does its end: who has the turn has what is in the journal."""
    noting = Noting()
    pipeline = Pipeline(noting, name="being settled")
    measures = pipeline.measures
    pipeline.journal.append(1.0)
    pipeline._turn.clear()
    pipeline.settle()
    del pipeline
    noting.settle()
    measures.settle()
    assert (noting.absorbed, measures.calls["success"]) == ([], 0)


def test_a_forked_child_begins_with_a_turn_and_a_lane_of_its_own(
    virtual_time: VirtualTime,
) -> None:
    """Whatever a thread of its parent was about to do."""
    noting = Noting()
    pipeline = Pipeline(noting, name="begun again")
    pipeline.journal.append(1.0)
    pipeline._turn.clear()
    noting.is_quiet = False

    def begins_again() -> bool:
        pipeline.settle()
        return pipeline.lane.epoch is None and len(noting.absorbed) == 1

    assert pipeline.lane.epoch is not None
    assert holds_in_a_child(begins_again)
    assert pipeline.lane.epoch is not None

    _begin_all_again()  # which is all that a child does, and can be looked at here
    assert begins_again()


def test_what_was_turned_away_is_counted_when_asked_and_told_at_the_end(
    virtual_time: VirtualTime,
) -> None:
    """Settling counts rejections as well; a circuit that closes leaves none untold."""
    heard: list[int] = []

    def listen(event: str, fields: Any) -> None:
        if event == "resilient.call_rejected" and fields["dependency"] == "turned away":
            heard.append(fields.get("count", 1))

    breaker = circuit_breaker("turned away")
    guarded = breaker(str.upper)
    breaker.force_open()
    subscribe(listen)
    try:
        for _ in range(3):
            with pytest.raises(CircuitOpen):
                guarded("a")
        pipeline = pipeline_of(guarded)
        pipeline.settle()
        assert (counted(pipeline), heard) == ({"rejected": 3}, [1])
        breaker.reset()
        assert heard == [1, 2]
    finally:
        unsubscribe(listen)


# What a call came to


def call_of(pipeline: Pipeline, **more: Any) -> Any:
    """Return as much of a call as is looked at when it ends."""
    fields = {"served": None, "attempts": 2, "retries": 1, "until_end": None}
    return SimpleNamespace(pipeline=pipeline, started=0.0, **{**fields, **more})


@pytest.mark.parametrize(
    ("error", "label"),
    [
        (None, "success"),
        (ConnectionError(), "failure"),
        (KeyError(), "success"),
        (CallTimeout("it", 1.0), "timeout"),
        (BulkheadFull("it", 1, 0), "rejected"),
        (asyncio.CancelledError(), "cancelled"),
    ],
    ids=repr,
)
def test_the_end_of_a_stream_is_counted_by_what_it_came_to(
    virtual_time: VirtualTime, error: BaseException | None, label: str
) -> None:
    """As a call is; an error that does not speak against the dependency is a success."""
    pipeline = Pipeline(
        name=f"ended by {error!r}", is_failure=lambda error: not isinstance(error, KeyError)
    )
    pipeline.stream_ended(call_of(pipeline), error)
    assert counted(pipeline) == {label: 1}
    assert (pipeline.measures.attempts, pipeline.measures.retries) == (2, 1)
    assert pipeline.measures.durations.sum == virtual_time.now()


def test_a_call_in_the_slow_lane_that_is_interrupted_is_counted_as_cancelled(
    virtual_time: VirtualTime,
) -> None:
    """Once, and it is gone on with."""

    def interrupted() -> None:
        raise KeyboardInterrupt

    pipeline = in_the_slow_lane("interrupted in the slow lane")
    with pytest.raises(KeyboardInterrupt):
        pipeline(interrupted)()
    assert counted(pipeline) == {"cancelled": 1}


async def test_a_call_that_turns_out_asynchronous_is_counted_once(
    virtual_time: VirtualTime,
) -> None:
    """By what its coroutine comes to, and not as one that was let go of."""

    async def later() -> str:
        return "answer"

    pipeline = in_the_slow_lane("turned")
    assert await cast(Any, pipeline(lambda: later()))() == "answer"  # noqa: PLW0108 - plain
    assert counted(pipeline) == {"success": 1}


def test_a_stream_is_counted_when_it_ends_and_a_failed_one_at_once(
    virtual_time: VirtualTime,
) -> None:
    """It has begun well with its first item, and has not come to anything by then."""

    def numbers(fails: bool) -> Iterator[int]:
        if fails:
            raise ConnectionError
        yield from (1, 2)

    pipeline = in_the_slow_lane("a stream, counted")
    stream = pipeline(numbers)(False)
    assert next(stream) == 1
    assert counted(pipeline) == {}
    assert list(stream) == [2]
    assert counted(pipeline) == {"success": 1}
    with pytest.raises(ConnectionError):
        list(pipeline(numbers)(True))
    assert counted(pipeline) == {"success": 1, "failure": 1}


def test_what_cannot_be_judged_speaks_against_the_dependency(virtual_time: VirtualTime) -> None:
    """What was turned away says nothing about it."""

    def broken(error: Exception) -> bool:
        raise LookupError

    pipeline = Pipeline(Noting(), name="judged", is_failure=broken)
    assert pipeline.is_failure(OSError())
    assert not pipeline.is_failure(BulkheadFull("it", 1, 0))


def test_a_stream_in_whose_place_something_was_served_is_degraded(
    virtual_time: VirtualTime,
) -> None:
    """Unless it fails afterwards."""
    pipeline = Pipeline(name="served a stream")
    pipeline.stream_ended(call_of(pipeline, served="default"), None)
    pipeline.stream_ended(call_of(pipeline, served="default"), OSError())
    assert counted(pipeline) == {"degraded": 1, "failure": 1}


def test_those_who_wait_for_the_end_of_a_stream_are_told(virtual_time: VirtualTime) -> None:
    """Of its outcome, or of nothing where its consumer has left or was cancelled."""
    pipeline = Pipeline(name="told of streams")
    told: list[Outcome | None] = []
    call = call_of(pipeline, until_end=[told.append])
    error = ConnectionError()
    pipeline.stream_ended(call, None)
    pipeline.stream_ended(call, error)
    pipeline.stream_ended(call, error, left=True)
    pipeline.stream_ended(call, GeneratorExit())
    assert [one and one.error for one in told] == [None, error, None, None]
    assert [one is None for one in told] == [False, False, True, True]


def test_a_late_outcome_is_told_to_those_who_want_it(virtual_time: VirtualTime) -> None:
    """A coroutine that nobody is going to await is closed instead."""
    noting = Noting()
    pipeline = Pipeline(Strategy(), noting, name="late")
    assert pipeline.late
    assert not Pipeline(Strategy(), name="never late").late
    late = Outcome("answer", None, 0.0, 1.0)
    pipeline.came_late(call_of(pipeline), late)

    async def answer() -> None: ...

    coroutine = answer()
    pipeline.came_late(call_of(pipeline), Outcome(coroutine, None, 0.0, 1.0))
    assert noting.late == [late]
    assert coroutine.cr_frame is None


def test_a_rejection_says_nothing_against_what_is_called(virtual_time: VirtualTime) -> None:
    """Ours by themselves, as where a queued call is made again; every other error does."""
    pipeline = Pipeline(name="not to blame")
    assert not pipeline.is_failure(BulkheadFull("full", 1, 0))
    assert pipeline.is_failure(ConnectionError("down"))


def test_an_outcome_shows_no_value() -> None:
    """Neither that of an answer nor the text of an error, which may be secrets."""
    answer, error = Outcome("hunter2", None, 1.0, 3.5), ValueError("hunter2")
    assert repr(answer) == "<Outcome <class 'str'> after 2.500 s>"
    assert repr(Outcome(None, error, 1.0, 1.0)) == "<Outcome <class 'ValueError'> after 0.000 s>"


def test_only_what_is_further_in_can_refuse(virtual_time: VirtualTime) -> None:
    """Who asks is not asked, and neither is who stands further out."""
    outer, asking, inner = Noting(), Noting(), Noting()
    pipeline = Pipeline(outer, asking, inner, name="refusing")
    outer.rejects = asking.rejects = True
    assert not pipeline.refuses(call_of(pipeline), asking)
    assert pipeline.refuses(call_of(pipeline), outer)
    inner.rejects = True
    assert pipeline.refuses(call_of(pipeline), asking)
