"""Stores of users' own, well and unwell."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any


class Shelves:
    """A store that keeps what it is given, and counts how often it is asked."""

    def __init__(self, name: str = "shelves") -> None:
        self.name = name
        self.kept: dict[str, bytes] = {}
        self.asked: Counter[str] = Counter()

    def get(self, name: str) -> Any:
        self.asked["get"] += 1
        return self.kept.get(name)

    def put(self, name: str, data: bytes, ttl: float) -> None:
        self.asked["put"] += 1
        self.kept[name] = data

    def delete(self, name: str) -> None:
        self.asked["delete"] += 1
        self.kept.pop(name, None)


class AsyncShelves:
    """The same for asynchronous functions only; each method takes `seconds`."""

    def __init__(self, wait: Callable[[], Any]) -> None:
        self.inner = Shelves()
        self.wait = wait

    @property
    def asked(self) -> Counter[str]:
        return self.inner.asked

    async def get(self, name: str) -> Any:
        found = self.inner.get(name)
        await self.wait()
        return found

    async def put(self, name: str, data: bytes, ttl: float) -> None:
        self.inner.put(name, data, ttl)
        await self.wait()

    async def delete(self, name: str) -> None:
        self.inner.delete(name)
        await self.wait()


class Unwell(Shelves):
    """A store whose methods do `first`, while it is unwell."""

    def __init__(self, first: Callable[[], Any], name: str = "unwell") -> None:
        super().__init__(name)
        self.first = first
        self.unwell = True

    def _begin(self, method: str) -> None:
        if self.unwell:
            self.asked[method] += 1
            self.first()

    def get(self, name: str) -> Any:
        self._begin("get")
        return super().get(name)

    def put(self, name: str, data: bytes, ttl: float) -> None:
        self._begin("put")
        super().put(name, data, ttl)

    def delete(self, name: str) -> None:
        self._begin("delete")
        super().delete(name)


def refuse() -> None:
    """Fail at once."""
    raise ConnectionRefusedError


class Hanging(Unwell):
    """A store whose methods block until they are released."""

    def __init__(self) -> None:
        self.released = threading.Event()
        super().__init__(lambda: self.released.wait(30), "hanging")
