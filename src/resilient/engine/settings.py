"""Checks of settings, made where a strategy is created: wrong ones never wait for the outage."""

from __future__ import annotations

import inspect
import math
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from resilient.engine.callables import is_async_function
from resilient.errors import InvalidSetting

__all__ = [
    "can_be_called",
    "count",
    "error_types",
    "flag",
    "fraction",
    "function",
    "having",
    "items",
    "period",
    "plain_function",
    "seconds",
    "text",
    "word",
]

T = TypeVar("T")


def _number(parameter: str, value: object, expected: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value):
        raise InvalidSetting(parameter, value, expected)
    if type(value) in (int, float):
        return value
    # The number alone: that of an enumeration, for one, is written by the name of its member.
    return int(value) if isinstance(value, int) else float(value)


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # a whole number beyond all floats
        return False


def seconds(parameter: str, value: object, *, above_zero: bool = False) -> float:
    """Return `value` if it is a finite number of seconds, at least 0 or, if asked for, above 0."""
    expected = f"a finite number of seconds, {'above 0' if above_zero else '0 or more'}"
    number = _number(parameter, value, expected)
    if number < 0 or (above_zero and number == 0):
        raise InvalidSetting(parameter, value, expected)
    return number


def count(parameter: str, value: object, *, least: int = 1, most: int = sys.maxsize) -> int:
    """Return `value` if it is a whole number from `least` to `most`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidSetting(parameter, value, f"a whole number, {least} or more")
    if value > most:
        raise InvalidSetting(parameter, value, f"a whole number, {least} to {most:,}")
    return int(value)


def fraction(parameter: str, value: object) -> float:
    """Return `value` if it is above 0 and at most 1."""
    expected = "a number above 0 and at most 1"
    number = _number(parameter, value, expected)
    if not 0 < number <= 1:
        raise InvalidSetting(parameter, value, expected)
    return number


def text(parameter: str, value: object) -> str:
    """Return `value` if it is a string with something in it, which can be written down."""
    if not isinstance(value, str) or not value.strip():
        raise InvalidSetting(parameter, value, "a string that is not empty")
    try:
        value.encode()
    except UnicodeEncodeError:  # as a label it would break the page with all metrics
        raise InvalidSetting(parameter, value, "a string that UTF-8 can encode") from None
    return str.__str__(value)  # the text alone, as above


def word(parameter: str, value: object, *words: str) -> str:
    """Return `value` if it is one of `words`."""
    if not isinstance(value, str) or value not in words:
        raise InvalidSetting(parameter, value, " or ".join(f'"{one}"' for one in words))
    return value


def flag(parameter: str, value: object) -> bool:
    """Return `value` if it is True or False: the text "false" of an environment is neither."""
    if not isinstance(value, bool):
        raise InvalidSetting(parameter, value, "True or False")
    return value


_PERIOD = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def period(parameter: str, value: str) -> float:
    """Return the seconds in a text such as "500ms", "10s", "5m" or "1h"."""
    match = _PERIOD.fullmatch(value.strip())
    if match is None or float(match[1]) == 0:
        raise InvalidSetting(parameter, value, 'a length of time such as "500ms", "10s" or "5m"')
    return float(match[1]) * _UNITS[match[2]]


def items(parameter: str, value: object, expected: str) -> tuple[Any, ...]:
    """Return what is in `value`, if it can be gone through and is no text."""
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        try:
            return tuple(value)
        except Exception:  # of somebody's own kind, which raises whatever it likes
            raise InvalidSetting(parameter, value, expected) from None
    raise InvalidSetting(parameter, value, expected)


def error_types(parameter: str, value: object) -> tuple[type[BaseException], ...]:
    """Return `value`, an exception class or an iterable of them, as a tuple."""
    expected = "an exception class or several of them"
    types = (value,) if isinstance(value, type) else items(parameter, value, expected)
    if types and all(isinstance(one, type) and issubclass(one, BaseException) for one in types):
        return types
    raise InvalidSetting(parameter, value, expected)


def having(parameter: str, value: T, methods: Iterable[str], expected: str) -> T:
    """Return `value` if it has all of these methods."""
    try:
        if all(callable(getattr(value, method, None)) for method in methods):
            return value
    except Exception:  # it raises when somebody looks into it
        raise InvalidSetting(parameter, value, expected) from None
    raise InvalidSetting(parameter, value, expected)


def function(
    parameter: str, value: object, *, takes: Sequence[str] | None = None
) -> Callable[..., Any]:
    """Return `value` if it can be called, with as many arguments as `takes` has descriptions."""
    if not callable(value):
        raise InvalidSetting(parameter, value, "something that can be called")
    if takes is not None and not can_be_called(value, *takes):
        described = " and ".join(takes) or "no argument"
        raise InvalidSetting(parameter, value, f"a function that takes {described}")
    return value


def plain_function(
    parameter: str, value: object, *, takes: Sequence[str] | None = None
) -> Callable[..., Any]:
    """Return `value` if it can be called, with what it `takes`, and answers at once."""
    called = function(parameter, value, takes=takes)
    if is_async_function(called):
        expected = "a plain function: nobody awaits what an asynchronous one answers"
        raise InvalidSetting(parameter, value, expected)
    return called


def can_be_called(function: Callable[..., Any], *args: object) -> bool:
    """Whether `function` takes such arguments, as far as one can tell without calling it."""
    try:
        signature = inspect.signature(function)
    except Exception:  # one written in C may not tell, one of the user's may do anything
        return True
    try:
        signature.bind(*args)
    except TypeError:
        return False
    return True
