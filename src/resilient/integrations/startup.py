"""What every framework does when its application can serve."""

from __future__ import annotations

import signal
import threading

from resilient.serving.termination import drain_on_sigterm
from resilient.telemetry import health

__all__ = ["startup_done"]


def startup_done() -> None:
    """Say that startup is done, and drain when the server is told to end.

    Nothing is changed where there is no server that ends by SIGTERM in its own way: in tests, and
    in commands that load the application.
    """
    on_main_thread = threading.current_thread() is threading.main_thread()
    if on_main_thread and callable(signal.getsignal(signal.SIGTERM)):
        drain_on_sigterm()
    health.started()
