"""Code with known races, which an explorer of interleavings has to find."""

from __future__ import annotations

from resilient.engine.locks import new_lock


class Counter:
    """A count that is read, added to and written without a lock."""

    def __init__(self) -> None:
        self.value = 0

    def add(self) -> None:
        self.value += 1


class LockedCounter(Counter):
    """The same, under a lock."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = new_lock()

    def add(self) -> None:
        with self._lock:
            self.value += 1


class ClearedJournal:
    """A journal that is settled by emptying it, with whatever has come since it was read."""

    def __init__(self) -> None:
        self.entries: list[float] = []
        self.settled = 0
        self._lock = new_lock()

    def note(self, seconds: float) -> None:
        self.entries.append(seconds)

    def settle(self) -> None:
        with self._lock:
            self.settled += len(self.entries)
            self.entries.clear()


class CheckedPermits:
    """Permits that are looked at first and taken then."""

    def __init__(self, size: int) -> None:
        self.free = size

    def take(self) -> bool:
        if self.free < 1:
            return False
        self.free -= 1
        return True

    def give(self) -> None:
        self.free += 1


class ForgetfulQueue:
    """A caller that looks, and then queues, without a second look at what came back meanwhile."""

    def __init__(self) -> None:
        self.free = [None]
        self.queue: list[object] = []
        self._lock = new_lock()

    def take(self) -> bool:
        try:
            self.free.pop()
        except IndexError:
            return False
        return True

    def give(self) -> None:
        self.free.append(None)
        if self.queue:
            with self._lock:
                while self.queue and self.take():
                    self.queue.pop(0)

    def wait(self) -> None:
        with self._lock:
            self.queue.append(object())


class TwoLocks:
    """Two locks that are taken in either order."""

    def __init__(self) -> None:
        self._one = new_lock()
        self._other = new_lock()

    def there(self) -> None:
        with self._one, self._other:
            pass

    def back(self) -> None:
        with self._other, self._one:
            pass
