"""The error of a call that an open circuit has rejected."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pybreaker

from resilient.errors import CallRejected

__all__ = ["CircuitOpen"]


class CircuitOpen(CallRejected, pybreaker.CircuitBreakerError):
    """The circuit is open, or has no probe to spare; the last failure is the cause."""

    reason = "circuit_open"

    # It is its arguments, and put into words when somebody reads it: raising it must cost next to
    # nothing, as it is raised when a service is busiest.
    if TYPE_CHECKING:

        def __init__(self, name: str, retry_after: float | None, state: str = "open") -> None: ...
    else:
        __init__ = BaseException.__init__

    @property
    def name(self) -> str:  # type: ignore[override]
        """The name of the breaker."""
        return str(self.args[0])

    @property
    def retry_after(self) -> float | None:  # type: ignore[override]
        """The seconds until a call may be let through, or None if nobody knows."""
        seconds: float | None = self.args[1]
        return seconds

    @property
    def state(self) -> str:
        """The state of the circuit."""
        return self.args[2] if len(self.args) > 2 else "open"

    def __str__(self) -> str:
        if self.retry_after is None:
            until = "until it is reset by hand"
        else:
            until = f"next call in {self.retry_after:.3g} s at the earliest"
        return f"{self.name}: circuit {self.state}, {until}"
