"""Whether the process is alive; nothing about dependencies, which no restart would mend.

Whoever must not get stuck gives a sign of life every so often. It is judged by the clock of the
thread that answers, so that the answer has to come from another one than what may be stuck.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import weakref
from typing import Any, final

from resilient.engine import clock, settings, signals
from resilient.engine.names import Names
from resilient.errors import InvalidUse
from resilient.telemetry.health.report import Report, worst

__all__ = ["Watch", "live", "watch", "watch_loop"]

#: A loop gives a sign of life so many times within its limit.
_BEATS = 10


@final
class Watch:
    """Somebody who must not get stuck, until it says that it has ended.

    Attributes:
        name: Who that is.
        limit: The most seconds between two signs of life.
    """

    def __init__(
        self, name: str, limit: float, loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        self.name = settings.text("name", name)
        self.limit = settings.seconds("limit", limit, above_zero=True)
        self._loop = None if loop is None else weakref.ref(loop)
        self._told = False
        self.beat()
        if name in _watched:
            _watched[name].is_at_work()  # ends, if it is that of a loop that has ended
        _names.claim(name, self)
        _watched[name] = self
        if loop is not None:
            loop.call_soon_threadsafe(self._turn)

    def __repr__(self) -> str:
        return f"<Watch {self.name}: {self.silent_for:.3g} s of at most {self.limit:g} s>"

    def beat(self) -> None:
        """Give a sign of life."""
        self._thread = threading.get_ident()
        self._last = clock.now()

    def stop(self) -> None:
        """End in good order: who has ended is not stuck."""
        _names.release(self.name, self)
        if _watched.get(self.name) is self:
            del _watched[self.name]

    @property
    def silent_for(self) -> float:
        """The seconds since the last sign of life."""
        return clock.now() - self._last

    def _turn(self) -> None:
        """Beat whenever the loop gets its turn."""
        loop = None if self._loop is None else self._loop()
        if loop is not None and _watched.get(self.name) is self:
            self.beat()
            loop.call_later(self.limit / _BEATS, self._turn)

    def is_at_work(self) -> bool:
        """Whether it can be stuck; a loop that does not run is not, and one that is closed ends."""
        if self._loop is None:
            return True
        loop = self._loop()
        if loop is None or loop.is_closed():
            self.stop()
            return False
        return loop.is_running()

    def judged(self) -> dict[str, Any]:
        """Return the check of this one, and tell where it is stuck, once, when it is."""
        silent_for = self.silent_for
        stuck = silent_for > self.limit
        if stuck and not self._told:
            signals.emit(
                "resilient.stall_noticed",
                watch=self.name,
                silent_for_seconds=round(silent_for, 3),
                at=_place(self._thread),
            )
        self._told = stuck
        return {
            "componentType": "system",
            "status": "fail" if stuck else "pass",
            "observedValue": round(silent_for, 3),
            "observedUnit": "s",
            "limitSeconds": self.limit,
        }


def watch(name: str, limit: float = 60) -> Watch:
    """Restart the process when a thread gets stuck: watch for the signs of life that it gives.

    The thread calls `beat()` on what this returns, at least every `limit` seconds, also while it
    has nothing to do, and `stop()` when it ends in good order. One that ends by an error so turns
    `/health/live` to a 503, and so does one that hangs. What a restart would not mend, such as a
    dependency that is down, must not keep it from beating: give those calls time limits.

    Arguments:
        name: Who is watched; unique.
        limit: The most seconds between two signs of life; above 0.

    Raises:
        DuplicateName: If another of that name is watched.
        InvalidSetting: If an argument is outside of its range.

    Example:
        >>> from resilient import health
        >>> consumer = health.watch("consumer of orders", limit=60)
        >>> for message in ["m1", "m2"]:
        ...     consumer.beat()
        >>> health.live().status
        'pass'
        >>> consumer.stop()
    """
    return Watch(name, limit)


def watch_loop(
    limit: float = 5, *, name: str = "event loop", loop: asyncio.AbstractEventLoop | None = None
) -> Watch:
    """Restart the process when an event loop is blocked: see that it gets its turn.

    A loop that is blocked cannot answer itself; ask for `/health/live` where another thread
    answers, which is what `resilient.serve` is for. A loop that has ended is not stuck.

    Arguments:
        limit: The most seconds for which the loop may be blocked; above 0. Notice takes at most so
            long, and a block of less than nine tenths of it is none.
        name: Whose loop it is; unique, where there are several.
        loop: The loop; else the one that is running.

    Raises:
        DuplicateName: If another of that name is watched.
        InvalidSetting: If an argument is outside of its range.
        InvalidUse: If no loop is running, and none is given.

    Example:
        >>> import asyncio
            >>> from resilient import health
        >>> async def main() -> str:
        ...     health.watch_loop(limit=5)
        ...     return health.live().status
        >>> asyncio.run(main())
        'pass'

    Where the rule comes from: watchdogs of embedded systems, and `sd_notify` of systemd.
    """
    if loop is None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise InvalidUse("no event loop is running: use it within one, or give loop=") from None
    return Watch(name, limit, loop)


def live() -> Report:
    """Return whether nobody is stuck who is watched; nothing else is looked at."""
    at_work = [one for one in _names.all() if one.is_at_work()]
    checks = {f"{one.name}:turns": [one.judged()] for one in at_work}
    return Report(worst(one["status"] for found in checks.values() for one in found), checks)


def _place(thread: int) -> str | None:
    """Return the line that another thread is at, which is code and not data."""
    # Python 3.11 stands still for ever if it begins to collect garbage in the middle of this.
    collects = gc.isenabled()
    gc.disable()
    try:
        frame = sys._current_frames().get(thread)
    finally:
        if collects:
            gc.enable()
    if frame is None or thread == threading.get_ident():
        return None
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_qualname}"


_names: Names[Watch] = Names("watch")
#: Keeps them alive, whoever holds them.
_watched: dict[str, Watch] = {}


def _forget_all() -> None:
    # Neither the threads nor the loop of the parent run in a forked child.
    for one in list(_watched.values()):
        one.stop()


os.register_at_fork(after_in_child=_forget_all)
