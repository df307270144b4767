"""The state of a circuit in one of pybreaker's storages, shared with other breakers on it.

A storage is somebody else's code, and may be far away: it is asked before each call, as pybreaker
does, never under a lock, and one that fails leaves the circuit to decide by itself.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, final

import pybreaker

from resilient.engine.isolation import isolated
from resilient.errors import InvalidSetting
from resilient.strategies.breaker.circuit import Circuit
from resilient.strategies.breaker.states import CLOSED, HALF_OPEN, OPEN, Change

__all__ = ["SharedState"]

_METHODS = (
    "increment_counter",
    "reset_counter",
    "increment_success_counter",
    "reset_success_counter",
)


@final
class SharedState:
    """Takes changes from a storage to a circuit, and from the circuit to the storage."""

    def __init__(self, storage: pybreaker.CircuitBreakerStorage) -> None:
        # Its kind tells: one that is down may raise from whatever it is asked.
        if not all(callable(getattr(type(storage), method, None)) for method in _METHODS):
            raise InvalidSetting("state_storage", storage, "one of pybreaker's storages")
        self.storage = storage
        self._known: str | None = None

    def pull(self, circuit: Circuit, now: float) -> list[Change]:
        """Follow a change that another breaker has made, and return it."""
        state = isolated("breaker storage", None, self._state)
        known, self._known = self._known, state
        if state is None or state in (circuit.state, known):
            return []
        if state == OPEN:
            return circuit.open(now, period=self._left_open(circuit))[1]
        if state == HALF_OPEN:
            return circuit.half_open(now)[1]
        return circuit.close(now)[1] if state == CLOSED else []

    def _state(self) -> str | None:
        state: Any = self.storage.state
        return state if isinstance(state, str) else None

    def _left_open(self, circuit: Circuit) -> float:
        # The one place where a wall clock counts: it is what the breakers have in common.
        period = circuit.rules.reset_timeout
        passed = isolated("breaker storage", 0.0, self._open_for)
        return min(period, max(0.0, period - passed))

    def _open_for(self) -> float:
        opened_at = self.storage.opened_at
        if opened_at is None:
            return 0.0
        return (datetime.now(UTC) - opened_at).total_seconds()

    def push(self, change: Change) -> None:
        """Tell the storage of a change of the circuit."""
        isolated("breaker storage", None, self._write, change)
        # Some storages do not raise when they fail, but go on with a state of their own. What the
        # storage says now is no news, whether or not it is what was written.
        self._known = isolated("breaker storage", change.new, self._state)

    def _write(self, change: Change) -> None:
        if change.new == OPEN:
            self.storage.opened_at = datetime.now(UTC)
        elif change.new == CLOSED:
            self.storage.reset_counter()
        self.storage.reset_success_counter()
        self.storage.state = change.new

    def failed(self) -> int:
        """Count a failure and return the failures in a row, over all breakers."""
        return isolated("breaker storage", 0, self._failed)

    def _failed(self) -> int:
        self.storage.increment_counter()
        return int(self.storage.counter)

    def succeeded(self, state: str) -> None:
        """Count a success."""
        isolated("breaker storage", None, self._succeeded, state)

    def _succeeded(self, state: str) -> None:
        self.storage.reset_counter()
        if state == HALF_OPEN:
            self.storage.increment_success_counter()

    def counter(self, name: str) -> Any:
        """Return a counter of the storage, or 0 if it does not answer."""
        return isolated("breaker storage", 0, getattr, self.storage, name)
