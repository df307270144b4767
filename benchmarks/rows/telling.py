"""What it costs to tell of calls: events next to the same by hand, and metrics next to none."""

from __future__ import annotations

from functools import partial

from benchmarks import observed, proofs
from benchmarks.rows.row import Row, Section, ours_row, unit_of
from benchmarks.rows.success import STACK
from benchmarks.services import answer

__all__ = ["BY_HAND", "OBSERVED", "WITHOUT_METRICS", "telling"]

OBSERVED = "observe, two events as JSON"
BY_HAND = "logging: the same two events as JSON, by hand"
WITHOUT_METRICS = "fallback + retry + breaker (100 calls), metrics taken out"


def telling() -> Section:
    """Return what a call costs that is told of, and one of which nothing is counted."""
    unit = unit_of(is_async=False)
    lines = observed.Lines()
    silent = observed.without_metrics
    shown = (proofs.breaks, proofs.retries, proofs.serves_default)
    return Section(
        "telling",
        "Telling of calls",
        (
            Row(
                unit.beside(OBSERVED, observed.observed(answer, lines), is_ours=True),
                (observed.same_events,),
            ),
            Row(unit.beside(BY_HAND, observed.by_hand(answer, lines))),
            ours_row(
                f"observe, below the level + {STACK}",
                observed.observed_stack,
                *shown,
                proofs.counts_every_call,
            ),
            Row(
                unit.beside(WITHOUT_METRICS, silent(answer), is_ours=True),
                tuple(partial(proof, silent) for proof in shown),
            ),
        ),
    )
