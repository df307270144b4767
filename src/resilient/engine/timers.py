"""The timers that cut time-limited asynchronous calls.

All calls under one strategy have the same limit, so on one loop they expire in the order in which
they began: one timer for the oldest of them is enough, and a call that ends in time costs two
dictionary operations. Cancelling follows `asyncio.timeout`: the task is uncancelled again, and a
cancellation from elsewhere wins.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio import get_running_loop
from contextvars import Token
from typing import TYPE_CHECKING, final

from resilient.engine import clock
from resilient.engine.limits import Limit, ambient, current_limit, leave_elsewhere
from resilient.engine.outcome import own_frames_dropped
from resilient.errors import CallTimeout

__all__ = ["Cut", "Cuts"]

if sys.version_info >= (3, 12):
    current_task = asyncio.current_task
else:
    # There it is written in Python, and takes six times as long as what it does.
    current_task = asyncio.tasks._current_tasks.get  # type: ignore[attr-defined]

#: Loops of which a strategy remembers the timer, besides the one in use.
MOST_LOOPS = 16


@final
class Cut(Limit):
    """The limit of one call, at whose end the task that makes the call is cancelled."""

    __slots__ = ("_armed", "_cancelling", "_handle", "_task", "fired")

    _armed: dict[Cut, None] | None
    _cancelling: int
    _handle: asyncio.TimerHandle
    _task: asyncio.Task[object] | None
    fired: bool

    if TYPE_CHECKING:

        def __init__(self) -> None: ...
    else:
        # `Cuts` fills it in: an `__init__` written in Python would double what a limit costs.
        __init__ = object.__init__

    def fire(self) -> None:
        """Cancel the task."""
        self.fired = True
        self._armed = None
        if self._task is not None:
            self._task.cancel()

    def end(
        self, token: Token[Limit | None] | None, interruption: BaseException | None = None
    ) -> CallTimeout | None:
        """Lift the limit, which was put into the context by `token`.

        Return the error for the call if `interruption` is this cut, and nobody else's doing.
        """
        if token is not None:
            try:
                ambient.reset(token)
            except ValueError:  # in another context, as that of who drops a coroutine
                leave_elsewhere(self)
        armed = self._armed
        if armed is None:
            if self.disarm() and isinstance(interruption, asyncio.CancelledError):
                overrun = self.overrun()
                interruption.__traceback__ = own_frames_dropped(interruption.__traceback__)
                overrun.__cause__ = interruption
                return overrun
        else:
            del armed[self]
            self._task = None
        self.ended = True
        return None

    def disarm(self) -> bool:
        """Take the cut back; return whether it, and nobody else, has cancelled the task."""
        task, self._task = self._task, None  # tasks that the call has left may keep this for long
        if self.fired:
            return task is not None and task.uncancel() <= self._cancelling
        if self._armed is not None:
            del self._armed[self]
        else:
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
        """Return `limit` for one call of the current task, which it cuts unless it is disarmed."""
        cut = self.begin(limit.expires, limit.seconds, limit.name, limit.owner)
        cut.outer = current_limit()
        return cut

    def begin(self, expires: float, seconds: float, name: str, owner: object) -> Cut:
        """Do the same for a limit that is in nobody's hands yet, where no other is in force."""
        loop = get_running_loop()
        task = current_task(loop)
        if task is None:
            raise RuntimeError("an asynchronous time limit needs a running asyncio task")
        line = self._line
        if line is None or line.loop is not loop:
            line = self._line = self._line_of(loop)
        cut = Cut()
        cut.expires = expires
        cut.seconds = seconds
        cut.name = name
        cut.owner = owner
        cut.ended = cut.fired = False
        cut.outer = None
        cut._task = task
        cut._cancelling = task.cancelling()
        if expires >= line.latest:
            line.latest = expires
            cut._armed = armed = line.armed
            armed[cut] = None
            if line.timer is None:
                line.timer = loop.call_later(expires - clock.now(), line.fire_expired)
        else:
            cut._armed = None
            cut._handle = loop.call_later(expires - clock.now(), cut.fire)
        return cut
