"""The circuit breaker that users write."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import inf
from typing import TYPE_CHECKING, Any, Literal

import pybreaker

from resilient.engine import clock, settings
from resilient.engine.key import KeySetting
from resilient.engine.outcome import Outcome
from resilient.engine.prober import Prober, is_well
from resilient.engine.refusals import Rejecting
from resilient.engine.strategy import Accept, Target
from resilient.errors import InvalidSetting
from resilient.strategies.breaker.circuit import Circuit
from resilient.strategies.breaker.exclusions import Exclusion
from resilient.strategies.breaker.passage import CircuitPassage
from resilient.strategies.breaker.rejection import CircuitOpen
from resilient.strategies.breaker.rules import rules_of, window_of
from resilient.strategies.breaker.shared import SharedState
from resilient.strategies.breaker.states import CLOSED, OPEN

if TYPE_CHECKING:
    from resilient.strategies.breaker.keyed import KeyedCircuitBreaker

__all__ = ["CircuitBreaker", "circuit_breaker"]


class CircuitBreaker(CircuitPassage):
    """Calls are let through until too many fail, then rejected until the dependency is back.

    It is a `pybreaker.CircuitBreaker`, with its arguments, listeners, storages and states, for
    synchronous and asynchronous calls alike, and holds no lock while they run.

    Arguments:
        name: The name in errors, logs and metrics; unique. Of the dependency or function if left
            out.
        fail_max: Failures in a row that open it; 1 or more. 5, unless there is a rate.
        failure_rate: The part of the calls in the window that opens it when they fail; above 0
            and at most 1. Looked at when a call fails.
        slow_call_rate: The same for calls that took `slow_call_seconds` or longer.
        slow_call_seconds: From how many seconds on a call is slow.
        window: The calls that the rates are about: how many of the last ones, as 100, or for how
            long, as "10s".
        min_calls: Below this many calls in the window the rates say nothing; 1 or more.
        reset_timeout: Seconds for which it is open. Given alone they are fixed; else it begins
            with 1 and doubles, with jitter, each time that a probe fails.
        max_reset_timeout: The most seconds for which it is open; 30 unless given.
        probes: How many calls are let through at once while it is half-open; 1 or more.
        success_threshold: How many of them must succeed for it to close; 1 or more.
        probe: A function, plain or asynchronous, that checks the dependency in the background
            while the circuit is open: well if it returns anything but False.
        probe_every: Seconds between two checks; above 0.
        probe_timeout: Seconds for one of them; as long as `probe_every` unless given.
        ramp: Whether calls come back little by little; on where there is a `probe`.
        mode: "enforce", or "shadow" to measure and log what would have been rejected.
        exclude: Exception types and predicates that say nothing against the dependency.
        failures: If given, only these exception types and what matches a predicate count.
        listeners: pybreaker's listeners.
        state_storage: One of pybreaker's storages, to share the state with other breakers.
        throw_new_error_on_trip: Whether the call that opens the circuit raises `CircuitOpen`
            instead of its own error, as pybreaker does by default; False unless asked for.

    Raises:
        CircuitOpen: When a call is rejected; also a `pybreaker.CircuitBreakerError`.
        InvalidSetting: If an argument is outside of its range.
        DuplicateName: If there is another breaker of that name.

    Example:
        >>> from resilient import CircuitBreaker, CircuitOpen
        >>> orders = CircuitBreaker("orders", fail_max=1, reset_timeout=60)
        >>> def place() -> None:
        ...     raise ConnectionError("reset by peer")
        >>> try:
        ...     orders.call(place)
        ... except ConnectionError as own_error:
        ...     print(own_error)
        reset by peer
        >>> try:
        ...     orders.call(place)
        ... except CircuitOpen as rejected:
        ...     print(rejected.retry_after > 59, repr(rejected.__cause__))
        True ConnectionError('reset by peer')

    Where the rules come from: "Release It!" by Michael Nygard, pybreaker for the interface,
    resilience4j for windows and rates.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        fail_max: int | None = None,
        failure_rate: float | None = None,
        slow_call_rate: float | None = None,
        slow_call_seconds: float | None = None,
        window: int | str = 100,
        min_calls: int | None = None,
        reset_timeout: float | None = None,
        max_reset_timeout: float | None = None,
        probes: int = 1,
        success_threshold: int = 1,
        probe: Callable[[], Any] | None = None,
        probe_every: float = 1.0,
        probe_timeout: float | None = None,
        ramp: bool | None = None,
        mode: Literal["enforce", "shadow"] = "enforce",
        exclude: Iterable[Exclusion] | None = None,
        failures: Iterable[type[BaseException]] | Callable[[Any], bool] | None = None,
        listeners: Sequence[pybreaker.CircuitBreakerListener] | None = None,
        state_storage: pybreaker.CircuitBreakerStorage | None = None,
        throw_new_error_on_trip: bool = False,
    ) -> None:
        settings.word("mode", mode, "enforce", "shadow")
        rules = rules_of(
            fail_max=fail_max,
            failure_rate=failure_rate,
            slow_call_rate=slow_call_rate,
            slow_call_seconds=slow_call_seconds,
            window=window,
            min_calls=min_calls,
            reset_timeout=reset_timeout,
            max_reset_timeout=max_reset_timeout,
            probes=probes,
            success_threshold=success_threshold,
            ramp=probe is not None if ramp is None else settings.flag("ramp", ramp),
        )
        super().__init__(
            Circuit(rules, window_of(window)),
            mode=mode,
            exclude=exclude,
            listeners=listeners,
            shared=None if state_storage is None else SharedState(state_storage),
            throw_new_error_on_trip=settings.flag(
                "throw_new_error_on_trip", throw_new_error_on_trip
            ),
        )
        if failures is not None:
            self.count_only(failures)
        if probe is not None:
            self._prober = _prober(probe, probe_every, probe_timeout, self._probed)
        if name is not None:
            if not isinstance(name, str):
                raise InvalidSetting("name", name, "a string; all other arguments have names")
            self.name = name
        if self._shared is not None:
            self._announce(self._shared.pull(self._circuit, clock.now()), pushed=True)

    # A part of a pipeline

    @property
    def label(self) -> str | None:
        """The name of the dependency that it stands before."""
        return self._name

    @property
    def resolution(self) -> float | None:  # type: ignore[override]
        """How exactly it must know when calls ended."""
        return self._circuit.window.resolution

    @property
    def at_rest(self) -> bool:
        """Whether it is closed, and nobody wants to know of each call."""
        return (
            self._circuit.state == CLOSED
            and self._shared is None
            and not self._listening.hear_calls
        )

    @property
    def accept(self) -> Accept | None:
        """Look at the duration of each success, if slow ones count."""
        slow = self._circuit.rules.slow_call_seconds
        if slow == inf:
            return None
        return lambda _args, _kwargs, _value, started, ended: ended - started < slow

    @property
    def rejecting(self) -> Rejecting | None:
        """How an open circuit turns calls away, where it does and nobody else has a say."""
        if self._mode != "enforce" or self._shared is not None:
            return None
        circuit, name, prober = self._circuit, self._name or "circuit", self._prober

        def left() -> float | None:
            seconds = circuit.until - clock.now()
            if prober is not None and seconds < inf:
                seconds = min(seconds, prober.next_in())
            return seconds if 0.0 <= seconds < inf else None

        def error(now: float) -> CircuitOpen:
            left = circuit.until - now
            if prober is not None and left < inf:  # else it is forced, and nobody asks
                left = min(left, prober.next_in())
            rejection = CircuitOpen(name, None if left == inf else left, OPEN)
            rejection.__cause__ = self._last_failure
            return rejection

        return Rejecting(circuit, error, CircuitOpen, left)

    def absorb(self, count: int, seconds: float, when: float) -> None:
        """Count the successes of the fast lane."""
        self._circuit.absorb(count, seconds, when)

    def attach(self, target: Target) -> CircuitBreaker:
        """Take the name of the first function that it guards, if it has none."""
        self.named(target.name)
        return self

    def named(self, name: str) -> CircuitBreaker:
        """Take `name`, if it has none."""
        if self._name is None:
            self.name = name
        return self

    def _probed(self, outcome: Outcome) -> None:
        self._announce(self._circuit.probed(clock.now(), good=is_well(outcome))[1])

    @classmethod
    def per_key(
        cls, name: str, key: KeySetting, *, max_keys: int = 1000, **settings: Any
    ) -> KeyedCircuitBreaker:
        """Return a strategy with a circuit for each key, such as a host or a tenant.

        Arguments:
            name: The name in errors, logs and metrics, common to all keys.
            key: A template of the function's parameters, such as "{host}", or a function of them.
            max_keys: The most circuits that are kept; those used longest ago go, closed ones
                first.
            settings: As for a `CircuitBreaker`.

        Example:
            >>> from resilient import circuit_breaker
            >>> @circuit_breaker.per_key("partners", "{host}", fail_max=3)
            ... def fetch(host: str, path: str) -> str:
            ...     return f"{host}/{path}"
            >>> fetch("a.example", "index")
            'a.example/index'
        """
        from resilient.strategies.breaker.keyed import KeyedCircuitBreaker

        return KeyedCircuitBreaker(name, key, max_keys=max_keys, **settings)


def _prober(
    probe: Callable[[], Any],
    every: float,
    timeout: float | None,
    probed: Callable[[Outcome], None],
) -> Prober:
    every = settings.seconds("probe_every", every, above_zero=True)
    timeout = every if timeout is None else timeout
    return Prober(
        "probe",
        settings.function("probe", probe, takes=[]),
        every,
        settings.seconds("probe_timeout", timeout, above_zero=True),
        probed,
    )


circuit_breaker = CircuitBreaker
