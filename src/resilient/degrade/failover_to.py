"""Equivalents of a function, of which the one that works is remembered."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from resilient.degrade.served import note_all_failed, note_served
from resilient.degrade.tier import checked
from resilient.engine import clock, settings, signals
from resilient.engine.callables import plain_name
from resilient.engine.locks import new_lock
from resilient.engine.prober import Prober, is_well
from resilient.engine.reported import Condition, Reading, Reported
from resilient.engine.steps import Invoke
from resilient.engine.strategy import Strategy
from resilient.errors import CallTimeout, InvalidUse
from resilient.strategies.matching import Matches, speaks_for

if TYPE_CHECKING:
    from resilient.engine.call import Call
    from resilient.engine.outcome import Outcome
    from resilient.engine.pipeline import Pipeline
    from resilient.engine.steps import Proceed, Steps
    from resilient.engine.strategy import Target

__all__ = ["FailoverTo", "failover_to"]

T = TypeVar("T")


class FailoverTo(Strategy, Reported):
    """Sends calls to equivalents of a function while it fails, and back when it is well.

    A call that fails is answered by the first equivalent that can. After `switch_after` failures in
    a row the one that has answered is asked first, so that nobody waits for what is down. After
    `return_after` seconds one call tries the function again, and those before the one in use; with
    a `probe` no call has to, and calls return when it says so.

    Arguments:
        equivalents: Functions that take the same arguments, in the order in which to try them.
            Give each its own time limit, and a breaker if it is worth one.
        switch_after: Failures in a row; 1 or more.
        return_after: Seconds; above 0.
        probe: Whether the function is well again: returns, other than False, or raises.
        probe_every: Seconds from one probe to the next, and for each; above 0.
        on: Which errors they are for: exception types, or a predicate. Rejections are among them.
        exclude: Which errors they are not for.
        degraded: Whether what an equivalent answers counts as degraded; not if it is as good.

    When all fail, the error of the function itself is raised, with a note on each equivalent.

    Raises:
        InvalidUse: When decorating, if an equivalent does not take what the function takes.
        InvalidSetting: If an argument is outside of its range.

    Example:
        >>> from resilient import failover_to
        >>> def from_replica(order_id: str) -> str:
        ...     return f"{order_id} from the replica"
        >>> @failover_to(from_replica, return_after=30)
        ... def load(order_id: str) -> str:
        ...     raise ConnectionError("primary is down")
        >>> load("o1")
        'o1 from the replica'

    Where the rule comes from: failover and failback, as libpq's `target_session_attrs` and DNS
    failover have it, with the memory that they lack.
    """

    needs_target = True
    no_block = "a block has no equivalent: decorate a function with failover_to(...)"

    def __init__(
        self,
        *equivalents: Callable[..., Any],
        switch_after: int = 3,
        return_after: float = 30.0,
        probe: Callable[[], Any] | None = None,
        probe_every: float = 1.0,
        on: Matches = Exception,
        exclude: Matches | None = None,
        degraded: bool = True,
    ) -> None:
        super().__init__()
        if not equivalents:
            raise InvalidUse("failover_to() needs at least one equivalent of the function")
        self.equivalents = tuple(settings.function("equivalents", one) for one in equivalents)
        self.switch_after = settings.count("switch_after", switch_after)
        self.return_after = settings.seconds("return_after", return_after, above_zero=True)
        self.probe = None if probe is None else settings.function("probe", probe, takes=[])
        self.probe_every = settings.seconds("probe_every", probe_every, above_zero=True)
        self.degraded = settings.flag("degraded", degraded)
        self._fails_over = speaks_for(on, exclude)
        self._begin(["the function"])

    def _begin(self, names: list[str]) -> None:
        self._names = [*names, *map(plain_name, self.equivalents)]
        self._label = names[0]
        self._lock = new_lock()
        self._preferred = 0
        self._failures = 0
        self._switches = 0
        self._reason = ""
        self._return_at = 0.0
        self._prober: Prober | None = None
        if self.probe is not None:
            every = self.probe_every
            self._prober = Prober("failover probe", self.probe, every, every, self._probed)

    def __repr__(self) -> str:
        return f"failover_to({', '.join(map(plain_name, self.equivalents))})"

    def attach(self, target: Target) -> FailoverTo:
        """Return this strategy with a memory of its own, for `target`."""
        if target.is_stream:
            raise InvalidUse(
                f"{target.name} is a generator: what it has yielded cannot be taken back when it "
                "fails; fail over where it is called"
            )
        for one in self.equivalents:
            checked(one, target, "failover_to", takes_call=True)
        attached = copy.copy(self)
        Strategy.__init__(attached)
        attached._begin([target.name])
        attached.report()
        return attached

    def joined(self, pipeline: Pipeline) -> None:
        """Take the name of the dependency."""
        super().joined(pipeline)
        self._label = pipeline.name

    @property
    def in_use(self) -> str:
        """The name of the function that is asked first now."""
        return self._names[self._preferred]

    @property
    def at_rest(self) -> bool:
        """Whether the function itself is asked first."""
        return self._preferred == 0

    def absorb(self, count: int, seconds: float, when: float) -> None:
        """Forget failures: they were not in a row."""
        with self._lock:
            if count and self._preferred == 0:
                self._failures = 0

    def steps(self, call: Call, proceed: Proceed) -> Steps[Outcome]:
        """Ask one after the other, the one that worked last time first."""
        preferred, tries_to_return = self._plan(call)
        order = [*range(len(self._names))]
        if not tries_to_return:
            order.sort(key=lambda one: one != preferred)
        outcomes: dict[int, Outcome] = {}
        for one in order:
            outcome = outcomes[one] = yield from self._ask(one, call, proceed)
            error = outcome.error
            if error is None:
                failed = outcomes[0].error if 0 in outcomes else None
                reason = self._reason if failed is None else type(failed).__name__
                self._worked(one, reason, returned=tries_to_return)
                if one and self.degraded:
                    note_served(call, "failover", None, reason)
                return outcome
            if self._is_the_callers(call, error) or not self._fails_over(error):
                return outcome
            self._failed(one)
        error = outcomes[0].error
        assert error is not None
        others = [(self._names[one], end.error) for one, end in outcomes.items() if one]
        failures = [(name, why) for name, why in others if why is not None]
        note_all_failed(call, "equivalent", error, failures)
        return outcomes[0]

    def _ask(self, one: int, call: Call, proceed: Proceed) -> Steps[Outcome]:
        if one == 0:
            return (yield from proceed(call))
        function = self.equivalents[one - 1]
        outcome: Outcome = yield Invoke(function, call.args, call.kwargs, call.limit, call.workers)
        return outcome

    def _is_the_callers(self, call: Call, error: Exception) -> bool:
        """Whether `error` says that the caller's time is over, and nothing about whom it asked."""
        limit = call.limit
        return limit is not None and isinstance(error, CallTimeout) and error.owner is limit.owner

    def _plan(self, call: Call) -> tuple[int, bool]:
        """Return which to ask first, and whether this call is the one that tries to return."""
        if call.resumed is not None:  # the function itself has been asked already
            return 0, False
        now = clock.now()
        with self._lock:
            due = self._preferred > 0 and self._prober is None and now >= self._return_at
            if due:
                self._return_at = now + self.return_after
            return self._preferred, due

    def _failed(self, one: int) -> None:
        if one == 0:
            self.settle()  # whether there were successes since
        with self._lock:
            if one == self._preferred:
                self._failures += 1

    def _worked(self, one: int, reason: str, *, returned: bool) -> None:
        with self._lock:
            if one == self._preferred:
                self._failures = 0
                return
            is_return = returned and one < self._preferred
            if not is_return and self._failures < self.switch_after:
                return
        self._switch(one, reason)

    def _switch(self, one: int, reason: str) -> None:
        with self._lock:
            before, self._preferred = self._preferred, one
            self._failures = 0
            self._return_at = clock.now() + self.return_after
            if one and not before:
                self._switches += 1
                self._reason = reason
        if before == one:
            return
        self.rest_changed()
        if self._prober is not None:
            self._prober.follow(lambda: not self.at_rest)
        to = self._names[one]
        if one > before:
            signals.emit("resilient.failed_over", dependency=self._label, to=to, reason=reason)
        else:
            signals.emit("resilient.failed_back", dependency=self._label, to=to)

    def _probed(self, outcome: Outcome) -> None:
        if is_well(outcome):
            self._switch(0, "")

    # For the people on call

    def readings(self) -> Iterable[Reading]:
        """Return which function is asked first, and how often that changed away from the first."""
        about = {"dependency": self._label}
        shown = "How many guarded functions ask this equivalent first now"
        for one, name in enumerate(self._names):
            labels = {**about, "equivalent": name}
            yield Reading("failover_in_use", shown, "gauge", labels, float(one == self._preferred))
        shown = "Changes from the function itself to an equivalent"
        yield Reading("failovers", shown, "counter", about, self._switches)

    def conditions(self) -> Iterable[Condition]:
        """Return a warning while an equivalent is in use."""
        yield Condition(
            f"{self._label}:failover",
            "pass" if self.at_rest else "warn",
            {"observedValue": self.in_use},
        )


failover_to = FailoverTo
