"""The circuit breaker that users write."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from contextvars import ContextVar
from math import inf
from threading import RLock
from typing import Any, ClassVar, Literal

import pybreaker

from resilient.engine import clock, settings, signals
from resilient.engine.call import Call
from resilient.engine.isolation import isolated
from resilient.engine.key import KeySetting
from resilient.engine.lanes import call_through
from resilient.engine.measures import Measures
from resilient.engine.names import Names
from resilient.engine.outcome import Outcome
from resilient.engine.pipeline import Pipeline
from resilient.engine.steps import Proceed, Steps
from resilient.engine.strategy import Accept, Strategy, Target
from resilient.errors import CallRejected, CallTimeout, DeadlineExceeded, InvalidSetting
from resilient.strategies.breaker.circuit import (
    CLOSED,
    HALF_OPEN,
    OPEN,
    Admission,
    Change,
    Circuit,
    Refusal,
    Rules,
)
from resilient.strategies.breaker.prober import Prober
from resilient.strategies.breaker.rejection import CircuitOpen
from resilient.strategies.breaker.shared import SharedState
from resilient.strategies.breaker.window import CountWindow, TimeWindow, Window

__all__ = ["CircuitBreaker", "all_breakers", "circuit_breaker"]

#: What an `exclude` may hold: an exception type, or a predicate on the exception.
Exclusion = type[BaseException] | Callable[[Any], bool]

_names: Names[CircuitBreaker] = Names("circuit breaker")
#: The breakers of which the current context holds a probe's permit.
_probing: ContextVar[tuple[CircuitBreaker, ...]] = ContextVar("resilient_probing", default=())


def all_breakers() -> list[CircuitBreaker]:
    """Return every breaker that has a name, ordered by it."""
    return _names.all()


class CircuitBreaker(Strategy, pybreaker.CircuitBreaker):
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
        Strategy.__init__(self)
        rates = failure_rate is not None or slow_call_rate is not None
        if fail_max is None and not rates:
            fail_max = 5
        if (slow_call_rate is None) != (slow_call_seconds is None):
            raise InvalidSetting(
                "slow_call_seconds", slow_call_seconds, "given together with slow_call_rate"
            )
        if mode not in ("enforce", "shadow"):
            raise InvalidSetting("mode", mode, '"enforce" or "shadow"')
        first = 1.0 if reset_timeout is None else reset_timeout
        longest = max_reset_timeout
        if longest is None:
            longest = 30.0 if reset_timeout is None else first
        rules = Rules(
            fail_max=None if fail_max is None else settings.count("fail_max", fail_max),
            failure_rate=_rate("failure_rate", failure_rate),
            slow_call_rate=_rate("slow_call_rate", slow_call_rate),
            slow_call_seconds=inf
            if slow_call_seconds is None
            else settings.seconds("slow_call_seconds", slow_call_seconds, above_zero=True),
            min_calls=_min_calls(min_calls, window),
            reset_timeout=settings.seconds("reset_timeout", first),
            max_reset_timeout=settings.seconds("max_reset_timeout", longest),
            probes=settings.count("probes", probes),
            success_threshold=settings.count("success_threshold", success_threshold),
            ramp=probe is not None if ramp is None else bool(ramp),
        )
        if rules.max_reset_timeout < rules.reset_timeout:
            raise InvalidSetting(
                "max_reset_timeout", longest, f"reset_timeout ({first:g}) or more"
            )
        self._window_setting = window
        self._circuit = Circuit(rules, _window(window))
        self._mode = mode
        self._lock = RLock()
        self._excluded_exceptions: list[Any] = _exclusions(exclude)
        self._failures = failures
        self._counts: Callable[[Exception], bool] | None = None
        if failures is not None:
            self.count_only(failures)
        self._listeners: list[Any] = list(listeners or ())
        self._throw_new_error_on_trip = throw_new_error_on_trip
        self._shared = None if state_storage is None else SharedState(state_storage)
        self._last_failure: Exception | None = None
        #: How often the circuit has entered each state.
        self.transitions = dict.fromkeys((CLOSED, OPEN, HALF_OPEN), 0)
        self._shadowed = 0
        self._measures: Measures | None = None
        self._own: Pipeline | None = None
        self._prober: Prober | None = None
        if probe is not None:
            every = settings.seconds("probe_every", probe_every, above_zero=True)
            limit = every if probe_timeout is None else probe_timeout
            self._prober = Prober(
                settings.function("probe", probe),
                every,
                settings.seconds("probe_timeout", limit, above_zero=True),
                self._probed,
            )
        self._name: str | None = None
        if name is not None:
            self.name = name
        if self._shared is not None:
            self._announce(self._shared.pull(self._circuit, clock.now()), pushed=True)

    def __repr__(self) -> str:
        return f"<CircuitBreaker {self._name or 'without a name'}: {self.current_state}>"

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
            and not any(map(_listens_to_calls, self._listeners))
        )

    @property
    def accept(self) -> Accept | None:
        """Look at the duration of each success, if slow ones count."""
        slow = self._circuit.rules.slow_call_seconds
        if slow == inf:
            return None
        return lambda _args, _kwargs, _value, seconds: seconds < slow

    def absorb(self, durations: list[float], when: float) -> None:
        """Count the successes of the fast lane."""
        self._circuit.absorb(durations, when)

    def attach(self, target: Target) -> CircuitBreaker:
        """Take the name of the first function that it guards, if it has none."""
        self.named(target.name)
        return self

    def named(self, name: str) -> CircuitBreaker:
        """Take `name`, if it has none."""
        if self._name is None:
            self.name = name
        return self

    def count_only(
        self, failures: Iterable[type[BaseException]] | Callable[[Any], bool]
    ) -> CircuitBreaker:
        """Let nothing but `failures` count against the dependency."""
        from resilient.strategies.matching import error_matcher

        self._counts = error_matcher("failures", failures)
        return self

    @property
    def refuses(self) -> bool:
        """Whether the circuit is open."""
        return self._mode == "enforce" and self._look() == OPEN

    def is_failure(self, error: Exception) -> bool:
        """Whether `error` counts: not excluded, not a rejection, not the caller's deadline."""
        if isinstance(error, CallRejected | DeadlineExceeded):
            return False
        if isinstance(error, CallTimeout):
            return True
        if self._counts is not None and not isolated("failures", True, self._counts, error):
            return False
        return self.is_system_error(error)

    def steps(self, call: Call, proceed: Proceed) -> Steps[Outcome]:
        """Let the call through and take note of it, or reject it."""
        probing = _probing.get()
        if self in probing:  # a part of a probe, which rides on its permit
            return (yield from proceed(call))
        admission: Admission | None
        if call.resumed is not None:
            admission = self._circuit.admitted_at(call.resumed.started)
        else:
            admitted = self._admit(call)
            if isinstance(admitted, Refusal):
                if self._mode == "enforce":
                    call.pipeline.measures.rejected(CircuitOpen.reason)
                    now = clock.now()
                    return Outcome(None, self._rejection(admitted.retry_after), now, now)
                self._shadowed += 1
                admission = None
            else:
                admission = admitted
        self._before_call(call)
        token = None
        if admission is not None and admission.is_probe:
            token = _probing.set((*probing, self))
        try:
            outcome = yield from proceed(call)
        except BaseException:
            if admission is not None:
                self._circuit.withdraw(admission)
            raise
        finally:
            if token is not None:
                with suppress(ValueError):  # closed in another context, with its caller
                    _probing.reset(token)
        return self._noted(admission, outcome)

    def _admit(self, call: Call) -> Admission | Refusal:
        now = clock.now()
        if self._shared is not None:
            self._announce(self._shared.pull(self._circuit, now), pushed=True)
        rules = self._circuit.rules
        lease = max(self._circuit.until - self._circuit.opened, rules.reset_timeout) or 1.0
        if call.limit is not None:
            lease = max(0.0, call.limit.expires - now)
        admitted, changes = self._circuit.admit(now, lease)
        self._announce(changes)
        return admitted

    def _noted(self, admission: Admission | None, outcome: Outcome) -> Outcome:
        error = outcome.error
        if error is not None and not self.is_failure(error):
            if admission is not None:
                self._circuit.withdraw(admission)
            return outcome
        if error is not None:
            # The successes that came before this failure count before it.
            self.settle()
            self._last_failure = error
        self._tell_listeners(error)
        if admission is None:
            return outcome
        in_a_row = 0
        if self._shared is not None:
            if error is None:
                self._shared.succeeded(self._circuit.state)
            elif admission.generation == self._circuit.generation:
                in_a_row = self._shared.failed()
        _, changes = self._circuit.record(
            admission,
            clock.now(),
            outcome.duration,
            failed=error is not None,
            in_a_row=in_a_row,
        )
        self._announce(changes)
        if self._throw_new_error_on_trip and error is not None:
            if any(change.new == OPEN for change in changes):
                rejection = self._rejection(self._circuit.until - clock.now())
                return Outcome(None, rejection, outcome.started, outcome.ended)
        return outcome

    def stream_broke(self, call: Call, outcome: Outcome) -> None:
        """Count a stream that failed in the middle, if it began in the present state."""
        self._noted(self._circuit.admitted_at(call.started), outcome)

    def _rejection(self, retry_after: float) -> CircuitOpen:
        rejection = CircuitOpen(self._name or "circuit", max(0.0, retry_after), self._circuit.state)
        rejection.__cause__ = self._last_failure
        return rejection

    # Telling others

    def _announce(self, changes: list[Change], *, pushed: bool = False) -> None:
        for change in changes:
            self.transitions[change.new] += 1
            self.rest_changed()
            if self._prober is not None:
                if change.new == CLOSED or self._circuit.forced:
                    self._prober.stop()
                else:
                    self._prober.start()
            if self._shared is not None and not pushed:
                self._shared.push(change)
            self._measure(change)
            self._signal(change)
            old, new = self._state_object(change.old), self._state_object(change.new)
            for listener in self.listeners:
                isolated("breaker listener", None, listener.state_change, self, old, new)
            if change.new == CLOSED:
                self._last_failure = None

    def _measure(self, change: Change) -> None:
        since = change.since_first_failure
        if since is None:
            return
        self._measures = self._measures or Measures.of(self._name or "circuit")
        if change.new == CLOSED:
            self._measures.recovered(since)
        elif change.old == CLOSED and change.reason not in ("forced", "opened"):
            self._measures.detected(since)

    def _signal(self, change: Change) -> None:
        fields: dict[str, Any] = {"dependency": self._name, "reason": change.reason}
        if self._mode == "shadow":
            fields["mode"] = "shadow"
            fields["would_have_rejected"] = self._shadowed
        since = change.since_first_failure
        if change.new == OPEN:
            error = self._last_failure
            signals.emit(
                "resilient.circuit_opened",
                **fields,
                failures=change.failures,
                calls=change.calls,
                retry_in_seconds=change.period,
                failing_for_seconds=None if since is None else round(since, 3),
                error=None if error is None else type(error).__name__,
            )
        elif change.new == HALF_OPEN:
            signals.emit("resilient.circuit_half_opened", **fields)
        else:
            signals.emit("resilient.circuit_closed", **fields)
            if since is not None:
                signals.emit(
                    "resilient.recovered",
                    dependency=self._name,
                    recovery_seconds=round(since, 3),
                )

    def _before_call(self, call: Call) -> None:
        for listener in self._listeners:
            isolated(
                "breaker listener",
                None,
                listener.before_call,
                self,
                call.function,
                *call.args,
                **call.kwargs,
            )

    def _tell_listeners(self, error: Exception | None) -> None:
        for listener in self.listeners:
            if error is None:
                isolated("breaker listener", None, listener.success, self)
            else:
                isolated("breaker listener", None, listener.failure, self, error)

    def _probed(self, good: bool) -> None:
        self._announce(self._circuit.probed(clock.now(), good=good)[1])

    # What it shows

    def _look(self) -> str:
        state, changes = self._circuit.look(clock.now())
        self._announce(changes)
        return state

    @property
    def current_state(self) -> str:
        """The state now: "closed", "open" or "half-open"; it turns on time without any call."""
        return self._look()

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
        """The seconds until a call may be let through, or None if the circuit is not open."""
        return self._circuit.until - clock.now() if self._look() == OPEN else None

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

    # pybreaker's interface

    def call(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call `func` under this breaker; of an asynchronous function, return the awaitable."""
        if self._own is None:
            self._own = Pipeline([self], name=self._name or "circuit")
        return call_through(self._own, func, args, kwargs)

    def calling(self) -> AbstractContextManager[Any]:
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
    def state(self, state: str) -> None:
        {OPEN: self.open, HALF_OPEN: self.half_open, CLOSED: self.close}[state]()

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
        _names.claim(name, self)
        if self._name is not None and self._name != name:
            _names.release(self._name, self)
        self._name = name
        self._measures = Measures.of(name)

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

    @property
    def fail_max(self) -> int | None:  # type: ignore[override]
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
        import dataclasses

        self._circuit.rules = dataclasses.replace(self._circuit.rules, **changed)

    def is_system_error(self, exception: BaseException) -> bool:
        """Whether `exception` is not excluded, by `isinstance` or by a predicate."""
        for exclusion in self._excluded_exceptions:
            if isinstance(exclusion, type):
                if isinstance(exception, exclusion):
                    return False
            elif isolated("breaker exclude", False, exclusion, exception):
                return False
        return True

    def add_excluded_exception(self, exception: Exclusion) -> None:
        """Let `exception` say nothing against the dependency any more."""
        self._excluded_exceptions = [*self._excluded_exceptions, *_exclusions([exception])]

    def remove_excluded_exception(self, exception: Exclusion) -> None:
        """Let `exception` count again."""
        self._excluded_exceptions = [one for one in self._excluded_exceptions if one != exception]

    @property
    def listeners(self) -> tuple[Any, ...]:
        """The listeners, in the order in which they are told."""
        return tuple(self._listeners)

    def add_listener(self, listener: Any) -> None:
        """Tell `listener` from now on."""
        self._listeners = [*self._listeners, listener]
        self.rest_changed()

    def remove_listener(self, listener: Any) -> None:
        """Tell `listener` no more."""
        self._listeners = [one for one in self._listeners if one is not listener]
        self.rest_changed()

    @classmethod
    def per_key(
        cls, name: str, key: KeySetting, *, max_keys: int = 1000, **settings: Any
    ) -> Any:
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


def _rate(parameter: str, value: float | None) -> float | None:
    return None if value is None else settings.fraction(parameter, value)


def _min_calls(min_calls: int | None, window: int | str) -> int:
    if min_calls is None:
        return min(10, window) if isinstance(window, int) else 10
    least = settings.count("min_calls", min_calls)
    if isinstance(window, int) and least > window:
        raise InvalidSetting("min_calls", min_calls, f"at most the window ({window})")
    return least


def _window(window: int | str) -> Window:
    if isinstance(window, str):
        return TimeWindow(settings.period("window", window))
    return CountWindow(settings.count("window", window))


def _exclusions(exclude: Iterable[Exclusion] | None) -> list[Any]:
    exclusions = list(exclude or ())
    for one in exclusions:
        is_error = isinstance(one, type) and issubclass(one, BaseException)
        if not is_error and (isinstance(one, type) or not callable(one)):
            raise InvalidSetting("exclude", one, "made of exception types and predicates")
    return exclusions


def _listens_to_calls(listener: Any) -> bool:
    """Whether a listener has more to do at a success than nothing."""
    base = pybreaker.CircuitBreakerListener
    kind = type(listener)
    return any(
        getattr(kind, hook, None) is not getattr(base, hook) for hook in ("before_call", "success")
    )


circuit_breaker = CircuitBreaker
