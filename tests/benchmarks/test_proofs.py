"""What is measured does its work, and what does nothing is found out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from benchmarks import ours, proofs
from benchmarks.rows import windows
from benchmarks.services import Service, wrapped, wrapped_async

COLOURS = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])


@COLOURS
@pytest.mark.parametrize("make", [ours.stack, ours.limited_stack])
def test_the_stacks_do_their_work(make: proofs.Make, is_async: bool) -> None:
    """They break, retry, serve and count, before anybody asks how fast they are."""
    proofs.breaks(make, is_async=is_async)
    proofs.retries(make, is_async=is_async)
    proofs.serves_default(make, is_async=is_async)
    proofs.counts_every_call(make, is_async=is_async)


@COLOURS
@pytest.mark.parametrize(
    ("proof", "make"),
    [
        (proofs.breaks, ours.breaker_alone),
        (proofs.breaks, ours.dependency),
        (proofs.retries, ours.dependency),
        (proofs.retries, ours.retry_alone),
        (proofs.retries, ours.three_attempts),
        (proofs.serves_default, ours.three_attempts),
        (proofs.serves_default, ours.fallback_alone),
        (proofs.keeps_answers, ours.cached_alone),
        (proofs.keeps_answers, ours.cached_stack),
        (proofs.limits, ours.timeout_alone),
        (proofs.caps, ours.bulkhead_alone),
        (proofs.rations, ours.rate_limit_alone),
        (proofs.tells_what_is_left, ours.deadline_alone),
    ],
    ids=lambda one: one.__name__,
)
def test_the_strategies_alone_do_their_work(
    proof: proofs.Proof, make: proofs.Make, is_async: bool
) -> None:
    """Each row of one strategy is one of that strategy."""
    proof(make, is_async=is_async)


@COLOURS
def test_an_open_circuit_answers_without_a_call(is_async: bool) -> None:
    """What is measured as a rejection is one, with and without a default."""
    service, other = Service(), Service()
    raising = ours.opened(service.function(is_async=is_async))
    serving = ours.opened_with_default(other.function(is_async=is_async))

    proofs.rejects(raising, service, "CircuitOpen")
    proofs.rejects(serving, other, ours.DEFAULT)


@pytest.mark.parametrize("make", [ours.breaker_alone, ours.tolerant_breaker])
def test_a_window_holds_as_many_calls_as_it_is_said_to(make: Callable[..., Any]) -> None:
    """A window of another size is found out."""
    service = Service()
    call = make(service.function(), 1000)

    proofs.remembers(call, service, 1000)
    with pytest.raises(AssertionError, match="a window of 1000"):
        proofs.remembers(call, service, 1500)


@COLOURS
@pytest.mark.parametrize(
    "proof",
    [
        proofs.breaks,
        proofs.retries,
        proofs.serves_default,
        proofs.keeps_answers,
        proofs.limits,
        proofs.caps,
        proofs.rations,
        proofs.tells_what_is_left,
    ],
)
def test_what_does_nothing_passes_no_proof(proof: proofs.Proof, is_async: bool) -> None:
    """A wrapper that does nothing is not taken for a strategy."""
    wrap = wrapped_async if is_async else wrapped
    with pytest.raises((AssertionError, ConnectionError)):
        proof(lambda function, *_: wrap(function), is_async=is_async)


@pytest.mark.parametrize(
    "expected", ["CircuitOpen", ours.DEFAULT], ids=["raising", "default served"]
)
def test_what_rejects_nothing_passes_for_no_open_circuit(expected: str) -> None:
    """A wrapper that lets every call through is not taken for an open circuit."""
    service = Service()
    with pytest.raises(AssertionError):
        proofs.rejects(wrapped(service.function()), service, expected)


@pytest.mark.parametrize(
    "proof",
    [
        proofs.counts_every_call,
        lambda make: proofs.remembers(make(Service().function()), Service(), 10),
    ],
    ids=["counts every call", "remembers"],
)
def test_what_is_not_guarded_passes_no_proof(proof: proofs.Proof) -> None:
    """Where nothing is counted, there is nothing to show."""
    with pytest.raises((AssertionError, TypeError, ConnectionError)):
        proof(wrapped)


def test_every_window_is_shown_to_be_as_large_as_it_says() -> None:
    """Each row about windows has a proof, which leaves the window full."""
    found = windows.windows()

    for row in found.rows[:3]:
        [proof] = row.proofs
        proof()
    assert [row.subject.name for row in found.rows[:2]] == ["window of 10", "window of 100"]
