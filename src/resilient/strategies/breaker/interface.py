"""The circuit as an object: its state, its name, its listeners, and hands on it.

This is what pybreaker's users know, on top of our own circuit. What a call goes through is in
`passage`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Self

import pybreaker

from resilient.engine import clock, settings
from resilient.engine.lanes import call_through
from resilient.engine.locks import new_lock
from resilient.engine.measures import Measures
from resilient.engine.pipeline import Pipeline
from resilient.engine.prober import Prober
from resilient.engine.strategy import Strategy
from resilient.errors import InvalidSetting
from resilient.strategies.breaker.announce import announce
from resilient.strategies.breaker.circuit import Circuit
from resilient.strategies.breaker.exclusions import Exclusion, checked_exclusions, is_excluded
from resilient.strategies.breaker.listeners import Listeners
from resilient.strategies.breaker.registry import breaker_names
from resilient.strategies.breaker.shared import SharedState
from resilient.strategies.breaker.states import CLOSED, HALF_OPEN, OPEN, Change

__all__ = ["CircuitInterface"]


class CircuitInterface(Strategy, pybreaker.CircuitBreaker):  # type: ignore[misc]
    """What can be seen of a circuit breaker, and done to it by hand."""

    def __init__(
        self,
        circuit: Circuit,
        *,
        mode: str,
        exclude: Iterable[Exclusion] | None,
        listeners: Sequence[pybreaker.CircuitBreakerListener] | None,
        shared: SharedState | None,
        throw_new_error_on_trip: bool,
    ) -> None:
        # pybreaker's own constructor is not called: it would make a state object that refers back
        # to the breaker, and a breaker that is dropped should be gone at once, with its name.
        Strategy.__init__(self)
        self._circuit = circuit
        self._mode = mode
        self._lock = circuit.lock
        self._excluded_exceptions: list[Any] = checked_exclusions(exclude)
        self._listening = Listeners(listeners, circuit.lock)
        self._shared = shared
        self._throw_new_error_on_trip = throw_new_error_on_trip
        self._name: str | None = None
        self._measures: Measures | None = None
        self._own: Pipeline | None = None
        self._prober: Prober | None = None
        self._last_failure: Exception | None = None
        self._shadowed = 0
        #: How often the circuit has entered each state.
        self.transitions: dict[str, int] = dict.fromkeys((CLOSED, OPEN, HALF_OPEN), 0)

    def __repr__(self) -> str:
        return f"<CircuitBreaker {self._name or 'without a name'}: {self.current_state}>"

    # What it shows

    def _look(self) -> str:
        state, changes = self._circuit.look(clock.now())
        self._announce(changes)
        return state

    @property
    def mode(self) -> str:
        """Either "enforce", or "shadow" where nothing is rejected."""
        return self._mode

    @property
    def would_have_rejected(self) -> int:
        """How many calls the shadow of an open circuit has fallen on."""
        return self._shadowed

    @property
    def measures(self) -> Measures:
        """The counts under its name."""
        if self._measures is None:
            self._measures = Measures.of(self._name or "circuit")
        return self._measures

    @property
    def current_state(self) -> str:
        """The state now: "closed", "open" or "half-open"; it turns on time without any call."""
        return self._look()

    @property
    def states(self) -> dict[str, int]:
        """1 for the state that it is in now, 0 for the others."""
        now = self._look()
        return {state: int(state == now) for state in (CLOSED, OPEN, HALF_OPEN)}

    @property
    def is_closed(self) -> bool:
        """Whether it is closed; known at once, as the passing of time closes no circuit."""
        return self._circuit.state == CLOSED

    @property
    def failure_rate(self) -> float:
        """The part of the calls in the window that failed; 0.0 if there were none."""
        return self._share("failures")

    @property
    def slow_call_rate(self) -> float:
        """The part of the calls in the window that were slow; 0.0 if there were none."""
        return self._share("slow")

    def _share(self, kind: str) -> float:
        self.settle()
        self._look()
        window = self._circuit.window
        share: float = getattr(window, kind) / window.calls if window.calls else 0.0
        return share

    @property
    def retry_after(self) -> float | None:
        """The seconds until a call may be let through; None if not open, or forced to be.

        That is the end of the period, or the next health check in the background.
        """
        if self._look() != OPEN or self._circuit.forced:
            return None
        return self._earliest(self._circuit.until - clock.now())

    def _earliest(self, seconds: float) -> float:
        return seconds if self._prober is None else min(seconds, self._prober.next_in())

    @property
    def failing_since(self) -> float | None:
        """The seconds since the first failure of the present outage, or None if there is none."""
        first = self._circuit.first_failure
        return None if first is None else clock.now() - first

    @property
    def last_failure(self) -> Exception | None:
        """The last error that counted, while there is an outage or one may be coming."""
        return self._last_failure

    # By hand

    def force_open(self) -> None:
        """Reject every call until `reset`."""
        self._announce(self._circuit.open(clock.now(), forced=True)[1])

    def force_closed(self) -> None:
        """Let every call through, whatever it comes to, until `reset`."""
        self._announce(self._circuit.close(clock.now(), forced=True)[1])

    def reset(self) -> None:
        """Close, forget what was, and end what was forced."""
        self.settle()
        self._announce(self._circuit.close(clock.now())[1])
        self._last_failure = None

    # Telling others

    def _announce(self, changes: list[Change], *, pushed: bool = False) -> None:
        for change in changes:
            with _counting:
                self.transitions[change.new] += 1
            self.rest_changed()
            if self._prober is not None:
                self._prober.follow(self._circuit.wants_probes)
            if self._shared is not None and not pushed:
                self._shared.push(change)
            announce(self, change)
            self._listening.changed(
                self, self._state_object(change.old), self._state_object(change.new)
            )
            if change.new == CLOSED:
                self._last_failure = None

    # pybreaker's interface

    def call(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call `func` under this breaker; of an asynchronous function, return the awaitable."""
        if self._own is None:
            self._own = Pipeline(self, name=self._name or "circuit")
        return call_through(self._own, func, args, kwargs)

    async def call_async(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, func: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        """Call the asynchronous `func` under this breaker; Tornado is not needed for it."""
        return await self.call(func, *args, **kwargs)

    def calling(self) -> AbstractContextManager[Any]:  # type: ignore[override]
        """Return this breaker as the guard of a ``with`` block."""
        return self

    def open(self) -> bool:
        """Open the circuit for its period, as if it had just tripped."""
        self._announce(self._circuit.open(clock.now())[1])
        return self._throw_new_error_on_trip

    def half_open(self) -> None:
        """Let probes through now."""
        self._announce(self._circuit.half_open(clock.now())[1])

    def close(self) -> None:
        """Close the circuit and forget what was."""
        self.reset()

    @property
    def state(self) -> Any:
        """The state as one of pybreaker's objects, with its `name`."""
        return self._state_object(self._look())

    @state.setter
    def state(self, state_str: str) -> None:
        if state_str not in self._states:
            raise InvalidSetting("state", state_str, '"closed", "open" or "half-open"')
        {OPEN: self.open, HALF_OPEN: self.half_open, CLOSED: self.close}[state_str]()

    _states: ClassVar[dict[str, Any]] = {
        CLOSED: pybreaker.CircuitClosedState,
        OPEN: pybreaker.CircuitOpenState,
        HALF_OPEN: pybreaker.CircuitHalfOpenState,
    }

    def _state_object(self, state: str) -> Any:
        return self._states[state](self, prev_state=None, notify=False)

    @property
    def name(self) -> str | None:
        """The name in errors, logs and metrics."""
        return self._name

    @name.setter
    def name(self, name: str) -> None:
        settings.text("name", name)
        breaker_names.claim(name, self)
        if self._name is not None and self._name != name:
            breaker_names.release(self._name, self)
        self._name = name
        self._measures = Measures.of(name)

    def one_of_many(self, name: str, transitions: dict[str, int]) -> Self:
        """Go by `name`, which belongs to the many circuits of which this is one."""
        self._name = name
        self.transitions = transitions
        return self

    @property
    def fail_counter(self) -> int:
        """The failures in a row."""
        if self._shared is not None:
            return int(self._shared.counter("counter"))
        self.settle()
        return self._circuit.consecutive

    @property
    def success_counter(self) -> int:
        """The successes in a row while half-open."""
        if self._shared is not None:
            return int(self._shared.counter("success_counter"))
        return self._circuit.successes

    @property  # type: ignore[override]
    def fail_max(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
    ) -> int | None:
        """The failures in a row that open the circuit, or None if only rates do."""
        return self._circuit.rules.fail_max

    @fail_max.setter
    def fail_max(self, number: int) -> None:
        self._change_rules(fail_max=settings.count("fail_max", number))

    @property
    def reset_timeout(self) -> float:
        """The seconds for which the circuit is open, at first."""
        return self._circuit.rules.reset_timeout

    @reset_timeout.setter
    def reset_timeout(self, timeout: float) -> None:
        timeout = settings.seconds("reset_timeout", timeout)
        self._change_rules(reset_timeout=timeout, max_reset_timeout=timeout)

    @property
    def success_threshold(self) -> int:
        """How many probes must succeed for the circuit to close."""
        return self._circuit.rules.success_threshold

    @success_threshold.setter
    def success_threshold(self, threshold: int) -> None:
        self._change_rules(success_threshold=settings.count("success_threshold", threshold))

    def _change_rules(self, **changed: Any) -> None:
        with self._lock:
            self._circuit.rules = dataclasses.replace(self._circuit.rules, **changed)

    def is_system_error(self, exception: BaseException) -> bool:
        """Whether `exception` is not excluded, by `isinstance` or by a predicate."""
        return not is_excluded(exception, self._excluded_exceptions)

    def add_excluded_exception(self, exception: Exclusion) -> None:
        """Let `exception` say nothing against the dependency any more."""
        excluded = checked_exclusions([exception])
        with self._lock:
            self._excluded_exceptions = [*self._excluded_exceptions, *excluded]

    def remove_excluded_exception(self, exception: Exclusion) -> None:
        """Let `exception` count again."""
        with self._lock:
            kept = [one for one in self._excluded_exceptions if one != exception]
            self._excluded_exceptions = kept

    @property
    def listeners(self) -> tuple[Any, ...]:
        """The listeners, in the order in which they are told."""
        return self._listening.all

    def add_listener(self, listener: Any) -> None:
        """Tell `listener` from now on."""
        self._listening.add(listener)
        self.rest_changed()

    def remove_listener(self, listener: Any) -> None:
        """Tell `listener` no more."""
        self._listening.remove(listener)
        self.rest_changed()


# One for all: the circuits of a keyed breaker count together, and changes are rare.
_counting = new_lock()
