"""A function and its pipeline made one.

A strategy that decorates a function which is guarded already extends its pipeline: there is one
wrapper, one frame in a traceback and one set of settings, however many decorators are stacked.
"""

from __future__ import annotations

import functools
import gc
import inspect
import weakref
from collections.abc import Callable
from types import FunctionType
from typing import Any, NamedTuple, ParamSpec, TypeVar, cast

from resilient.engine import faults
from resilient.engine.callables import code_of, is_async_function, makes_a_block, plain_name
from resilient.engine.lanes import async_lane, sync_lane
from resilient.engine.pipeline import Pipeline
from resilient.engine.strategy import Strategy, Target
from resilient.engine.streams import async_stream, sync_stream
from resilient.errors import InvalidUse

__all__ = ["guard", "guarded_functions", "pipeline_of"]

P = ParamSpec("P")
R = TypeVar("R")

Function = Callable[..., Any]


class _Guarded(NamedTuple):
    """What is known of a wrapper that this module has made."""

    wrapper: weakref.ref[Function]
    function: Function
    #: The pipeline as it was given, before it was attached to this function.
    given: tuple[Strategy, ...]
    named: str | None
    pipeline: Pipeline


# An attribute of the wrapper, so that the two go together: in a table by wrapper, an object that
# keeps its own guarded method would never go. functools.wraps copies it to the wrapper of another
# decorator, which must not be taken for ours and skipped; hence the reference to the right one.
_ATTRIBUTE = "_resilient"


def guard(
    function: Callable[P, R],
    *strategies: Strategy,
    name: str | None = None,
    is_failure: Callable[[Exception], bool] | None = None,
) -> Callable[P, R]:
    """Return `function` guarded by `strategies`, outermost first.

    Arguments:
        function: Any callable: plain or asynchronous, a generator function of either kind, a
            bound method, a partial, a callable object, a classmethod or staticmethod.
        strategies: What guards it, around whatever guards it already.
        name: The dependency that it belongs to; else the breaker's name, else its own.
        is_failure: Whether an error speaks against the dependency; else every error does.

    Raises:
        InvalidUse: If it cannot be guarded, or not by one of the strategies.
    """
    if isinstance(function, classmethod | staticmethod):
        inner = guard(function.__func__, *strategies, name=name, is_failure=is_failure)
        return cast("Callable[P, R]", type(function)(inner))
    known = _known(function)
    if known is not None:
        strategies = (*strategies, *known.given)
        name = name or known.named
        is_failure = is_failure or known.pipeline.judge
        function = known.function
    _refuse_what_cannot_be_guarded(function)
    is_async = is_async_function(function)
    is_stream = inspect.isgeneratorfunction(code_of(function))
    is_async_stream = inspect.isasyncgenfunction(code_of(function))
    target = Target(
        function,
        plain_name(function),
        is_async=is_async or is_async_stream,
        is_stream=is_stream or is_async_stream,
    )
    attached = [strategy.attach(target) for strategy in strategies]
    named = name or next((one.label for one in attached if one.label is not None), None)
    pipeline = Pipeline(*attached, name=named or target.name, is_failure=is_failure)
    if faults.disabled():
        wrapper = _plain(function, is_async=is_async)
    elif is_stream:
        wrapper = sync_stream(pipeline, function)
    elif is_async_stream:
        wrapper = async_stream(pipeline, function)
    else:
        wrapper = (async_lane if is_async else sync_lane)(pipeline, function)
    # Those of the wrapper itself say nothing, and would stay where `function` has none.
    wrapper.__annotations__ = {}
    functools.update_wrapper(wrapper, function)
    known = _Guarded(weakref.ref(wrapper), function, strategies, name, pipeline)
    setattr(wrapper, _ATTRIBUTE, known)
    return cast("Callable[P, R]", wrapper)


def _refuse_what_cannot_be_guarded(function: Any) -> None:
    if not callable(function):
        raise InvalidUse(
            f"{type(function).__name__!r} objects cannot be called, and so cannot be guarded; a "
            "decorator needs its parentheses: `@retry(on=...)`, and not `@retry`"
        )
    if inspect.isclass(function):
        raise InvalidUse(
            f"{function.__qualname__} is a class; guard a function that creates its instances"
        )
    if makes_a_block(function):
        raise InvalidUse(
            f"{plain_name(function)} makes a context manager, which has done nothing yet when it "
            "is returned: guard it beneath @contextmanager, or use `with` a guard within it"
        )


def _plain(function: Function, *, is_async: bool) -> Function:
    if is_async:

        async def unguarded_async(*args: Any, **kwargs: Any) -> Any:
            return await function(*args, **kwargs)

        return unguarded_async

    def unguarded(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return unguarded


def pipeline_of(function: Callable[..., Any]) -> Pipeline:
    """Return what guards `function`, in order, outermost first; also beneath other decorators.

    Raises:
        InvalidUse: If nothing does.

    Example:
        >>> from resilient import pipeline_of, retry, timeout
        >>> @retry(on=ConnectionError)
        ... @timeout(2)
        ... def fetch(): ...
        >>> [type(strategy).__name__ for strategy in pipeline_of(fetch).strategies]
        ['Retry', 'Timeout']
    """
    inner: Any = getattr(function, "__func__", function)
    while (known := _known(inner)) is None and hasattr(inner, "__wrapped__"):
        inner = inner.__wrapped__
    if known is None:
        raise InvalidUse(f"{plain_name(function)} is not guarded")
    return known.pipeline


def guarded_functions() -> list[Function]:
    """Return every guarded function that is alive, in no order.

    It asks the garbage collector, which takes its time: a register would cost every decorated
    function memory for the sake of a command that most processes never run.
    """
    return [found for found in gc.get_objects() if _known(found) is not None]


def _known(function: object) -> _Guarded | None:
    if not isinstance(function, FunctionType):
        return None
    known: _Guarded | None = getattr(function, _ATTRIBUTE, None)
    return known if known is not None and known.wrapper() is function else None
