"""Names that can be given once: two breakers under one name would merge their series.

A module that is loaded anew may give its names again; the new things take the place of the old.
"""

from __future__ import annotations

import gc
import weakref
from operator import attrgetter
from typing import Generic, TypeVar

from resilient.engine.callables import outer_frame
from resilient.engine.locks import new_lock
from resilient.errors import DuplicateName

__all__ = ["Names"]

T = TypeVar("T")
#: Where names come from is kept for so many that nobody holds any more, and as many as are held.
SPARE = 16


class Names(Generic[T]):
    """What has been named, for as long as somebody holds it."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._lock = new_lock()
        self._named: weakref.WeakValueDictionary[str, T] = weakref.WeakValueDictionary()
        self._origins: dict[str, tuple[str, int]] = {}

    def claim(self, name: str, thing: T) -> None:
        """Give `name` to `thing`.

        Raises:
            DuplicateName: If something else has it, other than by an earlier load of its module.
        """
        origin = _origin()
        if self._give(name, thing, origin):
            return
        # Who has it may have been dropped already, and be kept only by a cycle.
        gc.collect()
        if not self._give(name, thing, origin):
            raise DuplicateName(
                f"there is a {self._kind} named {name!r} already: use that one, or give this "
                "one a name of its own, or their counts and metrics would merge"
            )

    def _give(self, name: str, thing: T, origin: tuple[str, int]) -> bool:
        """Give `name` to `thing`, unless something else has it."""
        with self._lock:
            if self._is_taken(name, thing, origin):
                return False
            self._named[name] = thing
            self._origins[name] = origin
            if len(self._origins) > 2 * len(self._named) + SPARE:
                held = {one.key for one in self._named.valuerefs()}
                self._origins = {one: self._origins[one] for one in held & self._origins.keys()}
            return True

    def _is_taken(self, name: str, thing: T, origin: tuple[str, int]) -> bool:
        holder = self._named.get(name)
        if holder is None or holder is thing:
            return False
        module, load = self._origins.get(name, ("", 0))
        return not (module == origin[0] and load != origin[1] and module != "__main__")

    def release(self, name: str, thing: T) -> None:
        """Take `name` from `thing`, if it has it."""
        with self._lock:
            if self._named.get(name) is thing:
                del self._named[name]

    def all(self) -> list[T]:
        """Return what has a name, ordered by it."""
        references = sorted(self._named.valuerefs(), key=attrgetter("key"))
        return [thing for one in references if (thing := one()) is not None]

    def get(self, name: str) -> T | None:
        """Return what has `name`, or None."""
        return self._named.get(name)


# A module gives many names: they have one origin.
_latest_origin = ("", 0)


def _origin() -> tuple[str, int]:
    """Return the module outside of this library that gives the name, and which load of it."""
    global _latest_origin
    names = outer_frame().f_globals
    latest, origin = _latest_origin, (names.get("__name__", ""), id(names.get("__spec__")))
    if latest == origin:
        return latest
    _latest_origin = origin
    return origin
