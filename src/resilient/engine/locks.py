"""Locks that a forked child can use, whichever thread of its parent held them at the fork."""

from __future__ import annotations

import os
import weakref
from threading import RLock
from typing import Any

__all__ = ["loading", "new_lock", "subscribing"]

#: Held while something is imported at its first use. A fork waits for it: the lock of a module
#: that another thread is loading would never be free again in the child.
loading = RLock()
LONGEST_LOADING = 2.0
_waited = False

# A list of references, swept as it grows: there are many locks, and a set takes twice the memory.
_locks: list[weakref.ref[Any]] = []
LEAST_SWEPT = 1000
_sweep_at = LEAST_SWEPT
_growing = RLock()


def new_lock() -> RLock:
    """Return a re-entrant lock, free again in every forked child.

    Re-entrant, as a destructor or a signal handler may run a guarded call within one of ours.
    """
    global _sweep_at
    lock = RLock()
    with _growing:
        if len(_locks) >= _sweep_at:
            _locks[:] = [one for one in _locks if one() is not None]
            _sweep_at = max(LEAST_SWEPT, 2 * len(_locks))
        _locks.append(weakref.ref(lock))
    return lock


def _free_all() -> None:
    # As logging and threading do it: the threads that held them do not exist in the child.
    _growing._at_fork_reinit()  # type: ignore[attr-defined]
    for reference in _locks:
        lock = reference()
        if lock is not None:
            lock._at_fork_reinit()


def _wait_for_loading() -> None:
    global _waited
    _waited = loading.acquire(timeout=LONGEST_LOADING)


def _go_on_loading() -> None:
    if _waited:
        loading.release()


def _free_loading() -> None:
    loading._at_fork_reinit()  # type: ignore[attr-defined]


os.register_at_fork(
    before=_wait_for_loading, after_in_parent=_go_on_loading, after_in_child=_free_loading
)
os.register_at_fork(after_in_child=_free_all)

#: Held while the listeners to signals change.
subscribing = new_lock()
