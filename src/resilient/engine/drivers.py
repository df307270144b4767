"""What carries steps out: on the calling thread, or on asyncio.

Both do the same for the same steps; how time passes on a thread is the clock's affair, so that
virtual time needs no third copy. An `Exception` of a called function becomes an `Outcome`;
anything else (cancellation, Ctrl-C) is thrown into the steps, where strategies give back what
they hold, and leaves through the caller.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from types import CoroutineType
from typing import Any, TypeVar, final

from resilient.engine import clock
from resilient.engine.callables import is_async_function, plain_name
from resilient.engine.limits import Limit, ambient
from resilient.engine.outcome import Outcome
from resilient.engine.steps import Attempt, Detach, Invoke, Sleep, Steps, Wait
from resilient.engine.timers import Cuts
from resilient.errors import ResilientError

__all__ = ["TurnedAsync", "drive", "drive_async", "needs_a_loop"]

T = TypeVar("T")

_unowned = Cuts()


@final
class TurnedAsync(BaseException):
    """A plain function has returned a coroutine: the call has to go on asynchronously.

    Thrown into the steps like a cancellation, so that every strategy lets go of the call.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        super().__init__()
        self.coroutine = coroutine


def drive(steps: Steps[T]) -> T:
    """Carry `steps` out on this thread and return what they come to."""
    reply: Any = None
    try:
        step = next(steps)
        while True:
            try:
                reply = _invoke(step) if isinstance(step, Invoke) else _carry_out(step)
            except BaseException as interruption:
                step = steps.throw(interruption)
            else:
                step = steps.send(reply)
    except StopIteration as finished:
        return finished.value  # type: ignore[no-any-return]
    finally:
        # An error's traceback refers to this frame, which must not refer to the error: what a
        # failed call leaves behind would be there until the garbage collector runs.
        reply = None


async def drive_async(steps: Steps[T]) -> T:
    """Carry `steps` out in this task and return what they come to."""
    reply: Any = None
    try:
        step = next(steps)
        while True:
            try:
                if isinstance(step, Invoke):
                    reply = await (
                        _invoke_async(step)
                        if step.limit is None
                        else _invoke_within(step, step.limit)
                    )
                elif isinstance(step, Sleep):
                    await clock.current.sleep_async(step.seconds)
                    reply = None
                else:
                    reply = await _carry_out_async(step)
            except BaseException as interruption:
                step = steps.throw(interruption)
            else:
                step = steps.send(reply)
    except StopIteration as finished:
        return finished.value  # type: ignore[no-any-return]
    finally:
        reply = None  # as above: what is called here may be a plain function


def _carry_out(step: Sleep | Wait | Detach) -> Any:
    if isinstance(step, Sleep):
        return clock.current.sleep(step.seconds)
    if isinstance(step, Wait):
        return clock.current.wait(step.waiter, step.until)
    drive(step.steps)
    return _nothing_to_cancel


def _nothing_to_cancel() -> None:
    """What ran on a thread has ended."""


def _invoke(step: Invoke) -> Outcome:
    started = clock.now()
    limit = step.limit
    if limit is None:
        try:
            value = step.function(*step.args, **step.kwargs)
        except Exception as error:
            return Outcome.failed(error, started)
    elif limit.expires <= started:
        return Outcome(None, limit.too_late(), started, started)
    elif step.workers is not None:
        step.limit = limit.for_one_call()
        outcome = clock.current.run_limited(step.workers, step)
        if outcome.error is not None:
            return outcome
        value = outcome.value
        started = outcome.started
    else:
        limit = limit.for_one_call()
        token = ambient.set(limit)
        try:
            value = step.function(*step.args, **step.kwargs)
        except Exception as error:
            return Outcome.failed(error, started)
        finally:
            ambient.reset(token)
            limit.ended = True
    if type(value) is CoroutineType:
        if isinstance(step, Attempt):
            raise TurnedAsync(value)
        value.close()
        return Outcome.failed(needs_a_loop(step.function), started)
    return Outcome(value, None, started, clock.now())


def needs_a_loop(function: Callable[..., Any]) -> ResilientError:
    """Return the error for a plain function that has returned a coroutine where nobody awaits."""
    name = plain_name(function)
    return ResilientError(f"{name} is asynchronous and cannot serve a synchronous call")


async def _carry_out_async(step: Wait | Detach) -> Any:
    if isinstance(step, Wait):
        return await clock.current.wait_async(step.waiter, step.until)
    task = asyncio.get_running_loop().create_task(drive_async(step.steps))
    _detached.add(task)
    task.add_done_callback(_detached_ended)
    return task.cancel


# The loop itself holds its tasks only weakly.
_detached: set[asyncio.Task[Any]] = set()


def _detached_ended(task: asyncio.Task[Any]) -> None:
    _detached.discard(task)
    if not task.cancelled():
        task.exception()


async def _invoke_async(step: Invoke) -> Outcome:
    started = clock.now()
    try:
        value = step.function(*step.args, **step.kwargs)
        if type(value) is CoroutineType or inspect.isawaitable(value):
            value = await value
    except Exception as error:
        return Outcome.failed(error, started)
    return Outcome(value, None, started, clock.now())


async def _invoke_within(step: Invoke, limit: Limit) -> Outcome:
    started = clock.now()
    if limit.expires <= started:
        return Outcome(None, limit.too_late(), started, started)
    cuts: Cuts = getattr(limit.owner, "cuts", _unowned)
    cut = cuts.arm(limit)
    token = ambient.set(cut)
    try:
        if step.workers is None or is_async_function(step.function):
            value = step.function(*step.args, **step.kwargs)
        else:
            value = (await clock.current.run_limited_async(step.workers, step)).result()
        if inspect.isawaitable(value):
            value = await value
    except Exception as error:
        cut.end(token)
        return Outcome.failed(error, started)
    except BaseException as interruption:
        overrun = cut.end(token, interruption)
        if overrun is None:
            raise
        try:
            return Outcome(None, overrun, started, clock.now())
        finally:
            del overrun  # as above
    cut.end(token)
    return Outcome(value, None, started, clock.now())
