"""When a call must be back, and how nested calls learn of it.

The tightest limit of a call travels in a context variable, so that whatever the call does further
down can see what is left and cannot outlive it.
"""

from __future__ import annotations

from contextvars import ContextVar

from resilient.engine import clock
from resilient.errors import CallTimeout, DeadlineExceeded

__all__ = ["Limit", "ambient", "current_limit", "leave_elsewhere", "remaining", "tighter"]


class Limit:
    """A moment by which a call must be back, and whose limit that is.

    `ended` says that the call was back in time. What it has left behind, such as a task that it
    started, inherits its context, but is under the limits of `outer` only.
    """

    __slots__ = ("ended", "expires", "name", "outer", "owner", "seconds")

    def __init__(self, expires: float, seconds: float, name: str, owner: object = None) -> None:
        self.expires = expires
        self.seconds = seconds
        self.name = name
        self.owner = owner
        self.ended = False
        self.outer: Limit | None = None

    @property
    def expired(self) -> bool:
        """Whether the moment has come."""
        return clock.now() >= self.expires

    def postponed(self, seconds: float) -> Limit:
        """Return the same limit, `seconds` later."""
        return Limit(self.expires + seconds, self.seconds, self.name, self.owner)

    def for_one_call(self) -> Limit:
        """Return the same limit, as something that ends with one call in the current context."""
        limit = Limit(self.expires, self.seconds, self.name, self.owner)
        limit.outer = current_limit()
        return limit

    def overrun(self) -> CallTimeout:
        """Return the error for a call that is still running at this moment."""
        return CallTimeout(self.name, self.seconds, owner=self.owner)

    def too_late(self) -> DeadlineExceeded:
        """Return the error for a call that would have begun after this moment."""
        return DeadlineExceeded(self.name, self.seconds, owner=self.owner)


#: The tightest limit that the current context is under.
ambient: ContextVar[Limit | None] = ContextVar("resilient_limit", default=None)


def current_limit() -> Limit | None:
    """Return the tightest limit of the calls that are still being made in this context.

    Those that have ended are left behind: without a limit, calls can take the fast lane again.
    """
    limit = found = ambient.get()
    while limit is not None and limit.ended:
        limit = limit.outer
    if limit is not found:
        ambient.set(limit)
    return limit


def leave_elsewhere(limit: Limit) -> None:
    """Take `limit` from the current context, if it was copied from the one where it was set."""
    if ambient.get() is limit:
        ambient.set(limit.outer)


def tighter(one: Limit | None, other: Limit) -> Limit:
    """Return whichever of two limits ends first."""
    return other if one is None or other.expires < one.expires else one


def remaining() -> float | None:
    """Return the seconds that the current call has left, never below 0, or None without a limit.

    Example:
        >>> from resilient import deadline, remaining
        >>> remaining() is None
        True
        >>> with deadline(2):
        ...     0 < remaining() <= 2
        True
    """
    limit = current_limit()
    return None if limit is None else max(0.0, limit.expires - clock.now())
