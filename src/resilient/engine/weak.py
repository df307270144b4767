"""Things that are told of changes without being kept alive for it."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Generic, TypeVar

from resilient.engine.locks import new_lock

__all__ = ["WeakList"]

T = TypeVar("T")


# One for all lists: they grow when something is decorated, and are read without it.
_growing = new_lock()


class WeakList(Generic[T]):
    """A list that forgets what nobody else holds, and can be iterated while it grows."""

    __slots__ = ("_references",)

    def __init__(self) -> None:
        self._references: tuple[weakref.ref[T], ...] = ()

    def add(self, item: T) -> None:
        """Append `item`; what has gone meanwhile is dropped."""
        with _growing:
            alive = [one for one in self._references if one() is not None]
            self._references = (*alive, weakref.ref(item))

    def __iter__(self) -> Iterator[T]:
        for reference in self._references:
            item = reference()
            if item is not None:
                yield item
