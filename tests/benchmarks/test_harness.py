"""The arithmetic of the benchmarks, and that what they measure does its work."""

from __future__ import annotations

from functools import partial

import pytest

from benchmarks import ours, proofs
from benchmarks.contention import seconds_for
from benchmarks.harness import ARGUMENT, UNROLLED, Bench, Spread, Subject
from benchmarks.report import Compared, Report, report_of
from benchmarks.services import Service, answer, answer_async, once, wrapped
from benchmarks.subjects import UNIT, UNIT_ASYNC, Comparison, Row, Section
from benchmarks.table import markdown


def benched(*subjects: Subject, rounds: int = 2) -> Bench:
    """Return a bench that has measured `subjects` for a moment."""
    bench = Bench()
    bench.run(subjects, unit=UNIT, unit_async=UNIT_ASYNC, rounds=rounds, sample_seconds=1e-4)
    return bench


def reported(bench: Bench, *comparisons: Comparison) -> Report:
    """Return the report on one row, `a`."""
    section = Section("Success", (Row(Subject("a", answer)),))
    return report_of(bench, [section], comparisons, [], facts={"Python": "3"}, rounds=3)


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


def test_each_subject_is_sampled_once_a_round() -> None:
    """There is one sample of a subject, and one ratio to its unit, for each round."""
    one, other = Subject("one", answer), Subject("other", answer_async, is_async=True)

    bench = benched(one, other, rounds=3)

    assert {name: len(found) for name, found in bench.samples.items()} == {"one": 3, "other": 3}
    assert {name: len(found) for name, found in bench.units.items()} == {"one": 3, "other": 3}
    assert all(seconds > 0 for found in bench.samples.values() for seconds in found)


def test_calls_are_made_as_often_as_they_are_divided_by() -> None:
    """The number of calls that the subject has counted is compared with those that were made."""
    service = Service()
    benched(Subject("counted", service.function(), counted=lambda: service.calls))
    assert service.calls % UNROLLED == 0

    with pytest.raises(AssertionError, match="0 counted"):
        benched(Subject("forgetful", answer, counted=lambda: 0))


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


def test_a_bar_is_met_up_to_its_value() -> None:
    """The median decides, and a bar that it just reaches is met."""
    assert Compared("a", None, Spread(1.0, 4.0, 9.0), at_most=4.0).is_met
    assert not Compared("a", None, Spread(1.0, 4.01, 9.0), at_most=4.0).is_met
    assert Compared("a", "b", Spread(1.0, 100.0, 9.0), at_most=None).is_met


def test_a_report_says_which_bars_are_missed() -> None:
    """Only comparisons with a bar can be missed."""
    bench = Bench(samples={"a": [1e-6]}, units={"a": [5.0]})

    report = reported(bench, Comparison("a", at_most=4.0), Comparison("a", "a"))

    assert [one.at_most for one in report.missed] == [4.0]


def test_the_table_shows_times_in_the_unit_that_is_read_most_easily() -> None:
    """Nanoseconds below a microsecond, and as many digits as mean something."""
    bench = Bench(samples={"a": [349.6e-9]}, units={"a": [3.268]})

    shown = markdown(reported(bench, Comparison("a", at_most=3.0)))

    assert "| a | 350 ns | 3.27 (3.27 to 3.27) |" in shown
    assert "| a | do-nothing wrapper | 3.27 (3.27 to 3.27) | at most 3: NOT met |" in shown


def test_the_report_can_be_stored_as_plain_values() -> None:
    """What is written as JSON holds every sample's spread under its name."""
    stored = reported(Bench(samples={"a": [1e-6]}, units={"a": [5.0]})).as_data()

    assert stored["tables"][0]["lines"][0]["times"] == {"low": 5.0, "median": 5.0, "high": 5.0}


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("make", [ours.stack, ours.limited_stack])
def test_the_stacks_do_their_work(make: proofs.Make, is_async: bool) -> None:
    """They break, retry, serve and count, before anybody asks how fast they are."""
    proofs.breaks(make, is_async=is_async)
    proofs.retries(make, is_async=is_async)
    proofs.serves_default(make, is_async=is_async)
    proofs.counts_every_call(make, is_async=is_async)


def test_the_strategies_alone_do_their_work() -> None:
    """Each row of one strategy is one of that strategy."""
    proofs.breaks(ours.breaker_alone)
    proofs.retries(ours.retry_alone)
    proofs.retries(ours.three_attempts)
    proofs.serves_default(ours.fallback_alone)
    proofs.keeps_answers(ours.cached_stack)
    proofs.limits(ours.timeout_alone)
    proofs.limits(ours.timeout_alone, is_async=True)


def test_an_open_circuit_answers_without_a_call() -> None:
    """What is measured as a rejection is one, with and without a default."""
    service, other = Service(), Service()
    proofs.rejects(ours.opened(service.function()), service, "CircuitOpen")
    proofs.rejects(ours.opened_with_default(other.function()), other, ours.DEFAULT)


@pytest.mark.parametrize(
    "proof",
    [
        proofs.breaks,
        proofs.retries,
        proofs.serves_default,
        proofs.keeps_answers,
        partial(proofs.limits, is_async=False),
    ],
)
def test_what_does_nothing_passes_no_proof(proof: proofs.Proof) -> None:
    """A wrapper that does nothing is not taken for a strategy."""
    with pytest.raises((AssertionError, ConnectionError)):
        proof(lambda function, *_: wrapped(function))


def test_the_calls_of_all_threads_are_made() -> None:
    """Each thread makes as many calls as it is told to."""
    service = Service()

    seconds_for(service.function(), threads=3, calls=5)

    assert service.calls == 15


def test_a_service_fails_only_while_it_is_down() -> None:
    """What is called can be told to fail, and counts its calls."""
    service = Service()
    assert once(service.function(is_async=True)) == ARGUMENT
    service.is_down = True
    with pytest.raises(ConnectionError):
        once(service.function())
    assert service.calls == 2
