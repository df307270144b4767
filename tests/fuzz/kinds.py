"""Anything that somebody may give, and what each kind of setting takes of it."""

from __future__ import annotations

import decimal
import enum
import fractions
import math
import string
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st


class Spiteful:
    """Raises whatever is asked of it."""

    def __repr__(self) -> str:
        raise RuntimeError("no text for you")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("nor a comparison")

    def __bool__(self) -> bool:
        raise RuntimeError("nor an answer")

    __hash__ = None  # type: ignore[assignment]


class Unwilling:
    """Raises when somebody looks into it."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"no {name} for you")

    def __iter__(self) -> Any:
        raise RuntimeError("nothing to count")


class Given:
    """A value for a setting, which Hypothesis can show whatever it is."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        try:
            return f"Given({self.value!r})"
        except Exception:
            return f"Given(a {type(self.value).__name__})"


class Colour(enum.IntEnum):
    RED = 2


async def asynchronous() -> None:
    return None


def of_three(_first: object, _second: object, _third: object) -> bool:
    return True


#: The usual mistakes, and the unusual ones.
MISTAKES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    0.0,
    10**400,
    -(10**400),
    10**5000,  # which has more digits than Python makes a text of
    math.nan,
    math.inf,
    5e-324,
    1e308,
    1j,
    decimal.Decimal(1),
    decimal.Decimal("NaN"),
    fractions.Fraction(1, 2),
    Colour.RED,
    "",
    " ",
    "10s",
    "1ms",
    "name",
    "{name}",
    "\0",
    "\ud800",
    "x" * 1000,
    b"bytes",
    [],
    {},
    (),
    [1],
    [None],
    [ValueError],
    (ValueError, 3),
    int,
    Exception,
    BaseException,
    ValueError("an error, not a type"),
    len,
    asynchronous,
    of_three,
    lambda *args: True,
    object(),
    Spiteful(),
    [Spiteful()],
    Unwilling(),
    ...,
    NotImplemented,
    Path("somewhere"),
)

#: Values of every plain kind.
ANYTHING: st.SearchStrategy[Given] = st.one_of(
    st.integers(),
    st.integers(min_value=10**9),
    st.floats(),
    st.text(max_size=8),
    st.binary(max_size=4),
    st.builds(complex, st.floats(), st.floats()),
).map(Given)


# What each kind of setting takes


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # more than a float holds
        return False


def seconds(value: Any) -> bool:
    return _is_number(value) and value >= 0


def above_zero(value: Any) -> bool:
    return _is_number(value) and value > 0


def fraction(value: Any) -> bool:
    return _is_number(value) and 0 < value <= 1


def count(value: Any) -> bool:
    return count_or_zero(value) and value >= 1


def few(value: Any) -> bool:
    return count(value) and value <= 10_000


def is_string(value: Any) -> bool:
    return isinstance(value, str)


def places(value: Any) -> bool:
    return count(value) and value <= 1_000_000


def whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= sys.maxsize


def count_or_zero(value: Any) -> bool:
    return whole(value) and value >= 0


def text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and "\ud800" not in value


def function(value: Any) -> bool:
    return callable(value)


def takes(value: Any, number: int) -> bool:
    """Whether a mistake can be called with so many arguments; most of them can with any number."""
    known: tuple[tuple[Any, int], ...] = ((len, 1), (asynchronous, 0), (of_three, 3))
    return callable(value) and all(value is not one or number == its for one, its in known)


def probe(value: Any) -> bool:
    return takes(value, 0)


def listener(value: Any) -> bool:
    return takes(value, 2)


def plain_function(value: Any) -> bool:
    """A predicate on an error or a value, or a hook that is told of the state of a call."""
    return takes(value, 1)


def none(value: Any) -> bool:
    return value is None


def flag(value: Any) -> bool:
    return isinstance(value, bool)


def nothing(value: Any) -> bool:
    return False


def is_copyable(value: Any) -> bool:
    return not isinstance(value, Unwilling)


def is_host(value: Any) -> bool:
    if not text(value) or "\0" in value:
        return False
    try:
        return value.isascii() or bool(value.encode("idna"))
    except UnicodeError:
        return False


def port(value: Any) -> bool:
    return type(value) is int and 0 <= value <= 65535


def errors(value: Any) -> bool:
    """Types of errors, or a predicate on them."""
    if callable(value) and not isinstance(value, type):
        return plain_function(value)
    types = (value,) if isinstance(value, type) else value
    if not isinstance(types, list | tuple) or not types:
        return False
    return all(isinstance(one, type) and issubclass(one, BaseException) for one in types)


def has_none(value: Any) -> bool:
    """A list of nothing; those of something have rows of their own."""
    return isinstance(value, list | tuple | dict) and not value


def exclusions(value: Any) -> bool:
    if value is None or has_none(value):
        return True
    return isinstance(value, list | tuple) and all(map(is_exclusion, value))


def is_type(value: Any) -> bool:
    return value is None or isinstance(value, type)


def is_template(value: Any) -> bool:
    return value is None or isinstance(value, str) or callable(value)


def is_header(value: Any) -> bool:
    tchar = "!#$%&'*+-.^_`|~" + string.ascii_letters + string.digits
    return value is None or (text(value) and all(one in tchar for one in value))


def is_path(value: Any) -> bool:
    return isinstance(value, Path)


def is_exclusion(value: Any) -> bool:
    return issubclass(value, BaseException) if isinstance(value, type) else plain_function(value)


def optional(accepts: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or accepts(value)
