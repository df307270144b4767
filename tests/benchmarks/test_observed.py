"""The benchmark of observed calls compares what is alike."""

from __future__ import annotations

from benchmarks import observed, proofs
from benchmarks.services import answer


def test_both_ways_of_telling_tell_the_same() -> None:
    """Events, levels, keys and values of the two are equal."""
    observed.same_events()


def test_a_call_without_metrics_is_guarded_all_the_same() -> None:
    """It breaks, retries and serves a default; only nothing is counted."""
    for proof in (proofs.breaks, proofs.retries, proofs.serves_default):
        proof(observed.without_metrics)
    assert observed.without_metrics(answer)("u1") == "u1"


def test_an_observed_stack_does_its_work() -> None:
    """It breaks, retries, serves a default and counts, with events around it."""
    for proof in (proofs.breaks, proofs.retries, proofs.serves_default, proofs.counts_every_call):
        proof(observed.observed_stack)
