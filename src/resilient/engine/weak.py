"""Things that are told of changes without being kept alive for it."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

from resilient.engine.locks import new_lock

__all__ = ["WeakGroup", "WeakList", "alive"]

T = TypeVar("T")


# One for all lists: they grow when something is decorated, and are read without it.
_growing = new_lock()
# Many lists are given the same thing, and nothing but that; these share what they hold.
_latest: tuple[weakref.ref[Any], ...] = ()


class WeakList(Generic[T]):
    """A list that forgets what nobody else holds, and can be iterated while it grows."""

    __slots__ = ("_references",)

    def __init__(self) -> None:
        self._references: tuple[weakref.ref[T], ...] = ()

    def add(self, item: T) -> None:
        """Append `item`; what has gone meanwhile is dropped."""
        global _latest
        with _growing:
            alive = [one for one in self._references if one() is not None]
            if alive:
                self._references = (*alive, weakref.ref(item))
                return
            if not _latest or _latest[0]() is not item:
                _latest = (weakref.ref(item),)
            self._references = _latest

    def __iter__(self) -> Iterator[T]:
        for reference in self._references:
            item = reference()
            if item is not None:
                yield item


class WeakGroup(Generic[T]):
    """Things in no order that nobody else may hold, and that come and go while it is iterated."""

    __slots__ = ("_things",)

    def __init__(self) -> None:
        self._things: weakref.WeakValueDictionary[int, T] = weakref.WeakValueDictionary()

    def add(self, item: T) -> None:
        """Take `item` up; harmless if it is there."""
        self._things[id(item)] = item

    def __iter__(self) -> Iterator[T]:
        return iter(alive(self._things))


def alive(things: weakref.WeakValueDictionary[Any, T]) -> list[T]:
    """Return the values that are still there, whatever other threads make and drop meanwhile.

    To iterate over `things` itself (or over a `weakref.WeakSet`) may fail: what went meanwhile is
    removed by the next thread that looks anything up there, whether or not somebody iterates.
    """
    return [one for reference in things.valuerefs() if (one := reference()) is not None]
