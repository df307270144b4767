"""What is said and counted when a circuit changes its state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resilient.engine import signals
from resilient.strategies.breaker.states import CLOSED, HALF_OPEN, OPEN, Change

if TYPE_CHECKING:
    from resilient.strategies.breaker.interface import CircuitInterface

__all__ = ["announce"]


def announce(breaker: CircuitInterface, change: Change) -> None:
    """Count how long detection or recovery took, and tell all who listen of the change."""
    since = change.since_first_failure
    if since is not None:
        measures = breaker.measures
        if change.new == CLOSED:
            measures.recovered(since)
        elif change.old == CLOSED and change.reason not in ("forced", "opened"):
            measures.detected(since)
    fields: dict[str, Any] = {"dependency": breaker.name, "reason": change.reason}
    if breaker.mode == "shadow":
        fields |= {"mode": "shadow", "would_have_rejected": breaker.would_have_rejected}
    if change.new == OPEN:
        error = breaker.last_failure
        signals.emit(
            "resilient.circuit_opened",
            **fields,
            failures=change.failures,
            calls=change.calls,
            retry_in_seconds=_rounded(breaker.retry_after),
            failing_for_seconds=_rounded(since),
            error=None if error is None else type(error).__name__,
        )
    elif change.new == HALF_OPEN:
        signals.emit("resilient.circuit_half_opened", **fields)
    else:
        signals.emit("resilient.circuit_closed", **fields)
        if since is not None:
            signals.emit(
                "resilient.recovered",
                dependency=breaker.name,
                detection_seconds=_rounded(change.detected_after),
                recovery_seconds=_rounded(since),
            )


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
