"""Who is told of the calls that are made within a context, such as an event around them."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from resilient.engine.call import Call

__all__ = ["Watcher", "watching"]


class Watcher(Protocol):
    """Is told of each call that has gone through the slow lane."""

    def called(self, call: Call) -> None:
        """Take note of `call`, which has ended: its attempts, and what was served instead."""


watching: ContextVar[Watcher | None] = ContextVar("resilient_watching", default=None)
