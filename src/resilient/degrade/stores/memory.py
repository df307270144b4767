"""A store in the memory of the process, bounded."""

from __future__ import annotations

from collections.abc import Hashable
from itertools import islice
from typing import Any, final

from resilient.degrade.stores import Entry
from resilient.engine import clock, settings
from resilient.engine.locks import new_lock

__all__ = ["MemoryStore"]


@final
class MemoryStore:
    """Keeps at most `max_entries` values; those stored longest ago go first.

    Values are kept as they are, not copied: treat what a cached function returns as immutable.

    Arguments:
        max_entries: The most values that are kept; 1 or more.

    Example:
        >>> from resilient import MemoryStore
        >>> store = MemoryStore(max_entries=1)
        >>> store.put("a", 1, ttl=60)
        >>> store.put("b", 2, ttl=60)
        >>> store.get("a") is None, store.get("b").value
        (True, 2)
    """

    __slots__ = ("_entries", "_lock", "max_entries")

    def __init__(self, max_entries: int = 10_000) -> None:
        self.max_entries = settings.count("max_entries", max_entries)
        self._lock = new_lock()
        # In the order of storing: each put takes the key out and puts it in again.
        self._entries: dict[Hashable, tuple[Any, float, float]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Hashable) -> Entry | None:
        """Return the value under `key` with its age, or None if there is none or it is too old."""
        found = self._entries.get(key)
        if found is None:
            return None
        value, stored, ttl = found
        age = clock.now() - stored
        return Entry(value, age) if age <= ttl else None

    def put(self, key: Hashable, value: Any, ttl: float) -> None:
        """Keep `value` under `key`, in place of the oldest if there is no room."""
        entry = (value, clock.now(), ttl)
        entries = self._entries
        # Each of these is atomic; between two of them another thread's entry may come first.
        entries.pop(key, None)
        entries[key] = entry
        if len(entries) > self.max_entries:
            self._make_room()

    def _make_room(self) -> None:
        with self._lock:
            for key in list(islice(self._entries, max(0, len(self) - self.max_entries))):
                self._entries.pop(key, None)
