"""The circuit breaker that users write."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, Literal

import pybreaker

from resilient.engine import clock, settings
from resilient.engine.call import Call
from resilient.engine.isolation import isolated
from resilient.engine.key import KeySetting
from resilient.engine.outcome import Outcome
from resilient.engine.prober import Prober, is_well
from resilient.engine.refusals import Rejecting
from resilient.engine.steps import Proceed, Steps
from resilient.engine.strategy import Accept, Target
from resilient.errors import CallRejected, CallTimeout, DeadlineExceeded, InvalidSetting
from resilient.strategies.breaker.circuit import CLOSED, OPEN, Admission, Circuit, Refusal
from resilient.strategies.breaker.interface import CircuitInterface, Exclusion
from resilient.strategies.breaker.rejection import CircuitOpen
from resilient.strategies.breaker.rules import rules_of, window_of
from resilient.strategies.breaker.shared import SharedState
from resilient.strategies.matching import error_matcher

if TYPE_CHECKING:
    from resilient.strategies.breaker.keyed import KeyedCircuitBreaker

__all__ = ["CircuitBreaker", "circuit_breaker"]

#: The permits of probes that the current context is part of. Tasks and threads that a probe has
#: begun inherit them, and may outlive it.
_probing: ContextVar[tuple[Admission, ...]] = ContextVar("resilient_probing", default=())


class CircuitBreaker(CircuitInterface):
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

    rejection = CircuitOpen

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
        self._counts: Callable[[Exception], bool] | None = None
        if failures is not None:
            self.count_only(failures)
        if probe is not None:
            every = settings.seconds("probe_every", probe_every, above_zero=True)
            limit = every if probe_timeout is None else probe_timeout
            self._prober = Prober(
                "probe",
                settings.function("probe", probe),
                every,
                settings.seconds("probe_timeout", limit, above_zero=True),
                self._probed,
            )
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
            and not any(map(_listens_to_calls, self._listeners))
        )

    @property
    def accept(self) -> Accept | None:
        """Look at the duration of each success, if slow ones count."""
        slow = self._circuit.rules.slow_call_seconds
        if slow == inf:
            return None
        return lambda _args, _kwargs, _value, seconds: seconds < slow

    @property
    def rejecting(self) -> Rejecting | None:
        """How an open circuit turns calls away, where it does and nobody else has a say."""
        if self._mode != "enforce" or self._shared is not None:
            return None
        circuit, name, prober = self._circuit, self._name or "circuit", self._prober

        def error(now: float) -> CircuitOpen:
            left = circuit.until - now
            if prober is not None:
                left = min(left, prober.next_in())
            rejection = CircuitOpen(name, None if left == inf else left, OPEN)
            rejection.__cause__ = self._last_failure
            return rejection

        return Rejecting(circuit, error, CircuitOpen)

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

    def count_only(
        self, failures: Iterable[type[BaseException]] | Callable[[Any], bool]
    ) -> CircuitBreaker:
        """Let nothing but `failures` count against the dependency."""
        self._counts = error_matcher("failures", failures)
        return self

    def refuses(self, call: Call) -> bool:
        """Whether the circuit is open."""
        return self._mode == "enforce" and self._look() == OPEN

    def is_failure(self, error: Exception) -> bool:
        """Whether `error` counts: not excluded, not a rejection, not the caller's deadline."""
        if self._says_nothing(error):
            return False
        if isinstance(error, CallTimeout) or self._counts is None:
            return True
        return isolated("failures", True, self._counts, error)

    def _says_nothing(self, error: BaseException) -> bool:
        """Whether `error`, or all that is in a group, is none of the dependency's."""
        if isinstance(error, CallTimeout):
            return isinstance(error, DeadlineExceeded)
        if isinstance(error, CallRejected) or not self.is_system_error(error):
            return True
        return isinstance(error, BaseExceptionGroup) and all(
            map(self._says_nothing, error.exceptions)
        )

    def steps(self, call: Call, proceed: Proceed) -> Steps[Outcome]:
        """Let the call through and take note of it, or reject it."""
        probing = _probing.get()
        if any(map(self._circuit.is_probing, probing)):  # a part of a probe rides on its permit
            return (yield from proceed(call))
        admission: Admission | None
        if call.resumed is not None:
            admission = self._circuit.admitted_at(call.resumed.started)
        else:
            admitted = self._admit(call)
            if isinstance(admitted, Refusal):
                if self._mode == "enforce":
                    call.pipeline.measures.rejected(CircuitOpen.reason, admitted.retry_after)
                    now = clock.now()
                    return Outcome(None, self._rejection(admitted.retry_after), now, now)
                with self._lock:
                    self._shadowed += not call.is_known
                admission = None
            else:
                admission = admitted
        if not call.is_known:
            self._before_call(call)
        token = None
        if admission is not None and admission.is_probe:
            token = _probing.set((*probing, admission))
        try:
            outcome = yield from proceed(call)
        except BaseException:
            self._withdraw(admission)
            raise
        finally:
            if token is not None:
                with suppress(ValueError):  # closed in another context, with its caller
                    _probing.reset(token)
        if call.until_end is None or outcome.error is not None:
            return self._noted(admission, outcome)
        # A stream has begun. What it comes to is known at its end, but half-open cannot wait for
        # that: there, the first item is the answer.
        if admission is not None and (admission.is_probe or admission.is_ramp):
            return self._noted(admission, outcome)
        call.until_end.append(partial(self._stream_ended, admission, outcome))
        return outcome

    def _stream_ended(
        self, admission: Admission | None, begun: Outcome, ended: Outcome | None
    ) -> None:
        """Take note of a stream that was not left by its consumer, whose pace is not its own."""
        if ended is not None:
            self._noted(admission, Outcome(None, ended.error, begun.started, begun.ended))

    def _admit(self, call: Call) -> Admission | Refusal:
        now = clock.now()
        if self._shared is not None:
            self._announce(self._shared.pull(self._circuit, now), pushed=True)
        admitted, changes = self._circuit.admit(now, self._lease(call, now))
        self._announce(changes)
        return admitted

    def _lease(self, call: Call, now: float) -> float:
        """Return for how many seconds `call` may be a probe: as long as its own limits allow."""
        seconds = inf if call.limit is None else max(0.0, call.limit.expires - now)
        within = inf
        for one in reversed(call.pipeline.strategies):
            if one is self or one.rejects_by_key:
                break
            within = one.longest(within)
        seconds = min(seconds, within)
        if seconds < inf:
            return seconds
        circuit = self._circuit
        return max(circuit.period, circuit.rules.reset_timeout) or 1.0

    def _noted(self, admission: Admission | None, outcome: Outcome) -> Outcome:
        error = outcome.error
        if error is not None and not self.is_failure(error):
            self._withdraw(admission)
            return outcome
        if error is not None or outcome.duration >= self._circuit.rules.slow_call_seconds:
            # The successes that came before what may open the circuit count before it.
            self.settle()
        is_current = admission is not None and admission.generation == self._circuit.generation
        if error is not None and is_current:
            self._last_failure = error
        self._tell_listeners(error)
        if admission is None:
            return outcome
        in_a_row = 0
        if self._shared is not None and is_current:
            if error is None:
                self._shared.succeeded(self._circuit.state)
            else:
                in_a_row = self._shared.failed()
        _, changes = self._circuit.record(
            admission,
            clock.now(),
            outcome.duration,
            failed=error is not None,
            in_a_row=in_a_row,
        )
        self._announce(changes)
        tripped = any(change.new == OPEN for change in changes)
        rejects = self._throw_new_error_on_trip and self._mode == "enforce"
        if rejects and error is not None and tripped:
            rejection = self._rejection(self._circuit.until - clock.now())
            return Outcome(None, rejection, outcome.started, outcome.ended)
        return outcome

    def _withdraw(self, admission: Admission | None) -> None:
        if admission is not None:
            self._announce(self._circuit.withdraw(admission, clock.now())[1])

    def _rejection(self, retry_after: float | None) -> CircuitOpen:
        if retry_after is not None:
            retry_after = max(0.0, self._earliest(retry_after))
        rejection = CircuitOpen(self._name or "circuit", retry_after, self._circuit.state)
        rejection.__cause__ = self._last_failure
        return rejection

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


def _listens_to_calls(listener: Any) -> bool:
    """Whether a listener has more to do at a success than nothing."""
    base = pybreaker.CircuitBreakerListener
    kind = type(listener)
    return any(
        getattr(kind, hook, None) is not getattr(base, hook) for hook in ("before_call", "success")
    )


circuit_breaker = CircuitBreaker
