"""Forked children that say whether a claim holds there."""

from __future__ import annotations

import faulthandler
import os
import threading
import warnings
from collections.abc import Callable

from tests.waiting import PATIENCE

__all__ = ["holds_in_a_child"]


def _give_up() -> None:
    faulthandler.dump_traceback()  # where it hangs
    os._exit(2)


def holds_in_a_child(claim: Callable[[], object]) -> bool:
    """Return whether `claim` comes to True in a forked child, and in time."""
    with warnings.catch_warnings():
        # Python 3.12 warns of a fork while there are threads, which is what is tested here.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        status = 1
        try:
            threading.Timer(PATIENCE, _give_up).start()
            status = 0 if claim() is True else 1
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == 0
