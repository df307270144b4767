"""pybreaker's listeners, which are told of calls and of changes, and can do no harm."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, final

import pybreaker

from resilient.engine import settings
from resilient.engine.call import Call
from resilient.engine.isolation import isolated
from resilient.errors import InvalidSetting

if TYPE_CHECKING:
    from resilient.strategies.breaker.interface import CircuitInterface

__all__ = ["Listeners"]


@final
class Listeners:
    """The listeners of one breaker, told in the order in which they were added."""

    __slots__ = ("_lock", "all")

    def __init__(
        self,
        listeners: Sequence[pybreaker.CircuitBreakerListener] | None,
        lock: AbstractContextManager[Any],
    ) -> None:
        self._lock = lock
        given = () if listeners is None else listeners
        expected = "a list of pybreaker.CircuitBreakerListeners"
        found = settings.items("listeners", given, expected)
        self.all: tuple[Any, ...] = tuple(map(_checked, found))

    def add(self, listener: Any) -> None:
        """Tell `listener` as well from now on."""
        checked = _checked(listener)
        with self._lock:
            self.all = (*self.all, checked)

    def remove(self, listener: Any) -> None:
        """Tell `listener` no more."""
        with self._lock:
            self.all = tuple(one for one in self.all if one is not listener)

    @property
    def hear_calls(self) -> bool:
        """Whether any of them has more to do at a success than nothing."""
        return any(map(_hears_calls, self.all))

    def begun(self, breaker: CircuitInterface, call: Call) -> None:
        """Tell of a call that is about to be made."""
        for listener in self.all:
            isolated(
                "breaker listener",
                None,
                listener.before_call,
                breaker,
                call.function,
                *call.args,
                **call.kwargs,
            )

    def ended(self, breaker: CircuitInterface, error: Exception | None) -> None:
        """Tell of a call that came to `error`, or went well."""
        for listener in self.all:
            if error is None:
                isolated("breaker listener", None, listener.success, breaker)
            else:
                isolated("breaker listener", None, listener.failure, breaker, error)

    def changed(self, breaker: CircuitInterface, old: Any, new: Any) -> None:
        """Tell of a change of state; `old` and `new` are objects of pybreaker's."""
        for listener in self.all:
            isolated("breaker listener", None, listener.state_change, breaker, old, new)


def _checked(listener: Any) -> Any:
    hooks = ("before_call", "success", "failure", "state_change")
    expected = "made of pybreaker.CircuitBreakerListeners"
    if isinstance(listener, type):
        raise InvalidSetting("listeners", listener, expected)
    return settings.having("listeners", listener, hooks, expected)


def _hears_calls(listener: Any) -> bool:
    base = pybreaker.CircuitBreakerListener
    kind = type(listener)
    return any(
        getattr(kind, hook, None) is not getattr(base, hook) for hook in ("before_call", "success")
    )
