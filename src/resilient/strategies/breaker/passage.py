"""What a call goes through: it is let in or rejected, and what it comes to is taken note of."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from itertools import takewhile
from math import inf
from typing import Any, Self

from resilient.engine import clock
from resilient.engine.call import Call
from resilient.engine.isolation import isolated
from resilient.engine.outcome import Outcome
from resilient.engine.steps import Proceed, Steps
from resilient.errors import CallRejected, CallTimeout, DeadlineExceeded
from resilient.strategies.breaker.admission import Admission, Refusal
from resilient.strategies.breaker.interface import CircuitInterface
from resilient.strategies.breaker.rejection import CircuitOpen
from resilient.strategies.breaker.states import OPEN
from resilient.strategies.matching import error_matcher

__all__ = ["CircuitPassage"]

#: The permits of probes that the current context is part of. Tasks and threads that a probe has
#: begun inherit them, and may outlive it.
_probing: ContextVar[tuple[Admission, ...]] = ContextVar("resilient_probing", default=())


class CircuitPassage(CircuitInterface):
    """A circuit that calls pass through."""

    rejection = CircuitOpen

    #: Says whether an error counts; None if all that are not excluded do.
    _counts: Callable[[Exception], bool] | None = None

    def count_only(self, failures: Iterable[type[BaseException]] | Callable[[Any], bool]) -> Self:
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
                    rejection = self._rejection(admitted.retry_after)
                    call.pipeline.measures.rejected(CircuitOpen.reason, rejection.retry_after)
                    now = clock.now()
                    return Outcome(None, rejection, now, now)
                with self._lock:
                    self._shadowed += not call.is_known
                admission = None
            else:
                admission = admitted
        if not call.is_known:
            self._listening.begun(self, call)
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
        admitted, changes = self._circuit.admit(now, self._longest(call, now))
        self._announce(changes)
        return admitted

    def _longest(self, call: Call, now: float) -> float:
        """Return how many seconds `call` may take by its own limits."""
        seconds = inf if call.limit is None else max(0.0, call.limit.expires - now)
        within = inf
        further_in = takewhile(
            lambda one: one is not self and not one.rejects_by_key,
            reversed(call.pipeline.strategies),
        )
        for one in further_in:
            within = one.longest(within)
        return min(seconds, within)

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
        self._listening.ended(self, error)
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
