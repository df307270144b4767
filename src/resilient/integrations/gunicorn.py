"""Gunicorn: hooks for its configuration file, `gunicorn.conf.py`."""

from __future__ import annotations

import os
from typing import Any

from resilient.engine.isolation import isolated
from resilient.telemetry.ended import forget

__all__ = ["child_exit"]


def child_exit(_server: Any, worker: Any) -> None:
    """Keep the counts of a worker that has ended, and forget its gauges and its files.

    Import it in `gunicorn.conf.py` under this name. Pages that the library serves do the same when
    they are read; with the hook it is done at once, and for pages that are made in another way.

    Arguments:
        worker: The worker that has ended.

    Example:
        >>> from resilient.integrations.gunicorn import child_exit
    """
    path = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if path:
        isolated("metrics", None, forget, worker.pid, path)
