"""The error of a call that an open circuit has rejected."""

from __future__ import annotations

import pybreaker

from resilient.errors import CallRejected

__all__ = ["CircuitOpen"]


class CircuitOpen(CallRejected, pybreaker.CircuitBreakerError):
    """The circuit is open, or has no probe to spare; the last failure is the cause."""

    reason = "circuit_open"

    def __init__(self, name: str, retry_after: float, state: str = "open") -> None:
        super().__init__(
            name,
            f"circuit {state}, next call in {retry_after:.3g} s at the earliest",
            retry_after=retry_after,
        )
        self.state = state
