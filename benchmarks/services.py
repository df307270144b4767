"""What is called: functions that do nothing, and functions that fail when they are told to."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType
from typing import Any

from benchmarks.harness import ARGUMENT

__all__ = [
    "Service",
    "answer",
    "answer_async",
    "answer_later",
    "once",
    "renamed",
    "wrapped",
    "wrapped_async",
]

Function = Callable[..., Any]


def answer(key: str) -> str:
    """Do nothing, as fast as a function can."""
    return key


async def answer_async(key: str) -> str:
    """Do nothing, as fast as an asynchronous function can."""
    return key


async def answer_later(key: str) -> str:
    """Let all other tasks have their turn before the answer, so that all are called at once."""
    await asyncio.sleep(0)
    return key


def renamed(function: Function, name: str) -> Function:
    """Return `function` anew: without a breaker, calls are counted under a function's name."""
    assert isinstance(function, FunctionType)
    copy = FunctionType(function.__code__, function.__globals__, name)
    copy.__qualname__ = name
    return copy


def wrapped(function: Function) -> Function:
    """Return `function` in a wrapper that does nothing: the unit of all ratios."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def wrapped_async(function: Function) -> Function:
    """Return the asynchronous `function` in a wrapper that does nothing."""

    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return await function(*args, **kwargs)

    return wrapper


@dataclass(slots=True)
class Service:
    """Answers, or fails while it `is_down`, or every other time if it `is_flaky`.

    It counts how often it has been called.
    """

    is_down: bool = False
    is_flaky: bool = False
    calls: int = 0

    def _serve(self, key: str) -> str:
        self.calls += 1
        if self.is_down or (self.is_flaky and self.calls % 2):
            raise ConnectionError("the service is down")
        return key

    def function(self, *, is_async: bool = False) -> Function:
        """Return a function that calls the service."""

        def serve(key: str) -> str:
            return self._serve(key)

        async def serve_async(key: str) -> str:
            return self._serve(key)

        return serve_async if is_async else serve


def once(call: Function) -> Any:
    """Call once, on a loop of its own if it is asynchronous."""
    result = call(ARGUMENT)
    return asyncio.run(result) if inspect.iscoroutine(result) else result
