"""The state of a circuit, and what changes it.

Everything here is decided under one lock and calls nobody: no user code, no clock of its own, no
thread. What changes is returned as a `Change`, for the caller to announce without the lock.

Each admission carries the generation of the circuit. What was let in before a change of state
decides nothing after it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import wraps
from math import inf
from typing import Concatenate, ParamSpec, TypeVar, final

from resilient.engine.locks import new_lock
from resilient.strategies.breaker.admission import Admission, Refusal
from resilient.strategies.breaker.onset import Onset
from resilient.strategies.breaker.pace import Pace
from resilient.strategies.breaker.ramp import Ramp
from resilient.strategies.breaker.rules import Rules
from resilient.strategies.breaker.states import CLOSED, HALF_OPEN, OPEN, Change
from resilient.strategies.breaker.window import Window

__all__ = ["Circuit"]

P = ParamSpec("P")
R = TypeVar("R")


def _locked(
    method: Callable[Concatenate[Circuit, P], R],
) -> Callable[Concatenate[Circuit, P], tuple[R, list[Change]]]:
    """Run `method` under the circuit's lock and return the changes that it made as well."""

    @wraps(method)
    def locked(self: Circuit, /, *args: P.args, **kwargs: P.kwargs) -> tuple[R, list[Change]]:
        with self.lock:
            result = method(self, *args, **kwargs)
            changes, self._changes = self._changes, []
            return result, changes

    return locked


#: One empty set for all: most circuits have no probe, most of the time.
NO_LEASES: frozenset[Admission] = frozenset()


@final
class Circuit:
    """One circuit. Every method that may change it returns its result and the changes."""

    def __init__(self, rules: Rules, window: Window) -> None:
        self.rules = rules
        self.lock = new_lock()
        self._window = window
        self._changes: list[Change] = []
        self.state = CLOSED
        self.generation = 0
        self.since = -inf
        self.period = 0.0
        self.until = -inf
        self.forced = False
        self.consecutive = 0
        self.successes = 0
        self._pace = Pace()
        self._onset = Onset()
        self.first_failure: float | None = None
        self._detected_after: float | None = None
        self.ramp: Ramp | None = None
        self._leases = NO_LEASES
        #: Of the next open period, in seconds.
        self._bound = rules.reset_timeout

    # Letting in

    @_locked
    def admit(self, now: float, most: float) -> Admission | Refusal:
        """Return the permission for a call that takes `most` seconds, or the refusal.

        That is the lease of a probe; without a limit, the open period.
        """
        self._pass_time_locked(now)
        if self.state == CLOSED:
            return Admission(self.generation)
        if self.state == OPEN:
            return Refusal(None if self.forced else self.until - now)
        if self.ramp is not None:
            if self.ramp.admits():
                return Admission(self.generation, is_ramp=True)
            return Refusal(self.ramp.next_tick(now))
        if len(self._leases) >= self.rules.probes:
            return Refusal(min(one.expires for one in self._leases) - now)
        lease = most if most < inf else max(self.period, self.rules.reset_timeout) or 1.0
        probe = Admission(self.generation, is_probe=True, expires=now + lease)
        self._leases |= {probe}
        return probe

    def admitted_at(self, started: float) -> Admission | None:
        """Return the permission of a call that the fast lane let in, if that still counts."""
        with self.lock:
            if self.state == CLOSED and started >= self.since:
                return Admission(self.generation)
            return None

    def is_probing(self, admission: Admission) -> bool:
        """Whether `admission` is that of a probe of this circuit which has not ended."""
        return admission in self._leases

    @_locked
    def withdraw(self, admission: Admission, now: float) -> None:
        """Take a permission back from a call that says nothing: cancelled, excluded, rejected."""
        if admission in self._leases:  # else it is not its business what has changed meanwhile
            self._pass_time_locked(now)
            self._leases -= {admission}

    # Taking note

    def absorb(self, count: int, seconds: float, when: float) -> None:
        """Count successes that the fast lane has let in, and that took so many seconds together."""
        with self.lock:
            if self.state == CLOSED:
                self.consecutive = 0
                self._onset.passed(count)
                self._window.add_successes(count, when)
                self._pace.learn(seconds / count, count)

    @_locked
    def record(
        self,
        admission: Admission,
        now: float,
        seconds: float,
        *,
        failed: bool,
        in_a_row: int,
    ) -> None:
        """Count what a call came to, and decide; `in_a_row` are failures that others know of."""
        if admission.generation != self.generation:
            return
        self._pass_time_locked(now)
        if admission.generation != self.generation:
            return
        slow = seconds >= self.rules.slow_call_seconds
        if self.ramp is not None:
            self.ramp.record(good=not failed and not slow and not self._pace.is_unusual(seconds))
            self._follow_ramp_locked(now)
        elif admission.is_probe:
            self._leases -= {admission}
            self._probed_locked(now, good=not failed and not slow)
        else:
            self.consecutive = max(self.consecutive, in_a_row - 1)
            self._count_locked(now, seconds, failed=failed, slow=slow)

    @_locked
    def probed(self, now: float, *, good: bool) -> None:
        """Take note of a health check that was made in the background."""
        self._pass_time_locked(now)
        if self.forced or self.state == CLOSED:
            return
        if self.ramp is not None:
            self.ramp.probed(good=good)
            self._follow_ramp_locked(now)
        elif good:
            if self.state == OPEN:
                self._half_open_locked(now, "probe_succeeded")
            self._probed_locked(now, good=True)
        elif self.state == HALF_OPEN:
            self._probed_locked(now, good=False)

    def _count_locked(self, now: float, seconds: float, *, failed: bool, slow: bool) -> None:
        self._window.add(now, failed=failed, slow=slow)
        if failed or slow:
            self._onset.failed(now)
        else:
            self._onset.passed()
        if failed:
            self.consecutive += 1
        else:
            self.consecutive = 0
            self._pace.learn(seconds)
        if not self.forced and (reason := self._trips_locked(failed=failed, slow=slow)):
            self.first_failure = self._first_failure_locked(now)
            self._open_locked(now, reason)

    def _trips_locked(self, *, failed: bool, slow: bool) -> str | None:
        rules, window = self.rules, self._window
        if failed and rules.fail_max is not None and self.consecutive >= rules.fail_max:
            return "consecutive_failures"
        if window.calls < rules.min_calls:
            return None
        # Divided, not multiplied: 7 of 100 calls are 0.07, but 0.07 * 100 is more than 7.
        if failed and window.failures / window.calls >= (rules.failure_rate or inf):
            return "failure_rate"
        if slow and window.slow / window.calls >= (rules.slow_call_rate or inf):
            return "slow_call_rate"
        return None

    def _first_failure_locked(self, now: float) -> float:
        """Return when the run of failures began: half as many of its calls fail as it takes."""
        rates = filter(None, (self.rules.failure_rate, self.rules.slow_call_rate))
        least = 0.5 * min(rates, default=1.0)
        return self._onset.first(least, now)

    def _probed_locked(self, now: float, *, good: bool) -> None:
        if not good:
            self._reopen_locked(now, "probe_failed")
            return
        self.successes += 1
        if self.successes >= self.rules.success_threshold:
            if self.rules.ramp:
                self.generation += 1
                self._leases = NO_LEASES
                self.ramp = Ramp(now)
            else:
                self._close_locked(now, "probe_succeeded")

    def _follow_ramp_locked(self, now: float) -> None:
        verdict = self.ramp.verdict(now) if self.ramp is not None else None
        if verdict is True:
            self._close_locked(now, "ramp_completed")
        elif verdict is False:
            self._reopen_locked(now, "ramp_failed")

    # Changing

    def _pass_time_locked(self, now: float) -> None:
        if self.state == HALF_OPEN:
            expired = min((lease.expires for lease in self._leases), default=inf)
            if now >= expired:
                # That was then, whether or not somebody has looked since.
                self._reopen_locked(expired, "probe_expired")
            else:
                self._follow_ramp_locked(now)
        if self.state == OPEN and now >= self.until:  # it may have been opened just now
            self._half_open_locked(now, "reset_timeout")

    def _period_locked(self) -> float:
        first = self.rules.reset_timeout
        bound = min(self._bound, self.rules.max_reset_timeout)  # rules may have changed since
        if bound <= first:
            return first
        # Jitter below the bound, so that it is there at the bound as well.
        return bound * random.uniform(0.8, 1.0)

    def _reopen_locked(self, now: float, reason: str) -> None:
        self._bound = min(2 * self._bound, self.rules.max_reset_timeout)
        self._open_locked(now, reason)

    def _open_locked(self, now: float, reason: str) -> None:
        period = self._period_locked()
        if self.first_failure is None and reason != "forced":
            self.first_failure = now
        since = None if self.first_failure is None else now - self.first_failure
        if self.state == CLOSED:
            self._detected_after = since
        failures = calls = None
        if reason == "consecutive_failures":
            failures = calls = self.consecutive
        elif reason in ("failure_rate", "slow_call_rate"):
            is_slow = reason == "slow_call_rate"
            failures = self._window.slow if is_slow else self._window.failures
            calls = self._window.calls
        change = Change(
            self.state, OPEN, reason, since, self._detected_after, period, failures, calls
        )
        self._enter_locked(OPEN, now, change)
        self.period = period
        self.until = now + period

    def _half_open_locked(self, now: float, reason: str) -> None:
        self._enter_locked(HALF_OPEN, now, Change(self.state, HALF_OPEN, reason))

    def _close_locked(self, now: float, reason: str) -> None:
        first, self.first_failure = self.first_failure, None
        since = None if first is None else now - first
        self._bound = self.rules.reset_timeout
        self.consecutive = 0
        self._onset.forget()
        self._window.clear()
        change = Change(self.state, CLOSED, reason, since, self._detected_after)
        self._enter_locked(CLOSED, now, change)

    def _enter_locked(self, state: str, now: float, change: Change) -> None:
        self.state = state
        self.since = now
        self.until = -inf  # read without the lock: nobody is turned away before this is known
        self.generation += 1
        self.successes = 0
        self.ramp = None
        self._leases = NO_LEASES
        self._changes.append(change)

    # From outside

    @_locked
    def look(self, now: float) -> str:
        """Return the state at `now`, which may have changed by the passing of time."""
        self._pass_time_locked(now)
        self._window.advance(now)
        return self.state

    @_locked
    def open(self, now: float, *, forced: bool = False, period: float | None = None) -> None:
        """Open, as after a failure; for ever if `forced`, else for `period` or as by the rules."""
        self._open_locked(now, "forced" if forced else "opened")
        self.forced = forced
        if forced:
            self.until = inf
        elif period is not None:
            self.until = now + period

    @_locked
    def half_open(self, now: float) -> None:
        """Let probes through now."""
        self.forced = False
        if self.state != HALF_OPEN or self.ramp is not None:
            self._half_open_locked(now, "half_opened")

    @_locked
    def close(self, now: float, *, forced: bool = False) -> None:
        """Close and forget what was; whatever fails, for ever if `forced`."""
        self.forced = forced
        if self.state != CLOSED:
            self._close_locked(now, "forced" if forced else "closed")
        else:
            self.consecutive = 0
            self._window.clear()
            self._onset.forget()

    def wants_probes(self) -> bool:
        """Whether a health check in the background could close it."""
        return self.state != CLOSED and not self.forced

    @property
    def window(self) -> Window:
        """The counts; up to date after `look`."""
        return self._window
