"""Calls that fail or take long, beneath all strategies, so that these have something to do."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from itertools import count
from typing import Any

from resilient.engine import clock, faults, settings
from resilient.engine.callables import is_async_function
from resilient.engine.measures import Measures, all_measures
from resilient.errors import InvalidSetting, InvalidUse, shown

__all__ = ["fail", "pass_through"]


@contextmanager
def fail(
    dependency: str,
    error: BaseException | type[BaseException] | None = None,
    *,
    times: int | None = None,
    after: float = 0.0,
) -> Generator[None]:
    """Let calls of `dependency` fail, or take longer, within a ``with`` block.

    Arguments:
        dependency: Its name: that of the `Dependency`, of the breaker, or else that of the function
            with its module, such as "shop.reviews_of".
        error: What the calls raise; None lets them go on after their delay.
        times: How many of them; None for all.
        after: Seconds that each of them takes first.

    Raises:
        InvalidUse: If nothing is guarded under that name, or a fault is active already.

    Example:
        >>> from resilient import with_fallback, circuit_breaker
        >>> from resilient.testing import fail
        >>> @with_fallback([])
        ... @circuit_breaker("search")
        ... def search(words: str) -> list[str]:
        ...     return [words]
        >>> with fail("search", ConnectionError):
        ...     search("shoes")
        []
        >>> search("shoes")
        ['shoes']
    """
    settings.seconds("after", after)
    if times is not None:
        settings.count("times", times)
    if error is not None and not _is_error(error):
        raise InvalidSetting("error", error, "an exception or an exception class")
    known = [measures for measures in all_measures() if measures.name == dependency]
    if not known or not list(known[0].pipelines):
        names = ", ".join(one.name for one in all_measures()) or "none"
        raise InvalidUse(f"nothing is guarded under {shown(dependency)}; there is: {names}")
    if dependency in faults.active:
        raise InvalidUse(f"there is a fault for {dependency!r} already")
    faults.active[dependency] = _fault(error, times, after)
    _refresh(known)
    try:
        yield
    finally:
        del faults.active[dependency]
        _refresh(known)


def _fault(
    error: BaseException | type[BaseException] | None, times: int | None, after: float
) -> faults.Fault:
    calls = count()

    def is_hit() -> bool:
        return times is None or next(calls) < times

    async def call_async(function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if after:
            await clock.current.sleep_async(after)
        if error is not None:
            raise error
        return await function(*args, **kwargs)

    def call(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        if not is_hit():
            return function(*args, **kwargs)
        if is_async_function(function):
            return call_async(function, args, kwargs)
        if after:
            clock.current.sleep(after)
        if error is not None:
            raise error
        return function(*args, **kwargs)

    return call


def _is_error(error: object) -> bool:
    kind = error if isinstance(error, type) else type(error)
    return issubclass(kind, BaseException)


def _refresh(measured: list[Measures]) -> None:
    for measures in measured:
        for pipeline in measures.pipelines:
            pipeline.refresh()


@contextmanager
def pass_through() -> Generator[None]:
    """Let every guarded call be a plain call within a ``with`` block.

    Example:
        >>> from resilient import with_fallback
        >>> from resilient.testing import pass_through
        >>> @with_fallback("default")
        ... def broken() -> str:
        ...     raise ConnectionError
        >>> broken()
        'default'
        >>> with pass_through():
        ...     broken()
        Traceback (most recent call last):
        ConnectionError
    """
    faults.passing.depth += 1
    _refresh(all_measures())
    try:
        yield
    finally:
        faults.passing.depth -= 1
        _refresh(all_measures())
