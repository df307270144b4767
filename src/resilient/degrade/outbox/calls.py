"""A queued call, its receipt, and the protocol of what takes calls."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from resilient.degrade.outbox.replay import Replay

__all__ = ["CallQueue", "NewCall", "QueuedCall", "Receipt"]


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the caller gets in place of an answer: the call is kept, and will be made.

    Attributes:
        id: The number of the call, for `python -m resilient outbox show`.
        name: What will be called.
        key: The idempotency key, or None.
        queued: When it was queued first; the same key has the same receipt while it waits.
    """

    id: str
    name: str
    key: str | None
    queued: datetime


@dataclass(frozen=True, slots=True)
class NewCall:
    """A call to keep.

    Attributes:
        name: The name under which its function is registered.
        arguments: Its arguments as JSON.
        key: Two calls of one name and key are one call while the first waits; None for no such.
        ordered_by: Calls that have this in common are made one after the other; None for no order.
    """

    name: str
    arguments: str = field(repr=False)
    key: str | None = None
    ordered_by: str | None = None


@dataclass(frozen=True, slots=True)
class QueuedCall:
    """A call that is kept, as it is now.

    Attributes:
        id: Its number.
        name: What will be called.
        arguments: Its arguments as JSON; they may hold secrets, so its `repr` leaves them out.
        key: The idempotency key, or None.
        ordered_by: What it has in common with calls that must wait for it, or None.
        queued: When it was queued.
        state: "waiting", "running", or "dead" when it will not be made again by itself.
        due: When it may be made next.
        attempts: How often it has been tried.
        error: What the last attempt came to, or why it is dead.
    """

    id: str
    name: str
    arguments: str = field(repr=False)
    key: str | None
    ordered_by: str | None
    queued: datetime
    state: Literal["waiting", "running", "dead"]
    due: datetime
    attempts: int
    error: str | None


class CallQueue(Protocol):
    """What `queued` puts calls into: an `Outbox`, or something of your own."""

    def register(self, replay: Replay) -> None:
        """Take note of a function whose calls may be put; told for each when decorating."""

    def put(self, call: NewCall) -> Receipt:
        """Keep `call`, and return once it is kept whatever happens to this process.

        May block; a call of an event loop is made on a worker thread.
        """
        ...
