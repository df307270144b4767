"""What happens inside is told here; who listens decides what becomes of it.

Signals are rare (a retry, a state change, a fallback), never one for each successful call.
A listener sees a name and its key-values, never arguments or results of calls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from resilient.engine.isolation import isolated, report_broken, reporters
from resilient.errors import ResilientError

__all__ = ["Listener", "begin_with", "emit", "replace", "subscribe", "unsubscribe"]

Listener = Callable[[str, Mapping[str, Any]], object]

_listeners: tuple[Listener, ...] = ()


def subscribe(listener: Listener) -> None:
    """Call `listener(name, fields)` for each event of the library from now on.

    Every single one, also those that the log sums up. It is called where the event happens, so it
    must be fast and must not block; what it raises is counted and logged once.

    Arguments:
        listener: A function of the event's name and its key-values, as listed under "Events".

    Raises:
        InvalidSetting: If it cannot be called, or is asynchronous.

    Example:
        >>> from resilient import subscribe, unsubscribe, with_fallback
        >>> def count(name, fields):
        ...     print(name, fields["tier"], fields["reason"])
        >>> @with_fallback("nobody")
        ... def user_name() -> str:
        ...     raise ConnectionError("user service is down")
        >>> subscribe(count)
        >>> user_name()
        resilient.fallback_served default ConnectionError
        'nobody'
        >>> unsubscribe(count)
    """
    global _listeners
    from resilient.engine import settings
    from resilient.engine.locks import subscribing

    settings.plain_function("listener", listener, takes=["the name of an event", "its fields"])
    with subscribing:
        _listeners = (*_listeners, listener)


def unsubscribe(listener: Listener) -> None:
    """Stop calling `listener`, which `subscribe` was given.

    It is told by equality: a method of an object is another one each time that it is asked for.

    Arguments:
        listener: What `subscribe` was given, or what equals it.

    Example:
        >>> from resilient import unsubscribe
        >>> unsubscribe(print)  # harmless where there is nothing to stop
    """
    global _listeners
    from resilient.engine.locks import subscribing

    # Comparing is code of theirs, which may raise or come back here.
    unwanted = [one for one in _listeners if isolated("listener", False, _equal, one, listener)]
    with subscribing:
        _listeners = tuple(one for one in _listeners if not any(one is two for two in unwanted))


def _equal(one: object, another: object) -> bool:
    return one is another or bool(one == another)


def begin_with(listener: Listener) -> None:
    """Call `listener` first; for the library's own import, which is not to load locks for it."""
    global _listeners
    _listeners = (listener, *_listeners)


def replace(listener: Listener, other: Listener) -> None:
    """Call `other` from now on where `listener` was called."""
    global _listeners
    from resilient.engine.locks import subscribing

    with subscribing:
        _listeners = tuple(other if one is listener else one for one in _listeners)


def emit(name: str, **fields: Any) -> None:
    """Tell every listener; one that fails is isolated."""
    for listener in _listeners:
        try:
            listener(name, fields)
        except Exception as error:
            report_broken("signal listener", error)


def _report_broken(place: str, error: Exception) -> None:
    # The text of a foreign error may hold anything, secrets included; that of our own does not.
    detail = str(error) if isinstance(error, ResilientError) else None
    emit("resilient.hook_failed", hook=place, error=type(error).__name__, detail=detail)


reporters.append(_report_broken)
