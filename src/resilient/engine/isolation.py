"""What a user's hook, store or sink does wrong must never become the result of a call.

A hook that raises is counted, and reported once for each place and kind of error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

from resilient.engine.locks import new_lock

__all__ = ["broken", "isolated", "report_broken", "reporters"]

T = TypeVar("T")
D = TypeVar("D")

#: How often each kind of hook has failed; read by the metrics.
broken: Counter[str] = Counter()
#: Called once with (place, error) for each new way in which a hook fails.
reporters: list[Callable[[str, Exception], object]] = []

_MOST_REPORTED = 1000
_reported: set[tuple[str, type[Exception]]] = set()
_lock = new_lock()


def isolated(place: str, default: D, hook: Callable[..., T], /, *args: Any, **kwargs: Any) -> T | D:
    """Call `hook` and return what it returns, or `default` if it raises."""
    try:
        return hook(*args, **kwargs)
    except Exception as error:
        report_broken(place, error)
        return default


def report_broken(place: str, error: Exception) -> None:
    """Count a failure of the hook at `place`, and report it if it is the first of its kind."""
    kind = (place, type(error))
    with _lock:
        broken[place] += 1
        if kind in _reported or len(_reported) >= _MOST_REPORTED:
            return
        _reported.add(kind)
    for report in reporters:
        try:
            report(place, error)
        except Exception:
            continue
