"""What a callee says about when to come back: `Retry-After`, wherever libraries put it."""

from __future__ import annotations

import datetime as dt
import math
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any

__all__ = ["asked_to_wait", "parsed"]

#: The attributes that are looked at, and those by which a mapping is told.
_PLACES = frozenset({"retry_after", "response", "headers", "get", "keys"})


def asked_to_wait(error: BaseException) -> float | None:
    """Return the seconds for which `error` asks us to wait, or None if it does not say.

    Looked at, in this order: an attribute `retry_after` of the error, the headers of the error
    and those of its `response`, and the error as a mapping (or its `args[0]`, if that is one).
    """
    first = error.args[0] if error.args else None
    kind: Any = type(error)
    if _is_silent(kind) and _PLACES.isdisjoint(error.__dict__):
        found = None if type(first) is str else _header(first)  # a text, with most errors
        return None if found is None else parsed(found)
    found = getattr(error, "retry_after", None)
    if found is not None:
        return parsed(found)
    response = getattr(error, "response", None)
    for place in (
        getattr(error, "headers", None),
        getattr(response, "headers", None),
        error,
        first,
    ):
        found = _header(place)
        if found is not None:
            return parsed(found)
    return None


@lru_cache  # to look for what is not there takes longer than all else that is done about a retry
def _is_silent(kind: type[BaseException]) -> bool:
    """Whether errors of `kind` have none of these attributes, unless one was given to them."""
    return (
        not any(hasattr(kind, name) for name in (*_PLACES, "__getattr__"))
        and kind.__getattribute__ is BaseException.__getattribute__
    )


def _header(place: Any) -> Any:
    # What can be asked comes first: most errors cannot, and it takes no time to find out.
    if hasattr(place, "get") and (isinstance(place, Mapping) or hasattr(place, "keys")):
        for name in ("Retry-After", "retry-after", "retry_after"):
            found = place.get(name)
            if found is not None:
                return found
    return None


def parsed(value: object) -> float | None:
    """Return the seconds in a `Retry-After`: a number, or a date of HTTP; None if it is neither.

    A date is the one thing here that needs the wall clock, as it is on that of the callee.
    """
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    try:
        if isinstance(value, str):
            value = _of_text(value)
        if isinstance(value, dt.timedelta):
            value = value.total_seconds()
        if isinstance(value, dt.datetime):
            value = value.timestamp() - time.time()
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        seconds = float(value)
    except (ValueError, TypeError, OverflowError, OSError):  # no number, or beyond all floats
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _of_text(text: str) -> float | dt.datetime:
    try:
        return float(text)
    except ValueError:
        return parsedate_to_datetime(text)
