"""Trying again, without making an outage worse."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any

from resilient.engine import clock, settings, signals
from resilient.engine.call import Call
from resilient.engine.isolation import isolated, report_broken
from resilient.engine.notes import annotate
from resilient.engine.outcome import Outcome
from resilient.engine.steps import Proceed, Sleep, Steps
from resilient.engine.strategy import Accept, Strategy, Target
from resilient.errors import (
    CallRejected,
    DeadlineExceeded,
    InvalidSetting,
    InvalidUse,
    refusal_in,
)
from resilient.strategies.matching import Matches, judges_values, matcher
from resilient.strategies.retry_after import asked_to_wait
from resilient.strategies.retry_budget import OWN_BUDGET, RetryBudget
from resilient.strategies.retry_state import History

if TYPE_CHECKING:
    from tenacity import RetryCallState
    from tenacity.retry import retry_base

__all__ = ["Retry", "retry"]


class Retry(Strategy):
    """Further attempts at a call that failed in a way that may pass.

    Arguments:
        on: What is tried again: exception types, a predicate on the exception, or tenacity's
            retry objects. Needed, unless a `Dependency` says what its failures are. An exception
            group is tried again if all of its leaves are.
        on_result: A predicate on returned values: True for one that is tried again.
        attempts: The most attempts, the first included; 1 or more.
        stop: tenacity's stop objects, instead of `attempts`.
        wait: tenacity's wait objects, instead of the following two.
        wait_initial: Seconds below which the first pause lies; doubled for each further one.
        wait_max: Seconds below which every pause lies. Pauses are drawn evenly from 0 up to
            their bound ("full jitter"), also when the bound has reached `wait_max`.
        budget: The `RetryBudget` to share with others; one of its own unless given; None for no
            budget at all.
        max_retry_after: The most seconds for which a `Retry-After` of the callee is honoured.
        before_sleep: A function of tenacity's `RetryCallState`, called before each pause.
        after: A function of tenacity's `RetryCallState`, called after each failed attempt.

    The last error is raised as it was, with a note that says how many attempts there were, how
    long they took, and why there was no further one: attempts, budget, deadline, circuit, or not
    retryable. A rejection by a strategy further in is not tried again, and no pause reaches
    beyond the time that the call has.

    Raises:
        InvalidSetting: If an argument is outside of its range.
        InvalidUse: When decorating, if nothing says what is tried again.

    Example:
        >>> from resilient import retry
        >>> answers = iter([ConnectionError("reset"), "answer"])
        >>> @retry(on=ConnectionError, wait_initial=0)
        ... def fetch() -> str:
        ...     answer = next(answers)
        ...     if isinstance(answer, Exception):
        ...         raise answer
        ...     return answer
        >>> fetch()
        'answer'

    Where the rules come from: "Exponential Backoff And Jitter" (AWS) for the pauses, gRPC's
    retry throttling for the budget, RFC 9110 for `Retry-After`, tenacity for the vocabulary.
    """

    no_block = (
        "a block cannot be repeated: use `for attempt in retrying(...): with attempt: ...`, "
        "or decorate a function"
    )

    lets_refusals_pass = True

    def __init__(
        self,
        on: Matches | retry_base | None = None,
        *,
        on_result: Callable[[Any], bool] | None = None,
        attempts: int | None = None,
        stop: Callable[[RetryCallState], bool] | None = None,
        wait: Callable[[RetryCallState], float] | None = None,
        wait_initial: float = 0.1,
        wait_max: float = 5.0,
        budget: RetryBudget | object | None = OWN_BUDGET,
        max_retry_after: float = 30.0,
        before_sleep: Callable[[RetryCallState], object] | None = None,
        after: Callable[[RetryCallState], object] | None = None,
    ) -> None:
        super().__init__()
        if attempts is not None and stop is not None:
            raise InvalidSetting(
                "stop", stop, "left out where attempts is given: they say the same"
            )
        self._matches = None if on is None else matcher("on", on)
        self._judges_values = judges_values(on)
        self.on_result = _hook("on_result", on_result, "the result")
        self.attempts = settings.count("attempts", 3 if attempts is None else attempts)
        self.stop = _hook("stop", stop, "the state of the call")
        self.wait = _hook("wait", wait, "the state of the call")
        self.wait_initial = settings.seconds("wait_initial", wait_initial)
        self.wait_max = settings.seconds("wait_max", wait_max)
        self.max_retry_after = settings.seconds("max_retry_after", max_retry_after)
        self._bounds = tuple(map(self._bound, range(1, min(self.attempts, 100))))
        self.before_sleep = _hook("before_sleep", before_sleep, "the state of the call")
        self.after = _hook("after", after, "the state of the call")
        if budget is OWN_BUDGET:
            budget = RetryBudget()
        if budget is not None and not isinstance(budget, RetryBudget):
            raise InvalidSetting("budget", budget, "a RetryBudget, or None for no budget")
        self.budget: RetryBudget | None = budget
        self._join_budget()

    def __repr__(self) -> str:
        stop = f"attempts={self.attempts}" if self.stop is None else "stop=..."
        return f"Retry({stop}, budget={self.budget!r})"

    def _join_budget(self) -> None:
        if self.budget is not None:
            self.budget.joined(self)
            self.leftovers = self.budget.leftovers

    def attach(self, target: Target) -> Retry:
        """Check that it is known what to try again."""
        if self._matches is None and self.on_result is None:
            raise InvalidUse(
                f"{target.name}: retry(on=...) says which errors are tried again, for example "
                "retry(on=(ConnectionError, TimeoutError)); it has no default, as retrying "
                "everything repeats what cannot succeed"
            )
        if target.is_stream and (self.on_result is not None or self._judges_values):
            raise InvalidUse(
                f"{target.name} is a generator: retry tries it again until its first item, and has "
                "no value to look at; look at what it yields where it is read"
            )
        return self

    def retrying_on(self, matches: Callable[[Exception], bool]) -> Retry:
        """Return this retry, or where nothing else has been said, one that tries `matches` again.

        That is another one, with the same budget: others may say something else to this one.
        """
        if self._matches is not None or self.on_result is not None:
            return self
        retrying = copy.copy(self)
        Strategy.__init__(retrying)
        retrying._join_budget()
        retrying._matches = lambda error, _state: error is not None and matches(error)
        return retrying

    def longest(self, seconds: float) -> float:
        """Return what all attempts and pauses may take, as far as settings tell."""
        others = self.attempts - 1 - len(self._bounds)
        return self.attempts * seconds + sum(self._bounds) + others * self._bound(self.attempts)

    # The fast lane

    @property
    def accept(self) -> Accept | None:
        """Look at returned values, if some of them are to be tried again."""
        if self._judges_values:  # which takes tenacity's view of the call
            return lambda *_: False
        if self.on_result is None:
            return None
        on_result = self.on_result
        return lambda _args, _kwargs, value, *_: not _dislikes(on_result, value)

    def absorb(self, count: int, seconds: float, when: float) -> None:
        """Put the successes of the fast lane into the budget."""
        if self.budget is not None:
            self.budget.put(count)

    # The slow lane

    def steps(self, call: Call, proceed: Proceed) -> Steps[Outcome]:
        """Try until it succeeds, or there is a reason not to."""
        failed: Outcome | None = None
        history = History(self, call)
        attempt = 0
        while True:
            attempt += 1
            outcome = yield from proceed(call)
            history.attempt, history.outcome = attempt, outcome
            error = outcome.error
            # Of a stream, the caller is about to have a part.
            if error is None and (
                call.until_end is not None or not self._wants_another(outcome.value, history)
            ):
                if self.budget is not None:
                    self.budget.put()
                return outcome
            if error is not None and (refusal := refusal_in(error)) is not None:
                if failed is None:
                    return outcome
                return _stopped(failed, call, attempt - 1, _why_refused(refusal))
            failed = outcome
            pause = self._pause_after(attempt, error, call, history)
            if isinstance(pause, str):
                return _stopped(outcome, call, attempt, pause)
            call.retries += 1
            signals.emit(
                "resilient.retry_scheduled",
                dependency=call.pipeline.name,
                attempt=attempt,
                wait_seconds=pause,
                error=None if error is None else type(error).__name__,
            )
            if pause > 0 or (
                call.is_async and (attempt % _AT_ONCE == 0 or outcome.duration > _BRIEFLY)
            ):
                yield Sleep(pause)

    def _wants_another(self, value: Any, history: History) -> bool:
        """Whether a returned value is one that is tried again."""
        if self.on_result is not None and _dislikes(self.on_result, value):
            return True
        return self._judges_values and self._is_matched(None, history)

    def _is_matched(self, error: Exception | None, history: History) -> bool:
        if self._matches is None:
            return False
        try:
            return bool(self._matches(error, history.state))
        except Exception as broken:
            report_broken("retry on", broken)
            return False

    def _pause_after(
        self, attempt: int, error: Exception | None, call: Call, history: History
    ) -> str | float:
        """Return the seconds until the next attempt, or why there is none."""
        if error is not None and not self._is_matched(error, history):
            return "not retryable"
        if self.after is not None:
            isolated("retry after", None, self.after, history.state())
        if self.stop is None and attempt >= self.attempts:
            return "attempts"
        pause = self._pause(attempt, history)
        if error is not None:
            try:
                asked = asked_to_wait(error)
            except Exception as broken:
                report_broken("retry_after", broken)
                asked = None
            if asked is not None:
                pause = max(pause, min(asked, self.max_retry_after))
        if self.stop is not None and self._is_enough(self.stop, pause, history):
            return "attempts"
        if call.pipeline.refuses(call, self):
            return "circuit"
        if call.limit is not None and clock.now() + pause >= call.limit.expires:
            return "deadline"
        if self.budget is not None and not self.budget.take():
            return "budget"
        if self.before_sleep is not None:
            isolated("retry before_sleep", None, self.before_sleep, history.sleeping(pause))
        return pause

    def _pause(self, attempt: int, history: History) -> float:
        if self.wait is not None:
            pause = isolated("retry wait", None, self.wait, history.state())
            if isinstance(pause, int | float) and 0 <= pause < inf:
                return float(pause)
        known = attempt <= len(self._bounds)
        return (self._bounds[attempt - 1] if known else self._bound(attempt)) * random.random()

    def _bound(self, attempt: int) -> float:
        bound: float = self.wait_initial * 2.0 ** min(attempt - 1, 60)
        return min(self.wait_max, bound)

    def _is_enough(self, stop: Callable[..., Any], pause: float, history: History) -> bool:
        state = history.state()
        state.upcoming_sleep = pause
        return bool(isolated("retry stop", True, stop, state))


#: Without a pause, other tasks have their turn after so many attempts, or one of so many seconds.
_AT_ONCE = 4
_BRIEFLY = 0.001


def _hook(
    parameter: str, function: Callable[..., Any] | None, *takes: str
) -> Callable[..., Any] | None:
    return None if function is None else settings.plain_function(parameter, function, takes=takes)


def _dislikes(on_result: Callable[[Any], bool], value: Any) -> bool:
    return bool(isolated("retry on_result", False, on_result, value))


def _why_refused(error: CallRejected | DeadlineExceeded) -> str:
    if isinstance(error, DeadlineExceeded):
        return "deadline"
    return "circuit" if error.reason == "circuit_open" else error.reason


def _stopped(outcome: Outcome, call: Call, attempts: int, reason: str) -> Outcome:
    """Say in a note on the error why there was no further attempt."""
    error = outcome.error
    if error is not None:
        begin = f"resilient: {call.pipeline.name}: "
        seconds = clock.now() - call.started
        plural = "" if attempts == 1 else "s"
        note = f"{begin}{attempts} attempt{plural} in {seconds:.3f} s, stopped by: {reason}"
        annotate(error, begin, note)
    return outcome


retry = Retry
