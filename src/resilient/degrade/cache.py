"""What can be done by hand to the answers that a function has in its caches."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Generic, ParamSpec, final

from resilient.degrade.cached import Cached
from resilient.degrade.degradations import degradation_scope
from resilient.degrade.fallback import Fallback
from resilient.engine import settings
from resilient.engine.callables import is_async_function, plain_name
from resilient.engine.guard import pipeline_of
from resilient.errors import InvalidUse

__all__ = ["Cache", "cache_of"]

P = ParamSpec("P")

#: The arguments of one call: by position, or by name.
Arguments = tuple[Any, ...] | Mapping[str, Any]


@final
class Cache(Generic[P]):
    """The caches of one function; see `cache_of`."""

    def __init__(self, function: Callable[P, Any], tiers: tuple[Cached, ...]) -> None:
        self._function = function
        self._tiers = tiers
        owner = getattr(function, "__self__", None)
        self._before: tuple[Any, ...] = () if owner is None else (owner,)

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Forget the answer for a call with these arguments.

        This process serves it no more from now on. From a store outside of the process it is
        deleted behind the call, and as soon as the store is well; a call that has begun before
        may still store what it has read.

        Raises:
            InvalidUse: If such a call has no stable key.
        """
        for tier in self._tiers:
            key = tier.key_of((*self._before, *args), kwargs)
            if key is None:
                raise InvalidUse(
                    f"{plain_name(self._function)}: a call with these arguments has no stable key"
                )
            tier.negatives.forget(key)
            tier.shelf.delete(key)

    def warm(self, calls: Iterable[Arguments], *, at_once: int = 4) -> int | Awaitable[int]:
        """Make calls, so that their answers are there when they are needed.

        Arguments:
            calls: The arguments of each, as a tuple or as a mapping of names.
            at_once: How many are made at once, of an asynchronous function; 1 or more.

        Returns:
            How many were answered, and not by a fallback; of an asynchronous function, to await.

        Raises:
            InvalidSetting: If `at_once` is outside of its range.
        """
        permits = settings.count("at_once", at_once)
        if is_async_function(self._function):
            return self._warm_async(list(calls), permits)
        return sum(self._call(one) for one in calls)

    def _call(self, arguments: Arguments) -> bool:
        args, kwargs = _split(arguments)
        with degradation_scope() as degraded:
            try:
                self._function(*args, **kwargs)
            except Exception:
                return False  # counted, logged and measured where it failed
        return not degraded

    async def _warm_async(self, calls: list[Arguments], at_once: int) -> int:
        permits = asyncio.Semaphore(at_once)

        async def call(arguments: Arguments) -> bool:
            args, kwargs = _split(arguments)
            async with permits:
                with degradation_scope() as degraded:
                    try:
                        await self._function(*args, **kwargs)
                    except Exception:
                        return False
                return not degraded

        return sum(await asyncio.gather(*map(call, calls)))


def _split(arguments: Arguments) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    if isinstance(arguments, tuple):
        return arguments, {}
    if isinstance(arguments, Mapping):
        return (), arguments
    raise InvalidUse("warm: each call is a tuple of arguments, such as (user_id,), or a mapping")


def cache_of(function: Callable[P, Any]) -> Cache[P]:
    """Return what there is to do by hand to the caches of `function`.

    Raises:
        InvalidUse: If it is not guarded, or has no `cached(...)` among its tiers.

    Example:
        >>> from resilient import cache_of, cached, with_fallback
        >>> prices = {"book": 12}
        >>> @with_fallback(cached(ttl=3600, fresh_for=60, key="price:{item}"))
        ... def price(item: str) -> int:
        ...     return prices[item]
        >>> price("book")
        12
        >>> prices["book"] = 10
        >>> cache_of(price).invalidate("book")
        >>> price("book")
        10
    """
    tiers = tuple(
        tier
        for strategy in pipeline_of(function).strategies
        if isinstance(strategy, Fallback)
        for tier in strategy.tiers
        if isinstance(tier, Cached)
    )
    if not tiers:
        raise InvalidUse(f"{plain_name(function)} has no cached(...) among its tiers")
    return Cache(function, tiers)
