"""A call as tenacity's objects want to see it."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from resilient.engine.call import Call
from resilient.engine.outcome import Outcome

if TYPE_CHECKING:
    from tenacity import RetryCallState

    from resilient.strategies.retry import Retry

__all__ = ["History"]


@final
class History:
    """The last attempt of a call, put into tenacity's terms when one of its objects asks."""

    __slots__ = ("_call", "_retry", "_state", "attempt", "outcome")

    attempt: int
    outcome: Outcome

    def __init__(self, retry: Retry, call: Call) -> None:
        self._retry = retry
        self._call = call
        self._state: RetryCallState | None = None

    def state(self) -> RetryCallState:
        """Return what the call has come to so far."""
        from tenacity import Future, RetryCallState

        call, outcome, state = self._call, self.outcome, self._state
        if state is None:
            state = self._state = RetryCallState(self._retry, call.function, (), {})  # type: ignore[arg-type]
            state.start_time = call.started
        if state.outcome is None or state.attempt_number != self.attempt:
            state.attempt_number = self.attempt
            state.outcome = Future.construct(
                self.attempt,
                outcome.value if outcome.error is None else outcome.error,
                outcome.error is not None,
            )
            state.outcome_timestamp = outcome.ended
        return state

    def sleeping(self, pause: float) -> RetryCallState:
        """Return the same, with the pause that comes next."""
        from tenacity import RetryAction

        state = self.state()
        state.next_action = RetryAction(pause)
        state.upcoming_sleep = pause
        state.idle_for += pause
        return state
