"""What kinds of callables there are, and what they are called."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any

__all__ = ["code_of", "is_async_function", "plain_name"]


def plain_name(function: Callable[..., Any]) -> str:
    """Return the name under which the calls of `function` are counted: its module and its own."""
    inner = code_of(function)
    kind = type(inner)  # speaks for callables written in C, which may have neither
    module = getattr(inner, "__module__", None) or kind.__module__
    return f"{module}.{getattr(inner, '__qualname__', kind.__qualname__)}"


def code_of(function: Any) -> Any:
    """Return the function that does the work, beneath partials, methods and callable objects."""
    while isinstance(function, functools.partial):
        function = function.func
    if not isinstance(function, FunctionType | MethodType) and not inspect.isbuiltin(function):
        function = type(function).__call__
    return getattr(function, "__func__", function)


def is_async_function(function: Callable[..., Any]) -> bool:
    """Return whether calling `function` gives a coroutine, as far as can be seen from outside."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(code_of(function))
