"""A ``with`` block and a pipeline made one.

The steps of the pipeline are carried out as far as the attempt, which is the block; its end
resumes them with what the block came to. What has been entered is kept in a context variable,
so that one strategy object can be entered from many threads and tasks at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar, Token
from functools import partial
from typing import Any, final

from resilient.engine import clock, faults, signals
from resilient.engine.call import Call
from resilient.engine.callables import calling_place
from resilient.engine.drivers import drive, drive_async
from resilient.engine.limits import (
    Limit,
    ambient,
    current_limit,
    leave_elsewhere,
    remaining,
    tighter,
)
from resilient.engine.outcome import Outcome
from resilient.engine.pipeline import Pipeline
from resilient.engine.steps import Attempt, Step, Steps
from resilient.engine.strategy import Strategy
from resilient.engine.timers import Cut, Cuts
from resilient.errors import CallTimeout

__all__ = ["Block", "enter", "enter_async", "leave", "leave_async", "opening", "until_attempt"]

_entered: ContextVar[tuple[Block, ...]] = ContextVar("resilient_blocks", default=())
#: All blocks that have been entered and not left, the newest last.
_open: dict[Block, None] = {}
_unowned = Cuts()
_LEFT = object()


@final
class Block:
    """A block that has been entered."""

    __slots__ = ("__weakref__", "_cut", "_limit", "_steps", "_token", "key", "started")

    def __init__(self, key: object, steps: Steps[Outcome] | None, limit: Limit | None) -> None:
        self.key = key
        self.started = clock.now()
        self._steps = steps
        self._limit = None if limit is None else limit.for_one_call()
        self._token: Token[Limit | None] | None = None
        if self._limit is not None:
            self._token = ambient.set(self._limit)
        self._cut: Cut | None = None

    def remaining(self) -> float | None:
        """Return the seconds that are left of the tightest limit, or None without one."""
        return remaining()

    def arm(self) -> None:
        """Have the block's task cancelled at the end of its limit."""
        if self._limit is not None:
            cuts: Cuts = getattr(self._limit.owner, "cuts", _unowned)
            self._cut = cuts.arm(self._limit)

    def closing(self, error: BaseException | None) -> Steps[Outcome]:
        """Return the steps that remain after a block that ended with `error`."""
        if self._token is not None and self._limit is not None:
            try:
                ambient.reset(self._token)
            except ValueError:  # left in another context, as by an asynchronous fixture
                leave_elsewhere(self._limit)
        was_cut = self._cut is not None and self._cut.disarm()
        if was_cut and self._limit is not None and isinstance(error, asyncio.CancelledError):
            overrun = self._limit.overrun()
            overrun.__cause__ = error
            error = overrun
        elif self._limit is not None:
            self._limit.ended = True
        return self._rest(error)

    def _rest(self, error: BaseException | None) -> Steps[Outcome]:
        steps = self._steps
        if steps is None:
            return self._limited_only(error)
        go_on: Callable[[], Step]
        if error is None or isinstance(error, Exception):
            go_on = partial(steps.send, Outcome(None, error, self.started, clock.now()))
        else:
            go_on = partial(steps.throw, error)
        reached = yield from until_attempt(steps, go_on)
        assert isinstance(reached, Outcome), "a block is attempted once"
        return reached

    def _limited_only(self, error: BaseException | None) -> Outcome:
        if isinstance(error, CallTimeout) and error.owner is self.key:
            signals.emit("resilient.call_timed_out", dependency=error.name, seconds=error.seconds)
        elif error is not None and not isinstance(error, Exception):
            raise error
        return Outcome(None, error, self.started, clock.now())


def opening(steps: Steps[Outcome]) -> Steps[Attempt | Outcome]:
    """Carry `steps` out as far as the attempt, or to their end."""
    return (yield from until_attempt(steps, partial(next, steps)))


def until_attempt(steps: Steps[Outcome], go_on: Callable[[], Step]) -> Steps[Attempt | Outcome]:
    """Carry `steps` out as far as the next attempt, or to their end, after they `go_on`."""
    try:
        step = go_on()
        while not isinstance(step, Attempt):
            try:
                reply = yield step
            except BaseException as interruption:
                step = steps.throw(interruption)
            else:
                step = steps.send(reply)
    except StopIteration as finished:
        outcome: Outcome = finished.value
        return outcome
    return step


def _nothing() -> None:
    """Stand for the block, which is called by nobody."""


def _limited(strategy: Strategy, *, is_async: bool) -> Block | None:
    """Return the block of a strategy that is a time limit and nothing else: it needs no steps."""
    seconds = strategy.block_seconds
    if seconds is None:
        return None
    strategy.as_block(is_async=is_async)
    if faults.passing.depth:
        return _entering(Block(strategy, None, None))
    name = strategy.label or calling_place()
    limit = Limit(clock.now() + seconds, seconds, name, strategy)
    return _entering(Block(strategy, None, tighter(current_limit(), limit)))


def _entering(block: Block) -> Block:
    _open[block] = None
    outer = _entered.get()
    if outer:
        outer = tuple(one for one in outer if one in _open)  # others may have left some of them
    _entered.set((*outer, block))
    return block


def _call(strategy: Strategy, *, is_async: bool) -> Call:
    pipeline = strategy.block_pipelines.get(is_async)
    if pipeline is None:
        parts = strategy.as_block(is_async=is_async)
        name = strategy.label or calling_place()
        pipeline = Pipeline(*parts, name=name, is_failure=strategy.judge)
        strategy.block_pipelines = {**strategy.block_pipelines, is_async: pipeline}
    return Call(pipeline, _nothing, (), {}, is_async=is_async)


def _begin(strategy: Strategy, steps: Steps[Outcome], reached: Any) -> Block:
    if isinstance(reached, Outcome):
        assert reached.error is not None, "nothing stands in for a block"
        try:
            raise reached.error
        finally:
            # The traceback refers to this frame, which must not refer to the error.
            del reached
    return _entering(Block(strategy, steps, reached.limit))


def _end(strategy: Strategy) -> Block:
    entered = _entered.get()
    for index in range(len(entered) - 1, -1, -1):
        block = entered[index]
        if block.key is strategy:
            entered = entered[:index] + entered[index + 1 :]
            _entered.set(entered)
            if _open.pop(block, _LEFT) is None:
                return block
    # A framework may enter and leave a block on two threads, in a copy of the context each. This is
    # the newest of those that are open: whoever finds that his own is gone takes another one.
    for block in reversed(list(_open)):
        if block.key is strategy and _open.pop(block, _LEFT) is None:
            return block
    raise RuntimeError(f"{strategy!r} is left without having been entered")


def enter(strategy: Strategy) -> Block:
    """Let a synchronous block begin under `strategy`, or raise why it must not."""
    limited = _limited(strategy, is_async=False)
    if limited is not None:
        return limited
    call = _call(strategy, is_async=False)
    steps = call.pipeline.steps(call)
    return _begin(strategy, steps, drive(opening(steps)))


def leave(strategy: Strategy, error: BaseException | None) -> None:
    """Tell `strategy` what its synchronous block came to."""
    steps = _end(strategy).closing(error)
    try:
        _raise_other(drive(steps), error)
    except BaseException as interruption:
        if interruption is not error:  # which goes on by itself
            raise


async def enter_async(strategy: Strategy) -> Block:
    """Let an asynchronous block begin under `strategy`, or raise why it must not."""
    block = _limited(strategy, is_async=True)
    if block is None:
        call = _call(strategy, is_async=True)
        steps = call.pipeline.steps(call)
        block = _begin(strategy, steps, await drive_async(opening(steps)))
    block.arm()
    return block


async def leave_async(strategy: Strategy, error: BaseException | None) -> None:
    """Tell `strategy` what its asynchronous block came to."""
    steps = _end(strategy).closing(error)
    try:
        _raise_other(await drive_async(steps), error)
    except BaseException as interruption:
        if interruption is not error:  # which goes on by itself
            raise


def _raise_other(outcome: Outcome, error: BaseException | None) -> None:
    try:
        if outcome.error is not None and outcome.error is not error:
            raise outcome.error
    finally:
        del outcome  # as above
