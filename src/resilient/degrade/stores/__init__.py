"""Where good answers are kept: the protocol of a store, and those that are built in."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, NamedTuple, Protocol

__all__ = ["Entry", "Store"]


class Entry(NamedTuple):
    """A stored value, and how many seconds ago it was stored."""

    value: Any
    age: float


class Store(Protocol):
    """What a store can do; both methods may be asynchronous, for asynchronous functions."""

    def get(self, key: Hashable) -> Any:
        """Return the `Entry` under `key`, or None if there is none."""

    def put(self, key: Hashable, value: Any, ttl: float) -> Any:
        """Keep `value` under `key` for at most `ttl` seconds."""
