"""What a user's hook, store or sink does wrong must never become the result of a call.

A hook that raises is counted, and reported once for each place and kind of error.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

from resilient.engine.locks import new_lock
from resilient.errors import ResilientError

__all__ = ["broken", "ended_by", "isolated", "nobody_waits_for", "report_broken", "reporters"]

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


def nobody_waits_for(interruption: BaseException) -> bool:
    """Whether what is no `Exception` has come to a thread where it interrupts nobody.

    A check, a store or a queued call may raise a cancellation of its own, or an exit. On a thread
    of the library that says no more than any error; Ctrl-C on the main thread is somebody's.
    """
    is_main = threading.current_thread() is threading.main_thread()
    return not (is_main and isinstance(interruption, KeyboardInterrupt))


def ended_by(place: str, interruption: BaseException) -> ResilientError:
    """Return the error that stands for what is no `Exception`, where that interrupts nobody."""
    error = ResilientError(f"{place}: ended by {type(interruption).__name__}")
    error.__cause__ = interruption
    return error


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
