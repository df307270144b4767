"""A circuit for each key, such as a host or a tenant: one that fails does not stop the others."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, final

from resilient.engine import settings
from resilient.engine.call import Call
from resilient.engine.isolation import isolated
from resilient.engine.key import Key, KeyFunction, KeySetting, key_function
from resilient.engine.locks import new_lock
from resilient.engine.outcome import Outcome
from resilient.engine.steps import Proceed, Steps
from resilient.engine.strategy import Strategy, Target
from resilient.errors import InvalidSetting
from resilient.strategies.breaker.breaker import CircuitBreaker
from resilient.strategies.breaker.registry import breaker_names
from resilient.strategies.breaker.rejection import CircuitOpen
from resilient.strategies.breaker.states import CLOSED, HALF_OPEN, OPEN

__all__ = ["KeyedCircuitBreaker"]

#: What each circuit would need one of its own of.
_NOT_FOR_ALL_KEYS = ("probe", "state_storage")


class KeyedCircuitBreaker(Strategy):
    """A circuit breaker for each key of the calls; see `CircuitBreaker.per_key`.

    A circuit begins with the first call of its key. Metrics, health and events show all of them
    under the one name: how many are in which state, never which keys there are.
    """

    no_block = (
        "a block has no arguments to make a key of: "
        "decorate a function with circuit_breaker.per_key(...)"
    )

    rejection = CircuitOpen
    rejects_by_key = True

    def __init__(self, name: str, key: KeySetting, *, max_keys: int = 1000, **rules: Any) -> None:
        super().__init__()
        for parameter in _NOT_FOR_ALL_KEYS:
            if rules.get(parameter) is not None:
                raise InvalidSetting(parameter, rules[parameter], "left out: all keys would share")
        if not isinstance(key, str) and key is not None:
            settings.function("key", key)
        self._key = key
        self._key_of: KeyFunction | None = None
        self._rules: dict[str, Any] = {
            parameter: tuple(value) if isinstance(value, Iterator) else value
            for parameter, value in rules.items()
        }
        #: How often the circuits have entered each state.
        self.transitions: dict[str, int] = dict.fromkeys((CLOSED, OPEN, HALF_OPEN), 0)
        self.name = settings.text("name", name)
        # Also what checks the settings, before there is a key.
        self._keyless = self._new_circuit()
        self._circuits = _Circuits(self._new_circuit, settings.count("max_keys", max_keys))
        breaker_names.claim(self.name, self)

    def __repr__(self) -> str:
        return f"<KeyedCircuitBreaker {self.name}: {len(self.circuits)} keys>"

    def _new_circuit(self) -> CircuitBreaker:
        return CircuitBreaker(**self._rules).one_of_many(self.name, self.transitions)

    # A part of a pipeline

    @property
    def label(self) -> str:
        """The name of the dependency that it stands before."""
        return self.name

    @property
    def at_rest(self) -> bool:
        """Never: each call has to be led to the circuit of its key."""
        return False

    def attach(self, target: Target) -> KeyedCircuitBreaker:
        """Return this breaker with a key that fits `target`; the circuits stay the same."""
        attached = copy.copy(self)
        attached._key_of = key_function(self._key, target)
        Strategy.__init__(attached)
        return attached

    def is_failure(self, error: Exception) -> bool:
        """Whether `error` counts, which is the same for every key."""
        return self._keyless.is_failure(error)

    def refuses(self, call: Call) -> bool:
        """Whether the circuit of the call's key is open."""
        return self._circuit_of(call).refuses(call)

    def steps(self, call: Call, proceed: Proceed) -> Steps[Outcome]:
        """Leave the call to the circuit of its key."""
        return (yield from self._circuit_of(call).steps(call, proceed))

    def _circuit_of(self, call: Call) -> CircuitBreaker:
        return isolated("breaker key", self._keyless, self._find, call)

    def _find(self, call: Call) -> CircuitBreaker:
        key_of = self._key_of
        if key_of is None:  # a pipeline's `call`, of whatever function
            target = Target(call.function, call.name, is_async=call.is_async)
            key_of = key_function(self._key, target)
        return self._circuits.of(key_of(call.args, call.kwargs))

    # What it shows

    @property
    def circuits(self) -> dict[Key, CircuitBreaker]:
        """The circuits that there are now, by key."""
        return self._circuits.all()

    @property
    def states(self) -> dict[str, int]:
        """How many circuits are in each state."""
        counts: dict[str, int] = dict.fromkeys((CLOSED, OPEN, HALF_OPEN), 0)
        for circuit in self._all():
            counts[circuit.current_state] += 1
        return counts

    @property
    def current_state(self) -> str:
        """The state that all circuits are in; "half-open" while they are in different ones."""
        found = {circuit.current_state for circuit in self._all()}
        return found.pop() if len(found) == 1 else HALF_OPEN

    @property
    def retry_after(self) -> float | None:
        """The seconds until one of the open circuits lets a call through; None without any."""
        waits = [one.retry_after for one in self._all()]
        return min((wait for wait in waits if wait is not None), default=None)

    @property
    def failing_since(self) -> float | None:
        """The seconds since the first failure of the longest of the present outages."""
        first = self._longest_failing()
        return None if first is None else first.failing_since

    @property
    def last_failure(self) -> Exception | None:
        """The last error that counted in the longest of the present outages."""
        first = self._longest_failing()
        return None if first is None else first.last_failure

    def _longest_failing(self) -> CircuitBreaker | None:
        failing = [one for one in self._all() if one.failing_since is not None]
        return max(failing, key=lambda one: one.failing_since or 0.0, default=None)

    def _all(self) -> list[CircuitBreaker]:
        """Return all circuits; that of calls without a key only once it is not closed."""
        circuits = list(self.circuits.values())
        if not circuits or self._keyless.current_state != CLOSED:
            circuits.append(self._keyless)
        return circuits


@final
class _Circuits:
    """A bounded number of circuits by key, those used longest ago first.

    Those that are not closed stand apart, as they are what must not be forgotten. A circuit is put
    in its place when it is used, and again when it would be the next to go.
    """

    __slots__ = ("_closed", "_lock", "_most", "_new", "_others")

    def __init__(self, new: Callable[[], CircuitBreaker], most: int) -> None:
        self._new = new
        self._most = most
        self._lock = new_lock()
        self._closed: dict[Key, CircuitBreaker] = {}
        self._others: dict[Key, CircuitBreaker] = {}

    def all(self) -> dict[Key, CircuitBreaker]:
        with self._lock:
            return {**self._others, **self._closed}

    def of(self, key: Key) -> CircuitBreaker:
        """Return the circuit of `key`, new if there is none."""
        with self._lock:
            circuit = self._taken_locked(key)
            if circuit is None:
                circuit = self._new()
                while len(self._closed) + len(self._others) >= self._most:
                    self._drop_one_locked()
            self._place_locked(key, circuit)
        return circuit

    def _taken_locked(self, key: Key) -> CircuitBreaker | None:
        circuit = self._closed.pop(key, None)
        return self._others.pop(key, None) if circuit is None else circuit

    def _place_locked(self, key: Key, circuit: CircuitBreaker) -> None:
        group = self._closed if circuit.is_closed else self._others
        group[key] = circuit

    def _drop_one_locked(self) -> None:
        while self._closed:
            key, circuit = _pop_oldest(self._closed)
            if circuit.is_closed:
                return
            self._others[key] = circuit
        _pop_oldest(self._others)


def _pop_oldest(circuits: dict[Key, CircuitBreaker]) -> tuple[Key, CircuitBreaker]:
    key = next(iter(circuits))
    return key, circuits.pop(key)
