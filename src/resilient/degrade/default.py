"""A tier of the user's own: a plain value, or a function."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, overload

from resilient.degrade.tier import Answer, Tier, checked
from resilient.engine import clock
from resilient.engine.outcome import Outcome
from resilient.engine.steps import Steps
from resilient.errors import InvalidUse

if TYPE_CHECKING:
    from resilient.engine.call import Call
    from resilient.engine.strategy import Target

__all__ = ["Default", "default"]

D = TypeVar("D")


class Default(Tier[D]):
    """Serves a value, copied for each caller, or what a function returns."""

    name = "default"

    def __init__(self, value: Any, limit: float | None = None) -> None:
        super().__init__(limit)
        self.value = value
        self._takes_call = False
        if not callable(value):
            try:
                self.is_constant = copy.deepcopy(value) is value
            except Exception as error:
                raise InvalidUse(
                    f"default({type(value).__qualname__}): the value cannot be copied for each "
                    f"caller ({type(error).__name__}); give a function that makes one"
                ) from None

    def __repr__(self) -> str:
        return f"default({getattr(self.value, '__qualname__', type(self.value).__name__)})"

    def attach(self, target: Target) -> Tier[D]:
        """Find out whether a function wants the arguments of the call."""
        tier = super().attach(target)
        if not callable(self.value):
            return tier
        tier = copy.copy(tier)
        assert isinstance(tier, Default)
        tier._takes_call = _needs_arguments(self.value)
        if tier._takes_call and inspect.isclass(self.value):
            raise InvalidUse(
                f"default({self.value.__qualname__}): the class needs arguments; give a function "
                "that makes an instance, so that none of the call's arguments gets in by accident"
            )
        checked(self.value, target, "default", takes_call=tier._takes_call)
        return tier

    @property
    def plain(self) -> tuple[Any, Callable[[], Any] | None] | None:
        """The value, if it cannot be changed or is copied by one of Python's own functions."""
        value = self.value
        if callable(value):
            return None
        if self.is_constant:
            return value, None
        if type(value) in (list, set) and all(copy.deepcopy(one) is one for one in value):
            return None, value.copy
        if value == {} and type(value) is dict:
            return None, dict
        return None

    def answer(self, call: Call, failed: Outcome) -> Steps[Answer]:
        """Copy the value, or call the function."""
        if not callable(self.value):
            now = clock.now()
            return Answer(Outcome(copy.deepcopy(self.value), None, now, now))
        args, kwargs = (call.args, call.kwargs) if self._takes_call else ((), {})
        return Answer((yield from self.invoke(call, self.value, args, kwargs)))


def _needs_arguments(function: Callable[..., Any]) -> bool:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return False
    kinds = inspect.Parameter
    return any(
        one.default is kinds.empty and one.kind not in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD)
        for one in signature.parameters.values()
    )


@overload
def default(value: Callable[..., D], *, timeout: float | None = None) -> Default[D]: ...
@overload
def default(value: D, *, timeout: float | None = None) -> Default[D]: ...
def default(value: Any, *, timeout: float | None = None) -> Default[Any]:
    """Return a tier that serves `value`.

    Arguments:
        value: A plain value, of which each caller gets a copy of its own, or a function or class.
            A function that needs arguments is given those of the call; others are given none.
        timeout: The most seconds for the function; None for no limit of its own.

    Raises:
        InvalidUse: If the value cannot be copied, or the function does not fit the call.

    Example:
        >>> from resilient import default, with_fallback
        >>> @with_fallback(default([]))
        ... def news() -> list[str]:
        ...     raise ConnectionError
        >>> news()
        []
    """
    return Default(value, timeout)
