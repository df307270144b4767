"""The error of a call that an open circuit has rejected."""

from __future__ import annotations

import pybreaker

from resilient.errors import CallRejected

__all__ = ["CircuitOpen"]


class CircuitOpen(CallRejected, pybreaker.CircuitBreakerError):
    """The circuit is open, or has no probe to spare; the last failure is the cause."""

    reason = "circuit_open"

    def __init__(self, name: str, retry_after: float | None, state: str = "open") -> None:
        if retry_after is None:
            until = "until it is reset by hand"
        else:
            retry_after = max(0.0, retry_after)
            until = f"next call in {retry_after:.3g} s at the earliest"
        super().__init__(name, f"circuit {state}, {until}", retry_after=retry_after)
        self.state = state
