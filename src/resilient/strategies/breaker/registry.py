"""Every breaker that has a name, for metrics and health to show."""

from __future__ import annotations

from typing import Protocol

from resilient.engine.names import Names

__all__ = ["Shown", "all_breakers", "breaker_names"]


class Shown(Protocol):
    """What metrics and health show of a breaker, or of one with a circuit for each key."""

    transitions: dict[str, int]

    @property
    def name(self) -> str | None:
        """The name in errors, logs and metrics."""

    @property
    def current_state(self) -> str:
        """The state now."""
        ...

    @property
    def states(self) -> dict[str, int]:
        """How many circuits are in each state."""
        ...

    @property
    def retry_after(self) -> float | None:
        """The seconds until a call may be let through, if that is known."""

    @property
    def failing_since(self) -> float | None:
        """The seconds since the first failure of the present outage, if there is one."""

    @property
    def last_failure(self) -> Exception | None:
        """The last error that counted in it."""


breaker_names: Names[Shown] = Names("circuit breaker")


def all_breakers() -> list[Shown]:
    """Return every breaker that has a name, ordered by it."""
    return breaker_names.all()
