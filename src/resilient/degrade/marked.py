"""An answer together with what is degraded in it, for those who want that in the type."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec, TypeVar, overload

from resilient.degrade.degradations import Degradation, degradation_scope
from resilient.engine import settings
from resilient.engine.callables import code_of, is_async_function, plain_name
from resilient.errors import InvalidUse

__all__ = ["Marked", "marked"]

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Marked(Generic[T_co]):
    """An answer, and whether it is the real one.

    Attributes:
        value: The answer.
        degradations: What was served instead of real answers on the way to it.
    """

    value: T_co
    degradations: tuple[Degradation, ...] = ()

    @property
    def is_degraded(self) -> bool:
        """Whether anything in it is not the real answer."""
        return bool(self.degradations)

    @property
    def age(self) -> float | None:
        """The seconds of the oldest stale part, or None if no age is known."""
        return max((one.age for one in self.degradations if one.age is not None), default=None)


@overload
def marked(  # type: ignore[overload-overlap] # pyright: ignore[reportOverlappingOverload]
    function: Callable[P, Coroutine[Any, Any, T]],
) -> Callable[P, Coroutine[Any, Any, Marked[T]]]: ...
@overload
def marked(function: Callable[P, T]) -> Callable[P, Marked[T]]: ...
def marked(function: Callable[P, Any]) -> Callable[P, Any]:
    """Return `function`, of which each answer says what is degraded in it.

    The outermost decorator, or around a call: `marked(recommendations_for)("u1")`. A
    `degradation_scope` around it is told as well.

    Arguments:
        function: What is called, plain or asynchronous.

    Raises:
        InvalidSetting: If it cannot be called.
        InvalidUse: If it is a generator, whose answer goes on after it has been returned.

    Example:
        >>> from resilient import marked, with_fallback
        >>> @marked
        ... @with_fallback("nobody")
        ... def user_name() -> str:
        ...     raise ConnectionError("user service is down")
        >>> answer = user_name()
        >>> answer.value, answer.is_degraded, answer.degradations[0].reason
        ('nobody', True, 'ConnectionError')

    Where the rule comes from: a stale answer says so, as `Age` and `Warning` did in HTTP caching
    (RFC 7234).
    """
    settings.function("function", function)
    code = code_of(function)
    if inspect.isgeneratorfunction(code) or inspect.isasyncgenfunction(code):
        raise InvalidUse(
            f"{plain_name(function)} is a generator, whose answer goes on after it has been "
            "returned: use degradation_scope() around the loop"
        )
    if is_async_function(function):

        @functools.wraps(function)
        async def answer_async(*args: P.args, **kwargs: P.kwargs) -> Marked[Any]:
            with degradation_scope() as degraded:
                value = await function(*args, **kwargs)
            return Marked(value, tuple(degraded))

        return answer_async

    @functools.wraps(function)
    def answer(*args: P.args, **kwargs: P.kwargs) -> Marked[Any]:
        with degradation_scope() as degraded:
            value = function(*args, **kwargs)
        return Marked(value, tuple(degraded))

    return answer
