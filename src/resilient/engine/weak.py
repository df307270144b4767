"""Things that are told of changes without being kept alive for it."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Generic, TypeVar

from resilient.engine.locks import new_lock

__all__ = ["WeakList"]

T = TypeVar("T")


class WeakList(Generic[T]):
    """A list that forgets what nobody else holds, and can be iterated while it grows."""

    __slots__ = ("_lock", "_references")

    def __init__(self) -> None:
        self._lock = new_lock()
        self._references: tuple[weakref.ref[T], ...] = ()

    def add(self, item: T) -> None:
        """Append `item`; what has gone meanwhile is dropped."""
        with self._lock:
            alive = [one for one in self._references if one() is not None]
            self._references = (*alive, weakref.ref(item))

    def __iter__(self) -> Iterator[T]:
        for reference in self._references:
            item = reference()
            if item is not None:
                yield item
