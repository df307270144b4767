"""The first attempt of a time-limited function, as the fast lane makes it.

Whatever number of time limits a pipeline has, the tightest of them is the one that matters while
all strategies are at rest: one timer or one worker for all.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from operator import attrgetter
from typing import Any, Protocol

from resilient.engine import clock
from resilient.engine.call import Call
from resilient.engine.limits import Limit
from resilient.engine.outcome import Outcome
from resilient.engine.pipeline import Pipeline
from resilient.engine.steps import Invoke
from resilient.engine.timers import Cuts

__all__ = ["on_worker", "tightest"]

Function = Callable[..., Any]


class _Limiting(Protocol):
    seconds: float
    cuts: Cuts


def tightest(pipeline: Pipeline) -> _Limiting | None:
    """Return the tightest of the time limits of `pipeline`, if it has any."""
    limits: list[Any] = [one for one in pipeline.strategies if one.seconds is not None]
    return min(limits, key=attrgetter("seconds"), default=None)


def on_worker(pipeline: Pipeline, function: Function) -> Function:
    """Return what the synchronous lane calls for `function`: itself, if nothing limits its time."""
    owner = tightest(pipeline)
    if owner is None:
        return function
    seconds, name = owner.seconds, pipeline.name
    workers = next(one.workers for one in reversed(pipeline.strategies) if one.workers is not None)

    def called(*args: Any, **kwargs: Any) -> Any:
        limit = Limit(clock.now() + seconds, seconds, name, owner)  # the only one on the fast lane
        late = partial(came_late, args, kwargs) if pipeline.late else None
        step = Invoke(function, args, kwargs, limit, workers, late)
        outcome = clock.current.run_limited(workers, step)
        if outcome.error is not None:
            return outcome.result()
        return outcome.value

    def came_late(args: tuple[Any, ...], kwargs: dict[str, Any], outcome: Outcome) -> None:
        call = Call(pipeline, function, args, kwargs, is_async=False, resumed=outcome)
        pipeline.came_late(call, outcome)

    return called
