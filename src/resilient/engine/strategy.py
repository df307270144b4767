"""One concern around a call, with its settings and, where it has any, its state."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec, TypeVar, final

from resilient.engine.callables import plain_name
from resilient.engine.leftovers import Leftovers
from resilient.engine.outcome import Outcome
from resilient.engine.weak import WeakList
from resilient.errors import CallRejected, InvalidUse

if TYPE_CHECKING:
    from resilient.engine.blocks import Block
    from resilient.engine.call import Call
    from resilient.engine.pipeline import Pipeline
    from resilient.engine.refusals import Rejecting, StandIn
    from resilient.engine.steps import Proceed, Steps
    from resilient.engine.workers import Workers

__all__ = ["Accept", "LanePart", "Strategy", "Target"]

P = ParamSpec("P")
#: Called with (args, kwargs, value, started, ended).
Accept = Callable[[tuple[Any, ...], Mapping[str, Any], Any, float, float], bool]
R = TypeVar("R")


@final
class Target:
    """The function that a strategy is about to guard, as far as its settings depend on it."""

    __slots__ = ("function", "is_async", "is_stream", "name", "signature")

    def __init__(
        self, function: Callable[..., Any], name: str, *, is_async: bool, is_stream: bool = False
    ) -> None:
        self.function = function
        self.name = name
        self.is_async = is_async
        self.is_stream = is_stream
        try:
            self.signature: inspect.Signature | None = inspect.signature(function)
        except (TypeError, ValueError):  # some callables written in C have none
            self.signature = None

    def check_takes_call(
        self, function: Callable[..., Any], what: str, *, some_will_do: bool = False
    ) -> None:
        """Raise `InvalidUse` if `function`, which is called `what`, does not take the same calls.

        It must take all that a call can give; if some calls will do, or what each has to give.
        """
        if self.signature is None:
            return
        try:
            theirs = inspect.signature(function)
        except (TypeError, ValueError):
            return
        ours = self.signature
        fits = _accepts(theirs, ours) or (some_will_do and _accepts(theirs, ours, shortest=True))
        if not fits:
            raise InvalidUse(
                f"{what}: {plain_name(function)} takes ({', '.join(theirs.parameters)}) and is "
                f"called with the arguments of {self.name}, which takes {ours}"
            )


def _accepts(theirs: inspect.Signature, ours: inspect.Signature, *, shortest: bool = False) -> bool:
    kinds = inspect.Parameter
    args: list[object] = []
    kwargs: dict[str, object] = {}
    for parameter in ours.parameters.values():
        if shortest and parameter.default is not kinds.empty:
            continue
        if parameter.kind is kinds.KEYWORD_ONLY:
            kwargs[parameter.name] = None
        elif parameter.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD):
            args.append(None)
    several = (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD)
    is_open = any(parameter.kind in several for parameter in ours.parameters.values())
    try:
        (theirs.bind_partial if is_open else theirs.bind)(*args, **kwargs)
    except TypeError:
        return False
    return True


class LanePart:
    """What a strategy does on the fast lane: nothing, unless it overrides one of these.

    The fast lane tells the pipeline of its successes in batches; `absorb` is where a strategy
    learns of them. Parts must be fast, and must not call user code while they hold a lock.
    """

    #: Seconds after which a call is taken away from its caller, or None.
    seconds: float | None = None
    #: Where synchronous calls run if they are to be abandoned.
    workers: Workers | None = None
    #: Seconds to which the times of successes must be known, or None if only their number counts.
    resolution: float | None = None

    @property
    def at_rest(self) -> bool:
        """Whether there is nothing to do for this strategy on the success path now."""
        return True

    @property
    def take(self) -> Callable[[], bool] | None:
        """A function that takes a permit for a call, or says that there is none."""
        return None

    @property
    def give(self) -> Callable[[], object] | None:
        """The function that gives the permit back."""
        return None

    @property
    def untake(self) -> Callable[[], object] | None:
        """The function that gives the permit of a call back which is not made after all."""
        return self.give

    @property
    def accept(self) -> Accept | None:
        """A function that looks at each success, and says whether it is one for this strategy."""
        return None

    def absorb(self, count: int, seconds: float, when: float) -> None:
        """Take note of `count` successes, of `seconds` together, that ended at about `when`."""


class Strategy(LanePart):
    """The base of every strategy: a decorator, a part of a pipeline, and maybe a ``with`` block.

    A strategy is written once, as the generator `steps`, for threads, asyncio and virtual time.
    """

    #: What is said when the strategy is used as a ``with`` block and cannot be; None if it can.
    no_block: ClassVar[str | None] = None

    #: The seconds of a strategy that is a time limit for blocks and nothing else, or None.
    block_seconds: float | None = None
    #: Whether the strategy must know the function that it guards, and cannot do with any.
    needs_target: ClassVar[bool] = False
    #: What it raises for a call that it does not let through, or None if it lets all through.
    rejection: ClassVar[type[CallRejected] | None] = None
    #: Whether a call that is rejected says nothing about those of other arguments.
    rejects_by_key: ClassVar[bool] = False

    #: Whether a call that is turned away further in passes by here as if nothing had been.
    lets_refusals_pass: ClassVar[bool] = False

    #: The journals of pipelines that are gone, of those who want to know.
    leftovers: Leftovers = Leftovers()
    #: The pipelines of ``with`` and ``async with`` blocks, made on first use.
    block_pipelines: Mapping[bool, Pipeline] = MappingProxyType({})

    #: Whether an error in a block speaks against the dependency; None if every error does.
    judge: Callable[[Exception], bool] | None = None

    def __init__(self) -> None:
        self._pipelines: WeakList[Pipeline] = WeakList()
        if type(self).absorb is not LanePart.absorb:
            self.leftovers = Leftovers()

    def steps(self, call: Call, proceed: Proceed) -> Steps[Outcome]:
        """Do this strategy's part for `call`, and `proceed` to those further in."""
        return (yield from proceed(call))

    @property
    def label(self) -> str | None:
        """The name of the dependency, if this strategy has one."""
        return None

    @property
    def rejecting(self) -> Rejecting | None:
        """How this strategy turns calls away, if it can without a look at the single call."""
        return None

    @property
    def stand_in(self) -> StandIn | None:
        """What is served in place of calls that are turned away, if that is always the same."""
        return None

    def attach(self, target: Target) -> Strategy:
        """Return the strategy to use for `target`, after a check that it can be used there."""
        return self

    def joined(self, pipeline: Pipeline) -> None:
        """Take note of a pipeline that this strategy is part of."""
        self._pipelines.add(pipeline)
        if self.leftovers.are_many:
            self._take_up_leftovers()

    def is_failure(self, error: Exception) -> bool:
        """Whether `error` speaks against the dependency, as far as this strategy knows."""
        return True

    def came_late(self, call: Call, outcome: Outcome) -> None:
        """Take note of the outcome of a call that had been abandoned at its limit."""

    def refuses(self, call: Call) -> bool:
        """Whether `call` would be rejected if it were made now."""
        return False

    def longest(self, seconds: float) -> float:
        """Return how long a call may take here if what is further in takes at most `seconds`."""
        return seconds

    def settle(self) -> None:
        """Bring this strategy up to date with the successes of all its pipelines."""
        for pipeline in self._pipelines:
            pipeline.settle()
        self._take_up_leftovers()

    def _take_up_leftovers(self) -> None:
        self.leftovers.take_up(lambda batch, when: self.absorb(len(batch), sum(batch), when))

    def rest_changed(self) -> None:
        """Open or close the fast lanes of all that this strategy guards."""
        for pipeline in self._pipelines:
            pipeline.refresh()

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Return `function`, guarded by this strategy and by those that guard it already."""
        from resilient.engine.guard import guard

        return guard(function, self)

    def __enter__(self) -> Block:
        from resilient.engine.blocks import enter

        return enter(self)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        from resilient.engine.blocks import leave

        leave(self, error)

    async def __aenter__(self) -> Block:
        from resilient.engine.blocks import enter_async

        return await enter_async(self)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        from resilient.engine.blocks import leave_async

        await leave_async(self, error)

    def as_block(self, *, is_async: bool) -> tuple[Strategy, ...]:
        """Return the strategies that guard a block, or raise and say what to do instead."""
        if self.no_block is not None:
            raise InvalidUse(self.no_block)
        return (self,)
