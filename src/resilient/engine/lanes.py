"""The fast lanes: the path of a call while every strategy is at rest and the call succeeds.

A flag, two readings of the clock, the call, one append. Everything else (an error, a strategy that
is not at rest, a limit from outside) goes on in the slow lane, with the outcome in hand if there
is one, so that nothing is ever called twice.

These functions are the library's hottest code, and each is written out, as a call within them costs
as much as all that they do. The two colours differ only where Python wants it: `await`, and what an
asynchronous function may be. The short form of each leaves out what its pipeline has no use for,
and is otherwise the same. Arguments by name are unpacked only where there are any.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from types import CoroutineType
from typing import Any

from resilient.engine import clock
from resilient.engine.call import Call
from resilient.engine.callables import code_of, is_async_function
from resilient.engine.drivers import TurnedAsync, drive, drive_async
from resilient.engine.limited import on_worker, tightest
from resilient.engine.limits import ambient
from resilient.engine.notes import put
from resilient.engine.outcome import Outcome
from resilient.engine.pipeline import JOURNAL_SIZE, Pipeline
from resilient.engine.refusals import Refused
from resilient.engine.strategy import Accept
from resilient.engine.streams import async_stream, sync_stream

__all__ = ["async_lane", "call_through", "run", "run_async", "sync_lane"]

Function = Callable[..., Any]

limit_around, enter = ambient.get, ambient.set
#: The clock's, as a global of this module: it is read twice for each call.
now = clock.now


def _follow(now_from_now_on: Callable[[], float]) -> None:
    global now
    now = now_from_now_on


clock.followers.append(_follow)


def sync_lane(pipeline: Pipeline, function: Function) -> Function:
    """Return `function` guarded by `pipeline`."""
    called = on_worker(pipeline, function)
    accept = _accepting(pipeline)
    if pipeline.take is None and accept is None:
        return _short_sync_lane(pipeline, function, called)
    lane, journal, settle = pipeline.lane, pipeline.journal, pipeline.settle
    take, give, note = pipeline.take, pipeline.give, journal.append

    def guarded(*args: Any, **kwargs: Any) -> Any:
        epoch = lane.epoch
        if epoch is None or limit_around() is not None or (take is not None and not take()):
            refuse = lane.refuse
            outcome: Outcome | Refused | None = None if refuse is None else refuse()
            if outcome is None:
                outcome = run(pipeline, function, args, kwargs)
        else:
            start = now()
            try:
                value = called(*args, **kwargs) if kwargs else called(*args)
            except Exception as error:
                if give is not None and isinstance(error, RecursionError) and not _has_room():
                    give()
                    raise
                outcome = Outcome.failed(error, start)
            except BaseException:
                _interrupted(pipeline, start)
                raise
            else:
                if type(value) is CoroutineType:
                    if give is not None:
                        give()
                    return run_async(pipeline, function, args, kwargs, value)
                end = now()
                if lane.epoch is epoch and (
                    accept is None or accept(args, kwargs, value, start, end)
                ):
                    note(end - start)
                    if len(journal) >= JOURNAL_SIZE:
                        settle()
                    if give is not None:
                        give()
                    return value
                outcome = Outcome(value, None, start, end)
            outcome = run(pipeline, function, args, kwargs, outcome)
        if outcome.error is None:
            return outcome.value
        context = outcome.error.__context__
        try:
            raise outcome.error
        finally:
            if context is not None:  # in place of what the caller was about to handle
                put(outcome.error, "__context__", context)
            del outcome, context

    return guarded


def _short_sync_lane(pipeline: Pipeline, function: Function, called: Function) -> Function:
    """Return the same for a pipeline that takes no permits and looks at no answers: most do not."""
    lane, journal, settle = pipeline.lane, pipeline.journal, pipeline.settle
    note = journal.append

    def guarded(*args: Any, **kwargs: Any) -> Any:
        epoch = lane.epoch
        if epoch is None or limit_around() is not None:
            refuse = lane.refuse
            outcome: Outcome | Refused | None = None if refuse is None else refuse()
            if outcome is None:
                outcome = run(pipeline, function, args, kwargs)
        else:
            start = now()
            try:
                value = called(*args, **kwargs) if kwargs else called(*args)
            except Exception as error:
                outcome = Outcome.failed(error, start)
            except BaseException:
                _interrupted(pipeline, start)
                raise
            else:
                if type(value) is CoroutineType:
                    return run_async(pipeline, function, args, kwargs, value)
                if lane.epoch is epoch:
                    note(now() - start)
                    if len(journal) >= JOURNAL_SIZE:
                        settle()
                    return value
                outcome = Outcome(value, None, start, now())
            outcome = run(pipeline, function, args, kwargs, outcome)
        if outcome.error is None:
            return outcome.value
        context = outcome.error.__context__
        try:
            raise outcome.error
        finally:
            if context is not None:
                put(outcome.error, "__context__", context)
            del outcome, context

    return guarded


def async_lane(pipeline: Pipeline, function: Function) -> Function:
    """Return the asynchronous `function` guarded by `pipeline`."""
    accept, limit = _accepting(pipeline), tightest(pipeline)
    if pipeline.take is None and accept is None and limit is None:
        return _short_async_lane(pipeline, function)
    lane, journal, settle = pipeline.lane, pipeline.journal, pipeline.settle
    take, give, note = pipeline.take, pipeline.give, journal.append

    async def guarded(*args: Any, **kwargs: Any) -> Any:
        epoch = lane.epoch
        if epoch is None or limit_around() is not None or (take is not None and not take()):
            refuse = lane.refuse
            outcome: Outcome | Refused | None = None if refuse is None else refuse()
            if outcome is None:
                call = Call(pipeline, function, args, kwargs, is_async=True)
                outcome = await drive_async(pipeline.steps(call))
        else:
            start = now()
            cut = token = None
            try:
                if limit is not None:
                    seconds = limit.seconds
                    cut = limit.cuts.begin(start + seconds, seconds, pipeline.name, limit)
                    token = enter(cut)
                value = await (function(*args, **kwargs) if kwargs else function(*args))
            except Exception as error:
                if cut is not None:
                    cut.end(token)
                if give is not None and isinstance(error, RecursionError) and not _has_room():
                    give()
                    raise
                outcome = Outcome.failed(error, start)
            except BaseException as interruption:
                overrun = None if cut is None else cut.end(token, interruption)
                if overrun is None:
                    _interrupted(pipeline, start)
                    raise
                outcome = Outcome(None, overrun, start, now())
                del overrun  # whose traceback is going to refer to this frame
            else:
                if cut is not None:
                    cut.end(token)
                end = now()
                if lane.epoch is epoch and (
                    accept is None or accept(args, kwargs, value, start, end)
                ):
                    note(end - start)
                    if len(journal) >= JOURNAL_SIZE:
                        settle()
                    if give is not None:
                        give()
                    return value
                outcome = Outcome(value, None, start, end)
            call = Call(pipeline, function, args, kwargs, is_async=True, resumed=outcome)
            outcome = await drive_async(pipeline.steps(call))
        if outcome.error is None:
            return outcome.value
        context = outcome.error.__context__
        try:
            raise outcome.error
        finally:
            if context is not None:
                put(outcome.error, "__context__", context)
            del outcome, context

    return guarded


def _short_async_lane(pipeline: Pipeline, function: Function) -> Function:
    """Return the same for a pipeline without permits, limits and answers to be looked at."""
    lane, journal, settle = pipeline.lane, pipeline.journal, pipeline.settle
    note = journal.append

    async def guarded(*args: Any, **kwargs: Any) -> Any:
        epoch = lane.epoch
        if epoch is None or limit_around() is not None:
            refuse = lane.refuse
            outcome: Outcome | Refused | None = None if refuse is None else refuse()
            if outcome is None:
                call = Call(pipeline, function, args, kwargs, is_async=True)
                outcome = await drive_async(pipeline.steps(call))
        else:
            start = now()
            try:
                value = await (function(*args, **kwargs) if kwargs else function(*args))
            except Exception as error:
                outcome = Outcome.failed(error, start)
            except BaseException:
                _interrupted(pipeline, start)
                raise
            else:
                if lane.epoch is epoch:
                    note(now() - start)
                    if len(journal) >= JOURNAL_SIZE:
                        settle()
                    return value
                outcome = Outcome(value, None, start, now())
            call = Call(pipeline, function, args, kwargs, is_async=True, resumed=outcome)
            outcome = await drive_async(pipeline.steps(call))
        if outcome.error is None:
            return outcome.value
        context = outcome.error.__context__
        try:
            raise outcome.error
        finally:
            if context is not None:
                put(outcome.error, "__context__", context)
            del outcome, context

    return guarded


def _accepting(pipeline: Pipeline) -> Accept | None:
    """Return what looks at each success: the strategies' part, and the time to settle if it counts.

    Where only the number of successes counts, the lane does not even ask.
    """
    accept, lane, settle = pipeline.accept, pipeline.lane, pipeline.settle
    if pipeline.resolution is None:
        return accept

    def accept_in_time(args: Any, kwargs: Any, value: Any, started: float, ended: float) -> bool:
        if ended >= lane.due:
            settle()
        return accept is None or accept(args, kwargs, value, started, ended)

    return accept_in_time


def call_through(
    pipeline: Pipeline, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Call `function` through `pipeline`; of an asynchronous one, return the awaitable."""
    code = code_of(function)
    if inspect.isgeneratorfunction(code):
        return sync_stream(pipeline, function)(*args, **kwargs)
    if inspect.isasyncgenfunction(code):
        return async_stream(pipeline, function)(*args, **kwargs)
    if is_async_function(function):
        return _awaited(pipeline, function, args, kwargs)
    outcome = run(pipeline, function, args, kwargs)
    if outcome.error is None:
        return outcome.value
    context = outcome.error.__context__
    try:
        raise outcome.error
    finally:
        if context is not None:
            put(outcome.error, "__context__", context)
        del outcome, context


async def _awaited(
    pipeline: Pipeline, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    call = Call(pipeline, function, args, kwargs, is_async=True)
    return (await drive_async(pipeline.steps(call))).result()


def _interrupted(pipeline: Pipeline, start: float) -> None:
    """Let go of a call that ended in neither a value nor an error, and count it as cancelled."""
    if pipeline.give is not None:
        pipeline.give()
    pipeline.measures.ended("cancelled", now() - start, 1, 0)


def _has_room(frames: int = 50) -> bool:
    """Whether the slow lane would come to its end before that of the stack."""
    try:
        return frames == 0 or _has_room(frames - 1)
    except RecursionError:
        return False


def run(
    pipeline: Pipeline,
    function: Function,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    resumed: Outcome | None = None,
) -> Outcome:
    """Take a call through the slow lane; if it turns out asynchronous, its value is a coroutine."""
    call = Call(pipeline, function, args, kwargs, is_async=False, resumed=resumed)
    del resumed  # a tier that fails refers to this frame, and becomes the cause of the call's error
    try:
        return drive(pipeline.steps(call))
    except TurnedAsync as turned:
        coroutine = turned.coroutine
    turned_at = now()
    guarded = run_async(pipeline, function, args, kwargs, coroutine)
    return Outcome(guarded, None, turned_at, turned_at)


def run_async(
    pipeline: Pipeline,
    function: Function,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    first: Coroutine[Any, Any, Any],
) -> Coroutine[Any, Any, Any]:
    """Guard the coroutine that a plain function has returned; later attempts call it anew."""
    coroutines = [first]

    def called(*args: Any, **kwargs: Any) -> Any:
        return coroutines.pop() if coroutines else function(*args, **kwargs)

    async def guarded() -> Any:
        call = Call(pipeline, called, args, kwargs, is_async=True)
        call.turned = True
        try:
            return (await drive_async(pipeline.steps(call))).result()
        finally:
            for unused in coroutines:
                unused.close()

    return guarded()
