"""Where good answers are kept: the protocol of a store, and those that are built in."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

__all__ = ["Entry", "Store"]


class Entry(NamedTuple):
    """A stored value, and how many seconds ago it was stored."""

    value: Any
    age: float


class Store(Protocol):
    """Keeps bytes under a name for a while; what a store of your own has to be able to do.

    The library sees to all else: what the bytes mean and whether they are whole, how long a store
    may take, when it is left alone. Methods that are plain are called on threads of the library's
    own, several at once; those of a store for asynchronous functions may be `async def`. A store
    that is unwell raises. An attribute `name` is its label in metrics.

    Where several processes share a store, `claim(name, token, seconds)` (take `name` for so long
    unless somebody has it, and return the token of who has it now) and `release(name, token)` (give
    it back, if it is still under that token) make one call of their misses. If `claim` returns only
    whether it was taken, processes whose calls fail make them one after the other.
    """

    def get(self, name: str) -> Any:
        """Return the bytes under `name`, or None if there are none."""

    def put(self, name: str, data: bytes, ttl: float) -> Any:
        """Keep `data` under `name` for about `ttl` seconds, in place of what was there."""

    def delete(self, name: str) -> Any:
        """Forget what is under `name`; harmless if there is nothing."""
