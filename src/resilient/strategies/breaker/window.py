"""What the last calls came to, at the same cost for each, however long the window is."""

from __future__ import annotations

from typing import Protocol, final

__all__ = ["CountWindow", "TimeWindow", "Window"]

_FAILED = 1
_SLOW = 2
BUCKETS = 10


class Window(Protocol):
    """The calls, failures and slow calls of a stretch of the past."""

    #: Seconds to which the times of calls matter, or None if only their order does.
    resolution: float | None
    calls: int
    failures: int
    slow: int

    def advance(self, now: float) -> None:
        """Forget what is too old at `now`."""

    def add(self, now: float, *, failed: bool, slow: bool) -> None:
        """Count one call that ended at `now`."""

    def add_successes(self, count: int, now: float) -> None:
        """Count `count` calls that ended well, none of them slow, by `now`."""

    def clear(self) -> None:
        """Forget everything."""


@final
class CountWindow:
    """The last `size` calls, one byte each."""

    __slots__ = ("_at", "_ring", "calls", "failures", "size", "slow")

    resolution: float | None = None

    def __init__(self, size: int) -> None:
        self.size = size
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        # Grown as calls come in: an idle breaker with a long window costs nothing.
        self._ring = bytearray()
        self._at = 0
        self.calls = self.failures = self.slow = 0

    def advance(self, now: float) -> None:
        """Do nothing: calls leave when others come."""

    def add(self, now: float, *, failed: bool, slow: bool) -> None:
        """Count one call in place of the oldest."""
        flags = _FAILED * failed + _SLOW * slow
        if len(self._ring) < self.size:
            self._ring.append(flags)
            self.calls += 1
        else:
            oldest = self._ring[self._at]
            self.failures -= oldest & _FAILED
            self.slow -= (oldest & _SLOW) >> 1
            self._ring[self._at] = flags
            self._at = (self._at + 1) % self.size
        self.failures += failed
        self.slow += slow

    def add_successes(self, count: int, now: float) -> None:
        """Count `count` calls in place of the oldest, in slices rather than one by one."""
        ring = self._ring
        growth = min(count, self.size - len(ring))
        if growth:
            ring.extend(bytes(growth))
            self.calls += growth
            count -= growth
        count = min(count, self.size)
        while count:
            end = min(self._at + count, self.size)
            if self.failures or self.slow:
                both = ring.count(_FAILED | _SLOW, self._at, end)
                self.failures -= both + ring.count(_FAILED, self._at, end)
                self.slow -= both + ring.count(_SLOW, self._at, end)
                ring[self._at : end] = bytes(end - self._at)
            count -= end - self._at
            self._at = end % self.size


@final
class TimeWindow:
    """The last `seconds`, in ten parts of which the oldest leaves as a whole."""

    __slots__ = ("_buckets", "_newest", "calls", "failures", "resolution", "slow")

    resolution: float | None

    def __init__(self, seconds: float) -> None:
        self.resolution = seconds / BUCKETS
        self._newest: int | None = None
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._buckets = [[0, 0, 0] for _ in range(BUCKETS)]
        self.calls = self.failures = self.slow = 0

    def advance(self, now: float) -> None:
        """Let the parts go that have become too old."""
        assert self.resolution is not None
        newest = int(now // self.resolution)
        if self._newest is None:
            self._newest = newest
        for passed in range(self._newest + 1, min(newest, self._newest + BUCKETS) + 1):
            bucket = self._buckets[passed % BUCKETS]
            self.calls -= bucket[0]
            self.failures -= bucket[1]
            self.slow -= bucket[2]
            bucket[:] = 0, 0, 0
        if newest > self._newest:
            # After a gap, the parts have all been emptied; which is which does not matter.
            self._newest = newest

    def _bucket(self, now: float) -> list[int] | None:
        """Return the part that `now` belongs to, or None if that has left already."""
        self.advance(now)
        assert self.resolution is not None
        assert self._newest is not None
        index = int(now // self.resolution)
        return self._buckets[index % BUCKETS] if index > self._newest - BUCKETS else None

    def add(self, now: float, *, failed: bool, slow: bool) -> None:
        """Count one call in the part that `now` belongs to."""
        bucket = self._bucket(now)
        if bucket is not None:
            bucket[0] += 1
            bucket[1] += failed
            bucket[2] += slow
            self.calls += 1
            self.failures += failed
            self.slow += slow

    def add_successes(self, count: int, now: float) -> None:
        """Count `count` calls in the part that `now` belongs to."""
        bucket = self._bucket(now)
        if bucket is not None:
            bucket[0] += count
            self.calls += count
