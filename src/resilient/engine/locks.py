"""Locks that a forked child can use, whichever thread of its parent held them at the fork."""

from __future__ import annotations

import os
import weakref
from threading import RLock
from typing import Any

__all__ = ["new_lock"]

_locks: weakref.WeakSet[Any] = weakref.WeakSet()


def new_lock() -> RLock:
    """Return a re-entrant lock, free again in every forked child.

    Re-entrant, as a destructor or a signal handler may run a guarded call within one of ours.
    """
    lock = RLock()
    _locks.add(lock)
    return lock


def _free_all() -> None:
    # As logging and threading do it: the threads that held them do not exist in the child.
    for lock in list(_locks):
        lock._at_fork_reinit()


os.register_at_fork(after_in_child=_free_all)
