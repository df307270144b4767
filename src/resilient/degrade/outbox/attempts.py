"""How a call comes out that somebody else's queue keeps, and when it is made again.

The queue has workers of its own; what they are told here is the same for each of them.
"""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import Awaitable
from datetime import datetime
from typing import TYPE_CHECKING, Any, final

from resilient.degrade.outbox.table import wall
from resilient.engine import settings, signals
from resilient.errors import CallRejected, InvalidUse

if TYPE_CHECKING:
    from resilient.degrade.outbox.calls import Receipt
    from resilient.degrade.outbox.replay import Replay

__all__ = ["Attempts", "finish", "tell_queued", "tell_replayed", "was_tried"]

#: Seconds until a call is tried again that was rejected by something that does not know when.
REJECTED_SECONDS = 1.0


@final
class Attempts:
    """When the calls of a queue are tried again: the settings of an `Outbox`, for others."""

    def __init__(self, max_attempts: int, first_pause: float, max_pause: float) -> None:
        self.max_attempts = settings.count("max_attempts", max_attempts)
        self.first_pause = settings.seconds("first_pause", first_pause)
        self.max_pause = settings.seconds("max_pause", max_pause)

    def pause(self, replay: Replay, error: Exception, failed: int) -> float | None:
        """Return the seconds until a call is tried again that failed so often before.

        None for never: its error is an answer, or it was the last one.
        """
        if isinstance(error, CallRejected):
            pause = (error.retry_after or REJECTED_SECONDS) * random.uniform(1.0, 1.25)
            return min(self.max_pause, pause)
        if self._why_not_again(replay, error, failed) is not None:
            return None
        pause = min(self.max_pause, self.first_pause * 2.0 ** min(failed, 60))
        # Between half and all of it: calls that failed together do not come back together.
        return pause * random.uniform(0.5, 1.0)

    def _why_not_again(self, replay: Replay, error: Exception, failed: int) -> str | None:
        what = type(error).__name__
        if isinstance(error, InvalidUse):
            return f"broken: {error}"
        if not replay.pipeline.is_failure(error):
            return f"answered: {what}"
        if failed + 1 >= self.max_attempts:
            return f"given up after {failed + 1} attempts: {what}"
        return None

    def tell_buried(self, replay: Replay, call_id: str, error: Exception, failed: int) -> None:
        """Tell that a call is not made again."""
        signals.emit(
            "resilient.call_buried",
            dependency=replay.dependency,
            function=replay.name,
            id=call_id,
            attempts=failed + 1,
            reason=self._why_not_again(replay, error, failed),
        )


def tell_queued(replay: Replay, receipt: Receipt) -> None:
    """Tell that a call is kept."""
    signals.emit(
        "resilient.call_queued",
        dependency=replay.dependency,
        function=replay.name,
        id=receipt.id,
    )


def tell_replayed(replay: Replay, call_id: str, failed: int, queued: str) -> None:
    """Tell that a call was made which had waited since the moment `queued`."""
    waited = wall() - datetime.fromisoformat(queued).timestamp()
    signals.emit(
        "resilient.call_replayed",
        dependency=replay.dependency,
        function=replay.name,
        id=call_id,
        attempts=failed + 1,
        waited_seconds=round(max(0.0, waited), 3),
    )


def was_tried(error: Exception) -> bool:
    """Whether a call with that error was made, and has failed."""
    return not isinstance(error, CallRejected)


def finish(result: Any) -> None:
    """Wait for what an asynchronous function returned, on an event loop of its own."""
    if inspect.isawaitable(result):
        asyncio.run(_awaited(result))


async def _awaited(result: Awaitable[Any]) -> None:
    await result
