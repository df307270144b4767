"""Strategies in order, outermost first, and whether all of them are at rest.

While they are, calls take the fast lane: nothing is done for them but to note their duration in
the journal. The journal is settled (told to measures and strategies) when it is full, when a call
fails, and when somebody asks. A failure rate can only rise when a call fails, so nothing is
decided late.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import takewhile
from math import inf
from types import CoroutineType
from typing import ParamSpec, TypeVar, final

from resilient.engine import clock, faults, settings
from resilient.engine.call import Call
from resilient.engine.chain import accept_of, attempt, chain_of, permits_of
from resilient.engine.drivers import TurnedAsync
from resilient.engine.isolation import isolated
from resilient.engine.locks import new_lock
from resilient.engine.measures import Measures, every_measures
from resilient.engine.outcome import Outcome
from resilient.engine.refusals import Refusals, Refuse, refusals_of
from resilient.engine.steps import Proceed, Steps
from resilient.engine.strategy import Strategy
from resilient.engine.watching import watching
from resilient.errors import CallRejected, CallTimeout, InvalidUse, refusal_in, shown

__all__ = ["JOURNAL_SIZE", "Lane", "Pipeline"]

JOURNAL_SIZE = 256

P = ParamSpec("P")
R = TypeVar("R")


# One for all pipelines: lanes open and close when a circuit does, and that is rare.
_changing = new_lock()


@final
class Lane:
    """Whether the fast lane is open: `epoch` is None while it is closed, and new at each opening.

    A call that finds another epoch at its end than at its start has outlived a state change.
    `due` is the time at which the journal must be settled for the sake of its times. `refuse`
    has the answer to calls that are turned away on the spot, while there may be such.
    """

    __slots__ = ("due", "epoch", "refuse")

    def __init__(self) -> None:
        self.epoch: object | None = None
        self.due = inf
        self.refuse: Refuse | None = None


@final
class Pipeline:
    """Strategies in the order in which they are written, outermost first.

    A decorator, as if its strategies were stacked, and a way to `call` through them. Where there
    is a name for what is called, a `Dependency` says more.

    Arguments:
        strategies: What guards the call.
        name: The name in errors, logs and metrics; the breaker's, or that of the function.
        is_failure: Whether an error speaks against what is called; else every error does.

    Raises:
        InvalidUse: If a strategy is there twice.

    Example:
        >>> from resilient import Pipeline, retry, timeout
        >>> careful = Pipeline(timeout(5), retry(on=ConnectionError), timeout(2))
        >>> @careful
        ... def fetch() -> str:
        ...     return "within five seconds, and two for each attempt"
        >>> fetch()
        'within five seconds, and two for each attempt'
        >>> careful.call(str.upper, "also")
        'ALSO'
    """

    __slots__ = (
        "__weakref__",
        "_absorbing",
        "_chain",
        "_given_name",
        "_late",
        "_refusals",
        "_refuse",
        "_turn",
        "accept",
        "give",
        "journal",
        "judge",
        "lane",
        "measures",
        "name",
        "resolution",
        "strategies",
        "take",
    )

    def __init__(
        self,
        *strategies: Strategy,
        name: str | None = None,
        is_failure: Callable[[Exception], bool] | None = None,
    ) -> None:
        for strategy in strategies:
            if not isinstance(strategy, Strategy):
                raise InvalidUse(
                    "a pipeline is made of strategies, such as timeout(2), and "
                    f"{shown(strategy)} is none"
                )
        self.strategies = strategies
        self._given_name = name if name is None else settings.text("name", name)
        if name is None:
            name = next((one.label for one in strategies if one.label is not None), "pipeline")
        if len({id(strategy) for strategy in self.strategies}) < len(self.strategies):
            raise InvalidUse(f"{name}: one strategy twice in a pipeline counts each call twice")
        self.name = name
        self.measures = Measures.of(name)
        if is_failure is not None:
            settings.plain_function("is_failure", is_failure, takes=["the exception"])
        self.judge = is_failure
        self.lane = Lane()
        self.journal: list[float] = []
        #: Taken by whoever takes what is in the journal, and by the end of the pipeline for good.
        self._turn: list[None] = [None]
        self._refusals: Refusals | None = None
        self._refuse: Refuse | None = None
        self._chain: Proceed | None = None
        self._absorbing = tuple(
            one for one in self.strategies if type(one).absorb is not Strategy.absorb
        )
        self._late = tuple(
            one for one in self.strategies if type(one).came_late is not Strategy.came_late
        )
        resolutions = [one.resolution for one in self.strategies if one.resolution is not None]
        self.resolution = min(resolutions, default=None)
        self.take, self.give = permits_of(strategies)
        self.accept = accept_of(strategies)
        for strategy in self.strategies:
            strategy.joined(self)
        self.measures.join(self)
        self.refresh()

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Return `function`, guarded by these strategies and by those that guard it already."""
        from resilient.engine.guard import guard

        return guard(function, *self.strategies, name=self._given_name, is_failure=self.judge)

    def call(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call `function` through the strategies; of an asynchronous one, return the awaitable."""
        from resilient.engine.lanes import call_through

        if any(strategy.needs_target for strategy in self.strategies):
            return self(function)(*args, **kwargs)
        result: R = call_through(self, function, args, dict(kwargs))
        return result

    def _chained(self) -> Proceed:
        # Made for the first call that needs it: most dependencies are well.
        chain = self._chain = chain_of(self.strategies)
        return chain

    def __repr__(self) -> str:
        inside = ", ".join(repr(strategy) for strategy in self.strategies)
        return f"<Pipeline {self.name}: {inside}>"

    # The fast lane

    def refresh(self) -> None:
        """Open the fast lane if every strategy is at rest, else close it."""
        self._look()
        if self._refusals is not None:
            self._refusals.tell()

    def _look(self) -> None:
        with _changing:
            at_rest = (
                self.name not in faults.active
                and not faults.passing.depth
                and all(strategy.at_rest for strategy in self.strategies)
            )
            if not at_rest:
                if self._refusals is None and (how := refusals_of(self.strategies, self.measures)):
                    self._refusals, self._refuse = how
                self.lane.epoch = None
            elif self.lane.epoch is None:
                self.lane.epoch = object()
                self._renew_due(clock.now())
            self.lane.refuse = None if faults.passing.depth else self._refuse

    def begin_again(self) -> None:
        """Finish, in a forked child, what a thread of its parent was about to do."""
        self._turn[:] = (None,)
        self._look()

    def settle(self) -> None:
        """Tell measures and strategies of the successes in the journal."""
        if self._refusals is not None:
            self._refusals.settle()
        journal = self.journal
        if not journal and self.resolution is None:
            return
        with self.measures.lock:
            try:
                self._turn.pop()
            except IndexError:  # it goes, and has put its journal down; or is being settled by us
                return
            try:
                size = len(journal)
                durations = journal[:size]
                del journal[:size]
                now = clock.now()
                when = self._ended_by(now)
                self._renew_due(now)
                if not size:
                    return
                seconds = sum(durations)
                for strategy in self._absorbing:
                    strategy.absorb(size, seconds, when)
                self.measures.returned(durations, seconds)
            finally:
                self._turn[:] = (None,)

    def __del__(self) -> None:
        # At any moment, in any thread: nothing may be decided here, and nothing may be lost. Weak
        # references still lead here, so that somebody may be about to settle this very journal.
        if not getattr(self, "journal", None):
            return
        try:
            self._turn.pop()
        except IndexError:
            return
        durations = tuple(self.journal)
        if durations:
            when = self._ended_by(clock.now())
            for strategy in self._absorbing:
                strategy.leftovers.put(list(durations), when)
            self.measures.leftovers.put(list(durations), when)

    def _ended_by(self, now: float) -> float:
        """Return a time at about which what is in the journal has ended: before it was due."""
        if self.resolution is None or now < self.lane.due:
            return now
        # Well within that stretch: the moment at which it was due is part of the next one.
        return self.lane.due - self.resolution / 2

    def _renew_due(self, now: float) -> None:
        if self.resolution is not None:
            self.lane.due = (now // self.resolution + 1) * self.resolution

    # The slow lane

    def steps(self, call: Call) -> Steps[Outcome]:
        """Take `call` through all strategies, and count what it came to."""
        try:
            chain = attempt if faults.passing.depth else self._chain or self._chained()
            outcome = yield from chain(call)
        except TurnedAsync:
            raise
        except BaseException:
            self._count(call, "cancelled")
            raise
        if call.until_end is None or outcome.error is not None:
            self._count(call, self._label(call, outcome))
        return outcome

    def stream_ended(self, call: Call, error: BaseException | None, *, left: bool = False) -> None:
        """Count a stream that had begun well, and tell those who wait for its end.

        `left` says that its consumer has not waited for that.
        """
        failure = error if isinstance(error, Exception) else None
        is_cancelled = error is not failure
        outcome = Outcome(None, failure, call.started, clock.now())
        for tell in call.until_end or ():
            tell(None if left or is_cancelled else outcome)
        self._count(call, "cancelled" if is_cancelled else self._label(call, outcome))

    def is_failure(self, error: Exception) -> bool:
        """Whether `error` speaks against the dependency."""
        if isinstance(refusal_in(error), CallRejected):
            return False
        if self.judge is not None and not isolated("failures", True, self.judge, error):
            return False
        return all(strategy.is_failure(error) for strategy in self.strategies)

    def refuses(self, call: Call, strategy: Strategy) -> bool:
        """Whether a strategy further in than `strategy` would reject `call` if it were made now."""
        further_in = takewhile(lambda one: one is not strategy, reversed(self.strategies))
        return any(one.refuses(call) for one in further_in)

    def came_late(self, call: Call, outcome: Outcome) -> None:
        """Tell strategies what an abandoned call came to after all."""
        if type(outcome.value) is CoroutineType:
            outcome.value.close()  # nobody is going to await it
            return
        for strategy in self._late:
            strategy.came_late(call, outcome)

    @property
    def late(self) -> bool:
        """Whether any strategy wants to know what abandoned calls come to."""
        return bool(self._late)

    def _label(self, call: Call, outcome: Outcome) -> str:
        error = outcome.error
        if call.served is not None and error is None:
            return "degraded"
        if error is None:
            return "success"
        if isinstance(error, CallTimeout):
            return "timeout"
        if isinstance(refusal_in(error), CallRejected):
            return "rejected"
        return "failure" if self.is_failure(error) else "success"

    def _count(self, call: Call, label: str) -> None:
        self.measures.ended(label, clock.now() - call.started, call.attempts, call.retries)
        watcher = watching.get()
        if watcher is not None:
            watcher.called(call)


def _begin_all_again() -> None:
    for measures in list(every_measures()):
        for pipeline in measures.pipelines:
            pipeline.begin_again()


os.register_at_fork(after_in_child=_begin_all_again)
