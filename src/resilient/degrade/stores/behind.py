"""Writes behind calls: a success does not wait for the store that its answer goes to.

What is to be written waits in a bounded queue, the newest value for each key. One thread writes; it
parks when there is nothing to do, and a forked child begins with an empty queue, since its parent
writes what was waiting. While the store is down the newest values stay in the queue, which is
looked into first: they are served, and written when the store is back.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Callable, Hashable
from enum import Enum, auto
from typing import Any, Generic, TypeVar, final

from resilient.engine import clock
from resilient.engine.isolation import ended_by, isolated, nobody_waits_for, report_broken
from resilient.engine.locks import new_lock
from resilient.engine.weak import WeakGroup

__all__ = ["Done", "WriteBehind"]

T = TypeVar("T")

_IDLE_SECONDS = 30.0
#: So long one waits for further writes of the same keys.
_LINGER_SECONDS = 0.005
#: And so long while the store is left alone.
_PAUSE_SECONDS = 0.25
#: So long the process waits at its end for all that has not been written.
EXIT_SECONDS = 0.5


class Done(Enum):
    """What became of a write."""

    WRITTEN = auto()
    FAILED = auto()
    #: The store is left alone for now: the write waits.
    LATER = auto()


class _State(Enum):
    """Where the thread is that writes."""

    ABSENT = auto()
    AT_WORK = auto()
    PARKED = auto()


@final
class WriteBehind(Generic[T]):
    """Items that wait to be written by `write`, at most `most` of them, the newest for each key."""

    def __init__(
        self,
        write: Callable[[T], Done],
        dropped: Callable[[], object],
        most: int,
        stand_by: Callable[[], object],
    ) -> None:
        self._write = write
        self._stand_by = stand_by
        self._dropped = dropped
        self._most = most
        self._begin()
        _queues.add(self)

    def _begin(self) -> None:
        self._waiting: dict[Hashable, T] = {}
        self._lock = new_lock()
        self._go = threading.Lock()
        self._go.acquire()
        #: Whether somebody is going to look at what waits; any thread may change it at any time.
        self._awake: Any = False
        self._state = _State.ABSENT
        self._writing = 0
        #: Whether the last write was told to wait.
        self._refused = False

    def __len__(self) -> int:
        return len(self._waiting) + self._writing

    def get(self, key: Hashable) -> T | None:
        """Return what waits for `key`, or None."""
        return self._waiting.get(key)

    def put(self, key: Hashable, item: T) -> None:
        """Have `item` written soon, in place of what waits for `key` and in its turn."""
        waiting = self._waiting
        waiting[key] = item
        if len(waiting) > self._most:
            self._drop()
        if not self._awake:
            self._wake()

    def _drop(self) -> None:
        with self._lock:
            while len(self._waiting) > self._most:
                if self._waiting.pop(self._oldest(), None) is not None:
                    self._dropped()

    def _oldest(self) -> Hashable:
        """Return the key that has waited longest; None if there is none."""
        while True:
            try:
                return next(iter(self._waiting), None)
            except RuntimeError:  # another thread was faster than these two steps
                continue

    def _wake(self) -> None:
        with self._lock:
            if self._awake:
                return
            self._awake = True
            state, self._state = self._state, _State.AT_WORK
            if state is _State.PARKED:
                self._go.release()
            if state is not _State.ABSENT:
                return
        if clock.current is clock.system:
            self._stand_by()  # the process may end before the thread has begun to write
        if not clock.current.background(self._work):
            # No thread to be had: the next write tries again.
            self._awake, self._state = False, _State.ABSENT

    def _work(self) -> None:
        is_real = clock.current is clock.system
        while True:
            if is_real:
                time.sleep(_LINGER_SECONDS)
            self._awake = False  # from here on, what comes may be missed by this round
            pause = self._write_all()
            if pause and is_real:
                time.sleep(pause)
                continue
            with self._lock:
                if self._awake and not pause:
                    continue
                self._state = _State.PARKED if is_real else _State.ABSENT
                self._awake = bool(pause)
            if pause:
                clock.current.later(pause, self._try_again)
            if not is_real or not self._parked():
                return

    def _parked(self) -> bool:
        """Wait for something to do; return False if nothing came for long."""
        if not self._go.acquire(timeout=_IDLE_SECONDS):
            with self._lock:
                if self._state is _State.PARKED:
                    self._state = _State.ABSENT
                    return False
            self._go.acquire()  # woken at that very moment
        return True

    def _try_again(self) -> None:
        self._awake = False
        self._wake()

    def _write_all(self) -> float:
        """Write what waits; return after how many seconds to go on, 0 if all is done."""
        for _ in range(len(self._waiting)):
            with self._lock:
                key = self._oldest()
                item = self._waiting.get(key)
                if item is None:
                    continue
                self._writing = 1
            done = self._written(item)
            with self._lock:
                self._writing, self._refused = 0, done is Done.LATER
                if done is not Done.LATER and self._waiting.get(key) is item:
                    del self._waiting[key]
            if self._refused:
                return _PAUSE_SECONDS
        return 0.0

    def _written(self, item: T) -> Done:
        try:
            return isolated("cache store", Done.FAILED, self._write, item)
        except BaseException as interruption:
            if not nobody_waits_for(interruption):
                raise
            report_broken("cache store", ended_by("cache store", interruption))
            return Done.FAILED

    def flush(self, until: float) -> None:
        """Wait until all is written, the store is found to be down, or it is `until`."""
        while len(self) and not self._refused and time.monotonic() < until:
            if not self._awake:
                self._wake()
            time.sleep(0.002)


_queues: WeakGroup[WriteBehind[Any]] = WeakGroup()


def _flush_all() -> None:
    until = time.monotonic() + EXIT_SECONDS
    for queue in list(_queues):
        queue.flush(until)


def _begin_all() -> None:
    for queue in list(_queues):
        queue._begin()


atexit.register(_flush_all)
os.register_at_fork(after_in_child=_begin_all)
