"""The arithmetic of the benchmarks."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from benchmarks.contention import seconds_for, speedups
from benchmarks.crowds import seconds_of_tasks, seconds_of_threads
from benchmarks.fresh import seconds_of_statements
from benchmarks.harness import ARGUMENT, UNROLLED, Bench, Subject
from benchmarks.services import Service, answer, answer_async, once, renamed, wrapped, wrapped_async
from benchmarks.spread import Spread

UNIT = Subject("unit", wrapped(answer))
UNIT_ASYNC = Subject("unit, async", wrapped_async(answer_async), is_async=True)


def benched(*subjects: Subject, rounds: int = 2) -> Bench:
    """Return a bench that has measured `subjects` for a moment."""
    bench = Bench()
    bench.run(subjects, rounds=rounds, sample_seconds=1e-4)
    return bench


def test_a_spread_is_the_median_between_the_quartiles() -> None:
    """One sample that is far off moves neither the median nor the quartiles."""
    assert Spread.of([5.0, 1.0, 2.0, 3.0, 400.0]) == Spread(2.0, 3.0, 5.0)


def test_a_single_sample_is_its_own_spread() -> None:
    """One round is enough for a result, with nothing between its quartiles."""
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0)


def test_two_subjects_are_compared_round_by_round() -> None:
    """A machine that is slow for one round makes both slow, and leaves their ratio as it is."""
    bench = Bench(units={"a": [2.0, 4.0, 30.0], "b": [1.0, 2.0, 10.0]})

    assert bench.times("a", "b") == Spread(2.0, 2.0, 2.5)
    assert bench.times("a").median == 4.0
    assert bench.fastest(["a", "b"]) == "b"


def test_samples_of_different_rounds_are_not_compared() -> None:
    """A ratio needs a sample of each in every round, and no sample is dropped for it."""
    with pytest.raises(ValueError, match="shorter"):
        Spread.of_ratios([1.0, 2.0], [1.0])


def test_each_subject_is_sampled_once_a_round() -> None:
    """There is one sample of a subject, and one ratio to its unit, for each round."""
    one, other = UNIT.beside("one", answer), UNIT_ASYNC.beside("other", answer_async)

    bench = benched(one, other, rounds=3)

    assert {name: len(found) for name, found in bench.samples.items()} == {"one": 3, "other": 3}
    assert {name: len(found) for name, found in bench.units.items()} == {"one": 3, "other": 3}
    assert all(seconds > 0 for found in bench.samples.values() for seconds in found)


def test_a_wrapper_that_does_nothing_is_its_own_unit() -> None:
    """The unit's row says 1, give or take what the machine does."""
    assert 0.2 < benched(UNIT, rounds=5).times("unit").median < 5


def test_two_subjects_of_one_name_are_refused() -> None:
    """Their samples would be mixed."""
    with pytest.raises(AssertionError, match="same name"):
        benched(UNIT, UNIT)


@pytest.mark.parametrize("crowd", [1, 3])
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_calls_are_made_as_often_as_they_are_divided_by(is_async: bool, crowd: int) -> None:
    """The number of calls that the subject has counted is compared with those that were made."""
    service = Service()
    call = service.function(is_async=is_async)
    unit = replace(UNIT_ASYNC if is_async else UNIT, crowd=crowd)
    counted = unit.beside("counted", call, counted=lambda: service.calls)
    benched(counted)
    assert service.calls % (UNROLLED * crowd) == 0

    with pytest.raises(AssertionError, match="0 counted"):
        benched(UNIT.beside("forgetful", answer, counted=lambda: 0))


def test_what_is_measured_as_a_rejection_must_reject() -> None:
    """A subject that lets a call through where an error is expected ends the run."""
    with pytest.raises(AssertionError, match="let through"):
        benched(Subject("open", answer, rejects=ConnectionError))


def test_rejections_of_either_colour_are_measured() -> None:
    """An expected error is part of the call, synchronous or not."""
    service = Service(is_down=True)
    sync, not_sync = service.function(), service.function(is_async=True)

    bench = benched(
        Subject("sync", sync, rejects=ConnectionError),
        Subject("async", not_sync, is_async=True, rejects=ConnectionError),
    )

    assert set(bench.samples) == {"sync", "async"}


def test_a_subject_is_tidied_after_each_sample() -> None:
    """What a subject leaves behind is cleared outside of the measured time."""
    tidied: list[None] = []

    benched(UNIT.beside("messy", answer, tidy=lambda: tidied.append(None)), rounds=4)

    assert len(tidied) == 4 + 3  # the rounds, and the warming up


def test_threads_are_timed_from_when_all_stand_ready() -> None:
    """Each thread does the work once, and starting the threads does not count."""
    done: list[None] = []

    seconds = seconds_of_threads(lambda: done.append(time.sleep(0.02)), 3)

    assert len(done) == 3
    assert 0.019 < seconds < 0.5


def test_an_error_in_a_thread_ends_the_run() -> None:
    """Work that fails on a thread is not taken for fast work."""
    with pytest.raises(ConnectionError):
        seconds_of_threads(Service(is_down=True).function().__get__(ARGUMENT), 2)


async def test_tasks_do_the_work_once_each() -> None:
    """As many tasks as are asked for have done the work when the time is taken."""
    done: list[None] = []

    async def work() -> None:
        done.append(await asyncio.sleep(0))

    assert await seconds_of_tasks(work, 3) > 0
    assert len(done) == 3


def test_the_calls_of_all_threads_are_made() -> None:
    """Each thread makes as many calls as it is told to."""
    service = Service()

    seconds_for(service.function(), threads=3, calls=5)

    assert service.calls == 15


def test_a_breaker_that_makes_threads_wait_has_no_speedup() -> None:
    """Eight threads through nothing are about eight times as fast as one."""
    [times] = speedups({"nothing": wrapped}, rounds=1, calls=1).values()

    assert len(times) == 1
    assert times[0] > 2


def test_statements_are_timed_in_processes_of_their_own() -> None:
    """There is one figure for each round, of the statement alone."""
    slow = "sum(range(3_000_000))"

    found = seconds_of_statements({"statement": "pass"}, rounds=1, setup=slow)

    assert len(found["statement"]) == 1
    assert 0 <= found["statement"][0] < 0.04


def test_a_statement_that_fails_ends_the_run() -> None:
    """An import that does not work is not taken for a fast one."""
    with pytest.raises(Exception, match="non-zero exit status"):
        seconds_of_statements({"wrong": "import no_such_module_anywhere"}, rounds=1)


def test_a_function_is_renamed_without_a_change_of_what_it_does() -> None:
    """A copy counts under its own name, and the original keeps its own."""
    copy = renamed(answer, "copy")

    assert (copy(ARGUMENT), copy.__qualname__, answer.__qualname__) == (ARGUMENT, "copy", "answer")


def test_a_service_fails_only_while_it_is_down() -> None:
    """What is called can be told to fail, always or every other time, and counts its calls."""
    service = Service()
    assert once(service.function(is_async=True)) == ARGUMENT
    service.is_down = True
    with pytest.raises(ConnectionError):
        once(service.function())
    service.is_down, service.is_flaky = False, True
    with pytest.raises(ConnectionError):
        once(service.function())
    assert once(service.function()) == ARGUMENT
    assert service.calls == 4
