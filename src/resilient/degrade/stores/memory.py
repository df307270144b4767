"""A store in the memory of the process, bounded."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from itertools import islice
from typing import Any, TypeAlias, final

from resilient.degrade.stores import Entry
from resilient.degrade.stores.counts import Counts
from resilient.degrade.stores.snapshot import IMMUTABLE, snapshot, weight
from resilient.engine import clock, settings
from resilient.engine.locks import new_lock

__all__ = ["MemoryStore"]

#: After so many new values, and so many seconds, the store looks at how much memory they take.
WEIGHED_EVERY = 64
WEIGHED_SECONDS = 1.0

_NOTHING = (None, 0.0, -1.0)

#: The clock's, as a global of this module: storing is part of the fast lane.
now = clock.now


def _follow(now_from_now_on: Callable[[], float]) -> None:
    global now
    now = now_from_now_on


clock.followers.append(_follow)


#: A value, when it was stored, and for how many seconds it may be served.
Kept: TypeAlias = "tuple[Any, float, float]"


@final
class MemoryStore:
    """Keeps values in memory; when there is no room, those stored longest ago go first.

    Values are copied when they are stored and when they are served, so that nobody changes what
    another one gets. What cannot change (numbers, text, bytes, dates) is not copied.

    Arguments:
        max_entries: The most values that are kept; 1 or more.
        max_bytes: The most memory that they may take, about: it is looked at after every 64 new
            values, and every second; 1 or more.
        copies: False hands values over as they are: faster for large ones, and right where all
            who get them treat them as immutable.
        name: The label of its metrics; stores of one name are counted together.

    Raises:
        InvalidSetting: If an argument is outside of its range.

    Example:
        >>> from resilient import MemoryStore
        >>> store = MemoryStore(max_entries=1)
        >>> store.put("a", 1, ttl=60)
        >>> store.put("b", 2, ttl=60)
        >>> store.get("a") is None, store.get("b").value
        (True, 2)
    """

    __slots__ = (
        "__weakref__",
        "_bytes",
        "_counts",
        "_due",
        "_entries",
        "_lock",
        "_weights",
        "copies",
        "max_bytes",
        "max_entries",
        "name",
    )

    def __init__(
        self,
        max_entries: int = 10_000,
        max_bytes: int = 64 * 1024 * 1024,
        *,
        copies: bool = True,
        name: str = "memory",
    ) -> None:
        self.max_entries = settings.count("max_entries", max_entries)
        self.max_bytes = settings.count("max_bytes", max_bytes)
        self.copies = settings.flag("copies", copies)
        self.name = settings.text("name", name)
        self._lock = new_lock()
        # In the order of storing: each put takes the key out and puts it in again.
        self._entries: dict[Hashable, Kept] = {}
        self._bytes = 0
        #: The bytes of each entry when they were last counted, and when to count them again.
        self._weights: dict[Hashable, int] = {}
        self._due = now() + WEIGHED_SECONDS
        self._counts = Counts.of(self.name)
        self._counts.watch(self)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def entries(self) -> int:
        """How many values there are."""
        return len(self._entries)

    @property
    def bytes(self) -> int:
        """About how much memory the values took when they were last looked at."""
        return self._bytes

    def get(self, key: Hashable) -> Entry | None:
        """Return the value under `key` with its age, or None if there is none or it is too old."""
        found = self._entries.get(key)
        value, stored, ttl = found or _NOTHING
        age = now() - stored
        if age > ttl:
            self._counts.add("miss")
            return None
        self._counts.add("hit")
        if self.copies and type(value) not in IMMUTABLE:
            value = snapshot(value)
        return Entry(value, age)

    def put(self, key: Hashable, value: Any, ttl: float, moment: float | None = None) -> None:
        """Keep `value`, of `moment` or now, under `key`; the oldest go if there is no room."""
        if type(value) not in IMMUTABLE and self.copies:
            value = snapshot(value)
        if moment is None:
            moment = now()
        entries = self._entries
        kept = (value, moment, ttl)
        try:
            # Nothing is called from here until the new value is there: other threads are let on
            # at calls only, and never find the key without a value.
            replaced = entries[key]  # lives on until then, as its end might call something
            del entries[key]
        except KeyError:
            entries[key] = kept
            is_due = len(entries) - len(self._weights) >= WEIGHED_EVERY
            if is_due or len(entries) > self.max_entries:
                self._make_room(moment)
        else:
            entries[key] = kept
            if moment >= self._due:
                self._make_room(moment)
            del replaced

    def delete(self, key: Hashable) -> None:
        """Forget the value under `key`; harmless if there is none."""
        with self._lock:
            self._entries.pop(key, None)
            self._bytes -= self._weights.pop(key, 0)

    def _make_room(self, moment: float) -> None:
        with self._lock:
            entries, weights = self._entries, self._weights
            self._drop_locked(len(entries) - self.max_entries)
            if moment < self._due and len(entries) - len(weights) < WEIGHED_EVERY:
                return
            # The newest are at the end, those of one key once: a value that is soon replaced is
            # not weighed for nothing.
            since, newest = self._due - WEIGHED_SECONDS, list[Hashable]()
            try:
                for key in reversed(entries):
                    if entries[key][1] < since and key in weights:
                        break
                    newest.append(key)
            except (KeyError, RuntimeError):  # another thread stores just now: at the next value
                return
            self._due = moment + WEIGHED_SECONDS
            for key in newest:
                self._bytes -= weights.pop(key, 0)
                weights[key] = added = weight(entries.get(key, _NOTHING)[0])
                self._bytes += added
            while self._bytes > self.max_bytes and entries:
                self._drop_locked(1 + len(entries) // 16)

    def _drop_locked(self, number: int) -> None:
        for key in self._oldest(max(0, number)):
            self.delete(key)

    def _oldest(self, number: int) -> list[Hashable]:
        while True:
            try:
                return list(islice(self._entries, number))
            except RuntimeError:  # another thread was faster than these two steps
                continue
