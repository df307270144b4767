"""One thing of another library, and which functions it can guard."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.ours import DEFAULT

__all__ = ["ASYNC", "BOTH", "SYNC", "Function", "Peer", "default_served", "default_served_async"]

Function = Callable[..., Any]

#: The functions that a peer can guard: synchronous ones, asynchronous ones, or both.
SYNC, ASYNC, BOTH = (False,), (True,), (False, True)


@dataclass(frozen=True, slots=True)
class Peer:
    """`make` guards a function; `colours` are those of the functions that it can guard.

    `rejection` is the error that an open circuit raises, of a breaker.
    """

    name: str
    make: Callable[..., Function]
    colours: tuple[bool, ...] = BOTH
    rejection: type[Exception] | None = None


def default_served(*_: object, **__: object) -> str:
    """Return what is served instead of an answer."""
    return DEFAULT


async def default_served_async(*_: object, **__: object) -> str:
    """Return it where a coroutine is expected."""
    return DEFAULT
