"""The first attempt of a time-limited function, as the fast lane makes it.

Whatever number of time limits a pipeline has, the tightest of them is the one that matters while
all strategies are at rest: one timer or one worker for all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from resilient.engine import clock
from resilient.engine.call import Call
from resilient.engine.limits import Limit, ambient
from resilient.engine.outcome import Outcome
from resilient.engine.pipeline import Pipeline
from resilient.engine.steps import Invoke

__all__ = ["limited"]

Function = Callable[..., Any]

now = clock.now


def _follow(now_from_now_on: Callable[[], float]) -> None:
    global now
    now = now_from_now_on


clock.followers.append(_follow)


def limited(pipeline: Pipeline, function: Function, *, is_async: bool) -> Function:
    """Return what the fast lane calls for `function`: itself, if nothing limits its time."""
    limits = [one for one in pipeline.strategies if one.seconds is not None]
    if not limits:
        return function
    owner = min(limits, key=lambda one: one.seconds or 0.0)
    if is_async:
        return _async_limited(function, pipeline.name, owner, owner.seconds or 0.0)
    return _sync_limited(pipeline, function, owner, owner.seconds or 0.0)


def _async_limited(function: Function, name: str, owner: Any, seconds: float) -> Function:
    begin, enter, leave = owner.cuts.begin, ambient.set, ambient.reset

    async def called(*args: Any, **kwargs: Any) -> Any:
        cut = begin(now() + seconds, seconds, name, owner)
        token = enter(cut)
        try:
            value = await function(*args, **kwargs)
        except asyncio.CancelledError as cancelled:
            if cut.disarm():
                raise cut.overrun() from cancelled
            cut.ended = True
            raise
        except BaseException:
            cut.disarm()
            cut.ended = True
            raise
        finally:
            leave(token)
        cut.disarm()
        cut.ended = True
        return value

    return called


def _sync_limited(pipeline: Pipeline, function: Function, owner: Any, seconds: float) -> Function:
    workers = next(one.workers for one in reversed(pipeline.strategies) if one.workers is not None)

    def called(*args: Any, **kwargs: Any) -> Any:
        limit = Limit(clock.now() + seconds, seconds, pipeline.name, owner)
        late = partial(came_late, args, kwargs) if pipeline.late else None
        step = Invoke(function, args, kwargs, limit, workers, late)
        outcome = clock.current.run_limited(workers, step)
        if outcome.error is not None:
            raise outcome.error
        return outcome.value

    def came_late(args: tuple[Any, ...], kwargs: dict[str, Any], outcome: Outcome) -> None:
        call = Call(pipeline, function, args, kwargs, is_async=False, resumed=outcome)
        pipeline.came_late(call, outcome)

    return called
