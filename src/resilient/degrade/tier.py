"""One thing that a fallback tries."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar, final

from resilient.engine import clock, settings
from resilient.engine.callables import is_async_function, plain_name
from resilient.engine.limits import Limit, tighter
from resilient.engine.outcome import Outcome
from resilient.engine.steps import Invoke, Steps
from resilient.engine.timers import Cuts
from resilient.engine.workers import Workers
from resilient.errors import InvalidUse

if TYPE_CHECKING:
    from resilient.engine.call import Call
    from resilient.engine.pipeline import Pipeline
    from resilient.engine.strategy import Strategy, Target

__all__ = ["Answer", "Tier", "checked"]

D_co = TypeVar("D_co", covariant=True)


@final
class Answer:
    """What a tier came to, and the age of its value in seconds if that is known."""

    __slots__ = ("age", "outcome")

    def __init__(self, outcome: Outcome, age: float | None = None) -> None:
        self.outcome = outcome
        self.age = age


class Tier(ABC, Generic[D_co]):
    """The base of all tiers; `limit` is the most seconds that it may take."""

    #: The label of `resilient_fallbacks_total`.
    name: str
    #: Whether the answer is always `value`, which nobody can change.
    is_constant: bool = False
    value: Any = None

    def __init__(self, limit: float | None = None) -> None:
        self.limit = None if limit is None else settings.seconds("timeout", limit, above_zero=True)
        self.cuts = Cuts()
        self.workers: Workers | None = None

    if not TYPE_CHECKING:  # a type checker must not take a tier for a function to fall back to

        def __call__(self, function: object) -> object:
            """Refuse to be a decorator, and say what is one."""
            raise InvalidUse(
                f"{self.name}(...) is a tier, no decorator: write @with_fallback({self.name}(...))"
            )

    def attach(self, target: Target) -> Tier[D_co]:
        """Return the tier to use for `target`, after a check that it can be used there."""
        if self.limit is not None:  # kept on a thread for a plain function, on a loop as well
            tier = copy.copy(self)
            tier.workers = _new_workers()
            return tier
        return self

    def joined(self, pipeline: Pipeline, fallback: Strategy) -> None:
        """Take note of the pipeline in which this tier is part of `fallback`."""

    @property
    def plain(self) -> tuple[Any, Callable[[], Any] | None] | None:
        """The answer, if it is a plain value; and a function that copies it, if that is needed."""
        return None

    @abstractmethod
    def answer(self, call: Call, failed: Outcome) -> Steps[Answer]:
        """Answer in place of `call`, which came to `failed`."""

    def invoke(
        self,
        call: Call,
        function: Callable[..., Any],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Steps[Outcome]:
        """Call `function` within the limits of the tier and of the call."""
        limit = call.limit
        if self.limit is not None:
            own = Limit(clock.now() + self.limit, self.limit, f"{call.name}: {self.name}", self)
            limit = tighter(limit, own)
        elif call.workers is not None and self.workers is None:
            # Within a hard limit, which takes the tier away from the caller as well; not on the
            # workers of the call, all of which may hang.
            self.workers = _new_workers()
        workers = None if self.limit is None and call.workers is None else self.workers
        outcome: Outcome = yield Invoke(function, args, kwargs, limit, workers)
        return outcome


def _new_workers() -> Workers:
    return Workers(max_workers=32, max_abandoned=8)


def checked(
    function: Callable[..., Any], target: Target, tier: str, *, takes_call: bool
) -> Callable[..., Any]:
    """Return `function` after a check that it can serve `target`.

    `takes_call` says that it is called with the arguments of the guarded function.
    """
    if is_async_function(function) and not target.is_async:
        raise InvalidUse(
            f"{tier}: {plain_name(function)} is asynchronous and {target.name} is not: "
            "a synchronous call cannot wait for it"
        )
    if takes_call:
        target.check_takes_call(function, tier)
    return function
