"""What is served instead, tier by tier, when a call fails."""

from __future__ import annotations

import copy
from collections.abc import Callable, Coroutine
from typing import Any, Generic, ParamSpec, TypeVar, final, overload

from resilient.degrade.cached import Cached
from resilient.degrade.default import Default
from resilient.degrade.degradations import Degradation, note_degradation, scope
from resilient.degrade.freshness import Freshness
from resilient.degrade.served import note_all_failed, note_served, tell_served
from resilient.degrade.tier import Answer, Tier
from resilient.engine import clock
from resilient.engine.call import Call
from resilient.engine.chain import all_of
from resilient.engine.outcome import Outcome
from resilient.engine.pipeline import Pipeline
from resilient.engine.refusals import StandIn
from resilient.engine.steps import Proceed, Steps
from resilient.engine.strategy import Accept, Strategy, Target
from resilient.errors import InvalidUse
from resilient.strategies.matching import Matches, speaks_for

__all__ = ["Fallback", "WithFallback", "with_fallback"]

P = ParamSpec("P")
R = TypeVar("R")
D = TypeVar("D")
E = TypeVar("E")
F = TypeVar("F")


class Fallback(Strategy, Generic[D]):
    """Tiers that are tried in order when a call fails; see `with_fallback`."""

    needs_target = True
    no_block = (
        "a block has no answer that another could stand in for: "
        "decorate a function with with_fallback(...)"
    )

    def __init__(
        self,
        *tiers: Any,
        on: Matches = Exception,
        exclude: Matches | None = None,
        inner: Callable[[Fallback[Any], Callable[..., Any]], Any] | None = None,
    ) -> None:
        super().__init__()
        self._inner = inner
        if not tiers:
            raise InvalidUse("with_fallback() needs at least one tier, such as cached(ttl=3600)")
        self.tiers = tuple(one if isinstance(one, Tier) else Default(one) for one in tiers)
        self._serves = speaks_for(on, exclude)
        self._excludes = exclude is not None
        self._keepers: tuple[Cached, ...] = ()
        self._freshness: Freshness | None = None

    def __repr__(self) -> str:
        return f"with_fallback({', '.join(map(repr, self.tiers))})"

    @overload  # type: ignore[override]
    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, R]]
    ) -> Callable[P, Coroutine[Any, Any, R | D]]: ...
    @overload
    def __call__(self, function: Callable[P, R]) -> Callable[P, R | D]: ...
    def __call__(self, function: Callable[P, Any]) -> Callable[P, Any]:
        """Return `function`, which has another answer when it fails."""
        if self._inner is not None:
            guarded: Callable[P, Any] = self._inner(self, function)
            return guarded
        return super().__call__(function)

    def attach(self, target: Target) -> Fallback[D]:
        """Return this fallback with tiers that fit `target`."""
        fallback = copy.copy(self)
        fallback.tiers = tuple(tier.attach(target) for tier in self.tiers)
        fallback._keepers = tuple(tier for tier in fallback.tiers if isinstance(tier, Cached))
        shared = next((tier for tier in fallback._keepers if tier.shares_calls), None)
        fallback._freshness = None if shared is None else Freshness(shared, fallback._proceed)
        Strategy.__init__(fallback)
        return fallback

    def joined(self, pipeline: Pipeline) -> None:
        """Tell the tiers what guards the function."""
        super().joined(pipeline)
        for tier in self.tiers:
            tier.joined(pipeline, self)

    @property
    def at_rest(self) -> bool:
        """Whether answers come from the call, not from a cache that may be fresh."""
        return self._freshness is None

    @property
    def accept(self) -> Accept | None:
        """Keep each answer."""
        return all_of([tier.keeper() for tier in self._keepers])

    @property
    def stand_in(self) -> StandIn | None:
        """The first tier, if it is a plain value that serves for every rejection."""
        tier = self.tiers[0]
        if self._excludes or self._freshness is not None or tier.plain is None:
            return None

        def note(name: str, reason: str) -> None:
            note_degradation(Degradation(name, tier.name, None, reason))

        def tell(name: str, reason: str, count: int) -> None:
            tell_served(name, tier.name, None, reason, count)

        return StandIn(tier.name, *tier.plain, scope.get, note, tell)

    def came_late(self, call: Call, outcome: Outcome) -> None:
        """Keep an answer that came after its caller had given up."""
        if outcome.error is None:
            for tier in self._keepers:
                tier.keep(call, outcome)

    def steps(self, call: Call, proceed: Proceed) -> Steps[Outcome]:
        """Proceed, and serve a tier if that comes to nothing."""
        if self._freshness is not None and call.resumed is None:
            outcome = yield from self._freshness.steps(call, proceed)
        elif self._keepers:
            outcome = yield from self._proceed(call, proceed)
        else:
            outcome = yield from proceed(call)
        error = outcome.error
        if error is None or not self._serves(error):
            return outcome
        failures: list[tuple[str, Exception]] = []
        for tier in self.tiers:
            if tier.is_constant:
                note_served(call, tier.name, None, type(error).__name__)
                return Outcome(tier.value, None, outcome.started, clock.now())
            answer = yield from self._ask(tier, call, outcome)
            if answer.outcome.error is None:
                note_served(call, tier.name, answer.age, type(error).__name__)
                return Outcome(answer.outcome.value, None, outcome.started, clock.now())
            failures.append((tier.name, answer.outcome.error))
        note_all_failed(call, "tier", error, failures)
        return outcome

    def _proceed(self, call: Call, proceed: Proceed) -> Steps[Outcome]:
        outcome = yield from proceed(call)
        # What a fallback further in has served is no answer of the dependency.
        if outcome.error is None and call.served is None:
            for tier in self._keepers:
                tier.keep(call, outcome)
        return outcome

    def _ask(self, tier: Tier[D], call: Call, failed: Outcome) -> Steps[Answer]:
        try:
            return (yield from tier.answer(call, failed))
        except Exception as error:
            return Answer(Outcome.failed(error, clock.now()))


@final
class WithFallback:
    """Makes fallbacks: on their own, or as the outermost part of a dependency.

    Type checkers know what up to three tiers serve, of which the last may be anything.
    """

    def __init__(
        self, inner: Callable[[Fallback[Any], Callable[..., Any]], Any] | None = None
    ) -> None:
        self._inner = inner

    @overload
    def __call__(
        self,
        first: Tier[D] | Callable[..., Coroutine[Any, Any, D]],
        /,
        *,
        on: Matches = ...,
        exclude: Matches | None = ...,
    ) -> Fallback[D]: ...
    @overload
    def __call__(
        self, first: Callable[..., D], /, *, on: Matches = ..., exclude: Matches | None = ...
    ) -> Fallback[D]: ...
    @overload
    def __call__(
        self, first: D, /, *, on: Matches = ..., exclude: Matches | None = ...
    ) -> Fallback[D]: ...
    @overload
    def __call__(
        self,
        first: Tier[D],
        second: Tier[E] | Callable[..., Coroutine[Any, Any, E]],
        /,
        *,
        on: Matches = ...,
        exclude: Matches | None = ...,
    ) -> Fallback[D | E]: ...
    @overload
    def __call__(
        self,
        first: Tier[D],
        second: Callable[..., E],
        /,
        *,
        on: Matches = ...,
        exclude: Matches | None = ...,
    ) -> Fallback[D | E]: ...
    @overload
    def __call__(
        self,
        first: Tier[D],
        second: E,
        /,
        *,
        on: Matches = ...,
        exclude: Matches | None = ...,
    ) -> Fallback[D | E]: ...
    @overload
    def __call__(
        self,
        first: Tier[D],
        second: Tier[E],
        third: Tier[F] | Callable[..., Coroutine[Any, Any, F]],
        /,
        *,
        on: Matches = ...,
        exclude: Matches | None = ...,
    ) -> Fallback[D | E | F]: ...
    @overload
    def __call__(
        self,
        first: Tier[D],
        second: Tier[E],
        third: Callable[..., F],
        /,
        *,
        on: Matches = ...,
        exclude: Matches | None = ...,
    ) -> Fallback[D | E | F]: ...
    @overload
    def __call__(
        self,
        first: Tier[D],
        second: Tier[E],
        third: F,
        /,
        *,
        on: Matches = ...,
        exclude: Matches | None = ...,
    ) -> Fallback[D | E | F]: ...
    @overload
    def __call__(
        self, *tiers: Any, on: Matches = ..., exclude: Matches | None = ...
    ) -> Fallback[Any]: ...
    def __call__(
        self, *tiers: Any, on: Matches = Exception, exclude: Matches | None = None
    ) -> Fallback[Any]:
        """Return a strategy that serves the first of `tiers` that has an answer when a call fails.

        Arguments:
            tiers: What is tried, in order: `cached(...)`, `failover(...)`, `default(...)`, or a
                plain value, function or class, which is a default. One that fails falls to the
                next.
            on: Which errors they are for: exception types, or a predicate. Rejections (open
                circuit, full bulkhead) are among them whatever is said here, unless they are
                excluded.
            exclude: Which errors they are not for.

        When every tier fails, the call's own error is raised, with a note on each tier, and the
        last tier's error as its cause if it has none of its own.

        Raises:
            InvalidUse: If there is no tier, or when decorating if one does not fit the function.
            InvalidSetting: If `on` or `exclude` names no exceptions.

        Example:
            >>> from resilient import cached, with_fallback
            >>> def popular_items() -> list[str]:
            ...     return ["bestseller"]
            >>> @with_fallback(cached(ttl=3600, key="rec:{user_id}"), popular_items)
            ... def recommendations_for(user_id: str) -> list[str]:
            ...     raise ConnectionError("recommendations are down")
            >>> recommendations_for("u1")
            ['bestseller']

        Where the rule comes from: fallbacks in Hystrix and Polly, in tiers.
        """
        return Fallback(*tiers, on=on, exclude=exclude, inner=self._inner)


with_fallback = WithFallback()
