"""What was served instead of the real answer, visible to the one who asked for it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import final

__all__ = ["Degradation", "degradation_scope", "degradations", "note_degradation", "scope"]

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


@final
class _Scope:
    """What has been degraded since it was opened, here and in the scopes within."""

    __slots__ = ("collected", "is_open", "outer")

    def __init__(self, outer: _Scope | None) -> None:
        self.collected: list[Degradation] = []
        self.outer = outer
        self.is_open = True


#: The innermost scope of the current context, which may have ended.
scope: ContextVar[_Scope | None] = ContextVar("resilient_degradations", default=None)


def _current() -> _Scope | None:
    """Return the innermost scope that is still open: a task may outlive that which it began in."""
    innermost = scope.get()
    while innermost is not None and not innermost.is_open:
        innermost = innermost.outer
    return innermost


@contextmanager
def degradation_scope() -> Generator[list[Degradation]]:
    """Collect the degradations of all that is called within a ``with`` block.

    Tasks that begin within it and calls on the library's threads belong to it. A scope within
    another one tells the outer one too.

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
    innermost = _Scope(_current())
    scope.set(innermost)
    try:
        yield innermost.collected
    finally:
        # By no token: a generator may be closed in another context than it was begun in.
        innermost.is_open = False
        scope.set(_current())


def degradations() -> tuple[Degradation, ...]:
    """Return what has been degraded so far in the innermost `degradation_scope`."""
    innermost = _current()
    return () if innermost is None else tuple(innermost.collected)


def note_degradation(degradation: Degradation) -> None:
    """Add to the innermost scope, if there is one, and to those around it."""
    innermost = _current()
    while innermost is not None:
        if innermost.is_open and len(innermost.collected) < MOST_KEPT:
            innermost.collected.append(degradation)
        innermost = innermost.outer
