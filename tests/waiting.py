"""Waiting for what other threads and processes bring about in their own time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

#: Seconds after which something is believed not to come any more; also on a machine that is busy.
PATIENCE = 30.0


def eventually(holds: Callable[[], Any], pause: float = 0.005) -> bool:
    """Return True as soon as `holds()`, and False if it has not come to that for a long time."""
    until = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > until:
            return False
        time.sleep(pause)
    return True
