"""SIGTERM: from the first moment on not ready, and the end only when nothing is in flight."""

from __future__ import annotations

import _thread
import os
import signal
import threading
from types import FrameType
from typing import Any, final

from resilient.engine import settings
from resilient.engine.draining import drain, draining
from resilient.errors import InvalidUse

__all__ = ["drain_on_sigterm"]


def drain_on_sigterm(timeout: float = 25) -> None:
    """Drain when the process is told to end, then let whoever handled the signal before go on.

    Call it after the server has set up its own handling: at startup of an ASGI application, or in
    gunicorn's `post_worker_init`. The server then stops as it always does. Where nobody handled
    the signal, the process ends with status 0 when nothing is in flight any more. Python itself
    then waits for threads that are no daemons, such as those of a `ThreadPoolExecutor`.

    Arguments:
        timeout: The most seconds, 0 or more, until the process ends where nobody else ends it.

    Raises:
        InvalidSetting: If `timeout` is no number of seconds.
        InvalidUse: If called on another than the main thread, which is where signals arrive.

    Example:
        >>> import resilient
        >>> resilient.drain_on_sigterm(timeout=25)  # doctest: +SKIP

    Where the rule comes from: the termination of pods in Kubernetes.
    """
    settings.seconds("timeout", timeout)
    if threading.current_thread() is not threading.main_thread():
        raise InvalidUse("drain_on_sigterm() sets a signal handler: call it on the main thread")
    if not isinstance(getattr(signal.getsignal(signal.SIGTERM), "__self__", None), _Termination):
        signal.signal(signal.SIGTERM, _Termination(timeout).begin)


@final
class _Termination:
    """What happens between the signal and the end of the process."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._before: Any = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL
        self._is_alone = self._before == signal.SIG_DFL
        self._process = os.getpid()
        self._has_begun = False
        self._is_over = False

    def begin(self, number: int, frame: FrameType | None) -> None:
        """Stop taking work; called in the midst of whatever the main thread is doing."""
        if self._is_over or (self._is_alone and draining() and not drain(0).left):
            raise SystemExit(0)
        if self._process != os.getpid() and not callable(self._before):
            # A forked child that has no server of its own is ended as if there were no library.
            signal.signal(number, self._before)
            signal.raise_signal(number)
            return
        if self._is_alone and self._has_begun and draining():
            return  # the process ends once: to be told so in the midst of that would be an error
        self._has_begun = True
        # Draining logs, and the main thread may hold a lock of its logger, or of `threading`.
        _thread.start_new_thread(self._drain, ())
        if callable(self._before):
            self._before(number, frame)

    def _drain(self) -> None:
        drained = drain(self._timeout)
        if self._is_alone:
            drained.wait()
            self._is_over = True
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
