"""What kinds of callables there are, and what they are called."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from contextlib import asynccontextmanager, contextmanager
from types import FrameType, FunctionType, MethodType
from typing import Any

__all__ = [
    "calling_place",
    "code_of",
    "is_async_function",
    "makes_a_block",
    "outer_frame",
    "plain_name",
]


def outer_frame() -> FrameType:
    """Return the innermost frame that is not of this library."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        name = frame.f_globals.get("__name__", "")
        if name != "resilient" and not name.startswith("resilient."):
            break
        frame = frame.f_back
    return frame


def calling_place() -> str:
    """Return the module and function from which the library is used, for what has no name."""
    frame = outer_frame()
    return f"{frame.f_globals.get('__name__', '')}.{frame.f_code.co_qualname}"


def plain_name(function: Callable[..., Any]) -> str:
    """Return the name under which the calls of `function` are counted: its module and its own."""
    while isinstance(function, functools.partial):
        function = function.func
    # What `functools.lru_cache` makes has a name of its own, although it is no function.
    has_name = isinstance(getattr(function, "__qualname__", None), str)
    inner: Any = function if has_name else code_of(function)
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


#: What these decorators make is told by its code, which is the same for all.
_BLOCKS = (contextmanager(plain_name).__code__, asynccontextmanager(plain_name).__code__)  # type: ignore[arg-type]


def makes_a_block(function: Callable[..., Any]) -> bool:
    """Return whether `function` returns a context manager, which does its work when it is used."""
    return getattr(code_of(function), "__code__", None) in _BLOCKS
