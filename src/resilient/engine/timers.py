"""The timers that cut time-limited asynchronous calls.

All calls under one strategy have the same limit, so on one loop they expire in the order in which
they began: one timer for the oldest of them is enough, and a call that ends in time costs two
dictionary operations. Cancelling follows `asyncio.timeout`: the task is uncancelled again, and a
cancellation from elsewhere wins.
"""

from __future__ import annotations

import asyncio
from typing import final

from resilient.engine import clock
from resilient.engine.limits import Limit

__all__ = ["Cut", "Cuts"]

#: Loops of which a strategy remembers the timer, besides the one in use.
MOST_LOOPS = 16


@final
class Cut:
    """The cancellation of one task at the end of a limit."""

    __slots__ = ("_cancelling", "_handle", "_line", "_task", "expires", "fired")

    def __init__(self, task: asyncio.Task[object], expires: float) -> None:
        self._task = task
        self._cancelling = task.cancelling()
        self._line: _Line | None = None
        self._handle: asyncio.TimerHandle | None = None
        self.expires = expires
        self.fired = False

    def fire(self) -> None:
        """Cancel the task."""
        self.fired = True
        self._task.cancel()

    def disarm(self) -> bool:
        """Take the cut back; return whether it, and nobody else, has cancelled the task."""
        if self.fired:
            return self._task.uncancel() <= self._cancelling
        if self._line is not None:
            del self._line.armed[self]
        elif self._handle is not None:
            self._handle.cancel()
        return False


@final
class _Line:
    """The cuts of one strategy on one loop, the oldest first, and the timer for the oldest."""

    __slots__ = ("armed", "latest", "loop", "timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.armed: dict[Cut, None] = {}
        self.latest = 0.0
        self.timer: asyncio.TimerHandle | None = None

    def fire_expired(self) -> None:
        self.timer = None
        now = clock.now()
        expired: list[Cut] = []
        for cut in self.armed:
            if cut.expires > now:
                self.timer = self.loop.call_later(cut.expires - now, self.fire_expired)
                break
            expired.append(cut)
        for cut in expired:
            del self.armed[cut]
            cut.fire()


@final
class Cuts:
    """The cuts of one strategy, on whatever loops it is used."""

    __slots__ = ("_line", "_others")

    def __init__(self) -> None:
        self._line: _Line | None = None
        self._others: tuple[_Line, ...] = ()

    def _line_of(self, loop: asyncio.AbstractEventLoop) -> _Line:
        """Return the line of `loop`, where several take turns; those of closed loops are dropped.

        Loops in other threads may do the same right now. At worst a line is made anew: cuts keep
        the one that they are in.
        """
        known = [one for one in (self._line, *self._others) if one is not None]
        found = next((one for one in known if one.loop is loop), None) or _Line(loop)
        others = [one for one in known if one is not found and not one.loop.is_closed()]
        self._others = tuple(others[:MOST_LOOPS])
        return found

    def arm(self, limit: Limit) -> Cut:
        """Have the current task cancelled at the end of `limit`, unless it is disarmed before."""
        loop = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        if task is None:
            raise RuntimeError("an asynchronous time limit needs a running asyncio task")
        cut = Cut(task, limit.expires)
        line = self._line
        if line is None or line.loop is not loop:
            line = self._line = self._line_of(loop)
        if limit.expires >= line.latest:
            line.latest = limit.expires
            line.armed[cut] = None
            cut._line = line
            if line.timer is None:
                line.timer = loop.call_later(limit.expires - clock.now(), line.fire_expired)
        else:
            cut._handle = loop.call_later(limit.expires - clock.now(), cut.fire)
        return cut
