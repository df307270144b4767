"""What one call came to: a value or an error, with its start and its end."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any, final

from resilient.engine import clock
from resilient.engine.notes import put

__all__ = ["Outcome", "own_frames_dropped"]


@final
class Outcome:
    """A value or an error, with the monotonic seconds at which the call started and ended.

    Only an `Exception` becomes an outcome. Cancellation, Ctrl-C and the like pass through the
    engine as what they are and count as neither success nor failure.
    """

    __slots__ = ("ended", "error", "started", "value")

    def __init__(self, value: Any, error: Exception | None, started: float, ended: float) -> None:
        self.value = value
        self.error = error
        self.started = started
        self.ended = ended

    @classmethod
    def failed(cls, error: Exception, started: float) -> Outcome:
        """Return the outcome of a call that has just raised `error`, our own frames dropped."""
        traceback = error.__traceback__
        if traceback is not None:  # whose first frame is that of ours which has caught it
            # By its method: of a frozen data class, no attribute can be assigned to.
            error.with_traceback(own_frames_dropped(traceback.tb_next))
        return cls(None, error, started, clock.now())

    @property
    def ok(self) -> bool:
        """Whether the call returned."""
        return self.error is None

    @property
    def duration(self) -> float:
        """Seconds from start to end."""
        return self.ended - self.started

    def result(self) -> Any:
        """Return the value, or raise the error as it was."""
        if self.error is not None:
            context = self.error.__context__
            try:
                raise self.error
            finally:
                # In place of an error that its caller is about to handle, and that is no origin.
                if context is not None:
                    put(self.error, "__context__", context)
                # The traceback refers to this frame; the frame must not refer back.
                del self, context
        return self.value

    def __repr__(self) -> str:
        what = repr(type(self.value)) if self.error is None else repr(type(self.error))
        return f"<Outcome {what} after {self.duration:.3f} s>"


def own_frames_dropped(traceback: TracebackType | None) -> TracebackType | None:
    """Return `traceback` without the library's own frames at its outer end.

    A guarded call adds exactly one frame of ours to a traceback, however many strategies there
    are; the guard adds that one when it raises.
    """
    while traceback is not None and traceback.tb_frame.f_code.co_filename.startswith(_HERE):
        traceback = traceback.tb_next
    return traceback


#: Where the library's code is, as its frames say.
_HERE = own_frames_dropped.__code__.co_filename.removesuffix(f"engine{os.sep}outcome.py")
