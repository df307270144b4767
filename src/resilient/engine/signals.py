"""What happens inside is told here; who listens decides what becomes of it.

Signals are rare (a retry, a state change, a fallback), never one for each successful call.
A listener sees a name and its key-values, never arguments or results of calls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from resilient.engine.isolation import isolated, reporters
from resilient.errors import ResilientError

__all__ = ["Listener", "emit", "subscribe", "unsubscribe"]

Listener = Callable[[str, Mapping[str, Any]], object]

_listeners: tuple[Listener, ...] = ()


def subscribe(listener: Listener) -> None:
    """Call `listener(name, fields)` for each signal from now on."""
    global _listeners
    _listeners = (*_listeners, listener)


def unsubscribe(listener: Listener) -> None:
    """Stop calling `listener`."""
    global _listeners
    _listeners = tuple(one for one in _listeners if one is not listener)


def emit(name: str, **fields: Any) -> None:
    """Tell every listener; one that fails is isolated."""
    for listener in _listeners:
        isolated("signal listener", None, listener, name, fields)


def _report_broken(place: str, error: Exception) -> None:
    # The text of a foreign error may hold anything, secrets included; that of our own does not.
    detail = str(error) if isinstance(error, ResilientError) else None
    emit("resilient.hook_failed", hook=place, error=type(error).__name__, detail=detail)


reporters.append(_report_broken)
