"""One caller waiting for another, whichever threads or loops the two are on."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import final

__all__ = ["Waiter"]


@final
class Waiter:
    """Somebody who waits to be woken, once."""

    __slots__ = ("_lock", "_notify", "woken")

    def __init__(self) -> None:
        self._lock = Lock()
        self._notify: Callable[[], object] | None = None
        self.woken = False

    def wake(self) -> None:
        """Wake the one who waits, now or as soon as it begins to."""
        with self._lock:
            self.woken = True
            notify, self._notify = self._notify, None
        if notify is not None:
            notify()

    def notify(self, callback: Callable[[], object]) -> None:
        """Have `callback` called at the waking; at once if that has been."""
        with self._lock:
            if not self.woken:
                self._notify = callback
                return
        callback()
