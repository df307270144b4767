"""What was served instead of the real answer, visible to the one who asked for it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

__all__ = ["Degradation", "degradation_scope", "degradations", "note_degradation"]

#: More than this many are counted by the metrics, but not kept for one request.
MOST_KEPT = 1000


@dataclass(frozen=True, slots=True)
class Degradation:
    """One answer of a fallback.

    Attributes:
        dependency: The name of what failed.
        tier: What answered instead.
        age: How old that answer is, in seconds, if it is known.
        reason: The name of the error that made it necessary.
    """

    dependency: str
    tier: str
    age: float | None
    reason: str


_scope: ContextVar[list[Degradation] | None] = ContextVar("resilient_degradations", default=None)


@contextmanager
def degradation_scope() -> Generator[list[Degradation]]:
    """Collect the degradations of all that is called within a ``with`` block.

    Yields:
        The list that they are added to.

    Example:
        >>> from resilient import degradation_scope, with_fallback
        >>> @with_fallback("nobody")
        ... def user_name() -> str:
        ...     raise ConnectionError("user service is down")
        >>> with degradation_scope() as degraded:
        ...     user_name()
        'nobody'
        >>> [(one.tier, one.reason) for one in degraded]
        [('default', 'ConnectionError')]
    """
    collected: list[Degradation] = []
    token = _scope.set(collected)
    try:
        yield collected
    finally:
        _scope.reset(token)


def degradations() -> tuple[Degradation, ...]:
    """Return what has been degraded so far in the innermost `degradation_scope`."""
    return tuple(_scope.get() or ())


def note_degradation(degradation: Degradation) -> None:
    """Add to the innermost scope, if there is one."""
    collected = _scope.get()
    if collected is not None and len(collected) < MOST_KEPT:
        collected.append(degradation)
