"""One cache's part of a store: under which names its answers are there, and in which form."""

from __future__ import annotations

import math
import os
import random
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, final

from resilient.degrade.stores import Entry
from resilient.degrade.stores.behind import Done
from resilient.degrade.stores.codec import Codec
from resilient.degrade.stores.guarded import GuardedStore
from resilient.degrade.stores.memory import MemoryStore
from resilient.degrade.stores.naming import name_of
from resilient.degrade.stores.sealed import Rubbish, opened, sealed, wall
from resilient.degrade.stores.snapshot import IMMUTABLE, snapshot
from resilient.engine import clock
from resilient.engine.call import Call
from resilient.engine.isolation import isolated, report_broken
from resilient.engine.key import Key
from resilient.engine.limits import Limit, tighter
from resilient.engine.outcome import Outcome
from resilient.engine.steps import Steps
from resilient.errors import CallRejected

__all__ = ["MemoryShelf", "RemoteShelf", "Shelf"]

#: What was deleted and is not gone from the store yet: older than anybody takes.
_GONE = Entry(None, math.inf)
#: A store forgets an answer up to this part later than its time, not all of them at once.
_JITTER = 0.1
#: Of its own: what is drawn behind a call must not change what a program draws that has set a seed.
_drawn = random.Random()
os.register_at_fork(after_in_child=_drawn.seed)
#: Under which what is to be given back waits, next to the key.
_LEASE = "lease"
_LEASE_SECONDS = 5.0

new = tuple.__new__
#: How often what must not be lost is tried, while the store is not found to be down.
_ATTEMPTS = 5


class Claim(NamedTuple):
    """Who has the call for a key, and under which token if that is known."""

    is_ours: bool
    token: str


class Shelf(Protocol):
    """Where a cache keeps its answers."""

    #: The most that one call asks of it before it is made.
    seconds: float

    @property
    def put(self) -> Callable[[Key, Any, float, float], None]:
        """The function that keeps a value under a key for some seconds from a moment on."""
        ...

    def at_hand(self, key: Key) -> Entry | None:
        """Return the entry under `key`, if that takes no time."""
        ...

    def find(
        self, call: Call, key: Key, oldest: float, within: Limit | None
    ) -> Steps[Entry | None]:
        """Return the entry under `key`, if it is not older than `oldest` seconds."""
        ...

    def claim(self, call: Call, key: Key, within: Limit) -> Steps[Claim | None]:
        """Take the call for `key` from all other processes; None where nobody can say."""
        ...

    def release(self, key: Key, token: str) -> None:
        """Give the call for `key` back."""
        ...

    def delete(self, key: Key) -> None:
        """Forget the entry under `key`."""
        ...


@final
class MemoryShelf:
    """Answers in memory."""

    seconds = 0.0

    def __init__(self, store: MemoryStore) -> None:
        self.put = store.put
        self.delete = store.delete
        self._store = store

    def at_hand(self, key: Key) -> Entry | None:
        """Return the entry under `key`."""
        return isolated("cache store", None, self._store.get, key)

    def find(
        self, call: Call, key: Key, oldest: float, within: Limit | None
    ) -> Steps[Entry | None]:
        """Return the entry under `key`, if it is not older than `oldest` seconds."""
        yield from ()
        entry = self.at_hand(key)
        return entry if entry is not None and entry.age <= oldest else None

    def claim(self, call: Call, key: Key, within: Limit) -> Steps[Claim | None]:
        """Nobody else has access to this memory."""
        yield from ()
        return None

    def release(self, key: Key, token: str) -> None:
        """Nothing was taken."""


@final
class RemoteShelf:
    """Answers outside of the process: named, sealed, and written behind the call."""

    def __init__(
        self, guarded: GuardedStore, codec: Codec, version: str, label: str, *, readable: bool
    ) -> None:
        self.guarded = guarded
        self.codec = codec
        self.version = version
        self.label = label
        self.readable = readable
        self.seconds = guarded.seconds
        self._scope = f"{len(version)}:{version}{codec.name}"
        self._behind = guarded.behind.put

    def name_of(self, key: Key) -> str:
        """Return the name of the answer for `key`."""
        return name_of(key, self.version, self.label, readable=self.readable)

    def put(self, key: Key, value: Any, ttl: float, moment: float) -> None:
        """Have `value`, which is of `moment`, written soon; as it is now."""
        if type(value) not in IMMUTABLE:
            value = snapshot(value)
        if self.guarded.is_async:
            self.guarded.note_loop()
        # A part of the fast lane: this is the fastest way to make a value.
        answer = new(_Answer, (self, key, value, ttl, moment))
        self._behind((self._scope, key), answer)

    def at_hand(self, key: Key) -> Entry | None:
        """Return what waits to be written."""
        waiting = self.guarded.behind.get((self._scope, key))
        return None if waiting is None else waiting.entry()

    def find(
        self, call: Call, key: Key, oldest: float, within: Limit | None
    ) -> Steps[Entry | None]:
        """Return the entry under `key`, if it is not older than `oldest` seconds."""
        counts = self.guarded.counts
        waiting = self.at_hand(key)
        if waiting is not None and (waiting is _GONE or waiting.age <= oldest):
            counts.add("miss" if waiting is _GONE else "hit")
            return None if waiting is _GONE else waiting
        name = isolated("cache key", None, self.name_of, key)
        if name is None:
            return None
        began = clock.now()
        spent = call.looked.get(self.guarded, 0.0)
        if spent >= self.seconds:  # it was asked before the call was made, and had its time
            counts.add("unavailable")
            return None
        if spent:
            left = Limit(began + self.seconds - spent, self.seconds, f"{call.name}: cached", self)
            within = tighter(within, left)
        outcome: Outcome = yield from self.guarded.get(call, name, within)
        if outcome.error is not None:
            counts.add("unavailable")
            self._note_in_vain(call, began)
        elif outcome.value is None:
            counts.add("miss")
        else:
            try:
                entry = opened(name, self.codec, outcome.value)
            except Rubbish as error:
                counts.add("rubbish")
                report_broken("cache store", error)
                return None
            counts.add("hit" if entry.age <= oldest else "miss")
            return entry if entry.age <= oldest else None
        return None

    def _note_in_vain(self, call: Call, began: float) -> None:
        spent = call.looked.get(self.guarded, 0.0) + clock.now() - began
        call.looked = {**call.looked, self.guarded: spent}

    def claim(self, call: Call, key: Key, within: Limit) -> Steps[Claim | None]:
        """Take the call for `key`, unless another process has it."""
        store: Any = self.guarded.store
        if not hasattr(store, "claim") or within.expired or not self.guarded.is_readable:
            return None  # of what cannot be read, nobody would have the answer
        ours = self.guarded.behind.get((self._scope, key, _LEASE))
        if isinstance(ours, _Release):
            return Claim(True, ours.token)  # not given back yet
        name, token = isolated("cache key", None, self.name_of, key), secrets.token_hex(8)
        if name is None:
            return None
        lease, began = float(getattr(store, "lease", _LEASE_SECONDS)), clock.now()
        outcome: Outcome = yield from self.guarded.write(
            call, store.claim, name, token, lease, within=within
        )
        if outcome.error is None:
            return _claim(outcome.value, token)
        self._note_in_vain(call, began)
        if not isinstance(outcome.error, CallRejected):
            self.release(key, token)  # it may have been taken, though nobody has heard of it
        return None

    def release(self, key: Key, token: str) -> None:
        """Give the call for `key` back, after what was stored has been written."""
        self.guarded.behind.put((self._scope, key, _LEASE), _Release(self, key, token))

    def delete(self, key: Key) -> None:
        """Have the entry deleted soon; nobody in this process is served it from now on."""
        self.guarded.behind.put((self._scope, key), _Deletion(self, key))


def _claim(answer: object, token: str) -> Claim:
    """Return what a store says: the token of who has the call, or only whether it is ours."""
    if isinstance(answer, bytes):
        answer = answer.decode("ascii", "replace")
    if isinstance(answer, str):
        return Claim(answer == token, answer)
    return Claim(True, token) if answer else Claim(False, "")


class _Waiting(ABC):
    """Something to be done to a store, and what is served until it has been."""

    __slots__ = ("key", "shelf")

    def __init__(self, shelf: RemoteShelf, key: Key) -> None:
        self.shelf = shelf
        self.key = key

    def entry(self) -> Entry | None:
        return None

    @abstractmethod
    def write(self) -> Done: ...


class _Answer(NamedTuple):
    shelf: RemoteShelf
    key: Key
    value: Any
    ttl: float
    stored: float

    def entry(self) -> Entry:
        return Entry(snapshot(self.value), clock.now() - self.stored)

    def write(self) -> Done:
        age = clock.now() - self.stored
        guarded = self.shelf.guarded
        if age > self.ttl:
            guarded.counts.add("dropped")
            return Done.FAILED
        made = isolated("cache store", None, self._made, age)
        done = Done.FAILED if made is None else guarded.write_now(guarded.store.put, *made)
        if done is not Done.LATER:
            guarded.counts.add("written" if done is Done.WRITTEN else "failed")
        return done

    def _made(self, age: float) -> tuple[str, bytes, float]:
        name = self.shelf.name_of(self.key)
        data = sealed(name, self.shelf.codec, self.value, wall() - age)
        return name, data, (self.ttl - age) * (1 + _JITTER * _drawn.random())


class _Repeated(_Waiting):
    """What must not be lost: of an answer there will be another, of this there will not."""

    __slots__ = ("attempts",)

    def __init__(self, shelf: RemoteShelf, key: Key) -> None:
        super().__init__(shelf, key)
        self.attempts = 0

    def write(self) -> Done:
        done = self.attempt(self.shelf.guarded, self.shelf.name_of(self.key))
        self.attempts += done is Done.FAILED
        return Done.LATER if done is Done.FAILED and self.attempts < _ATTEMPTS else done

    @abstractmethod
    def attempt(self, guarded: GuardedStore, name: str) -> Done: ...


@final
class _Deletion(_Repeated):
    __slots__ = ()

    def entry(self) -> Entry:
        return _GONE

    def attempt(self, guarded: GuardedStore, name: str) -> Done:
        return guarded.write_now(guarded.store.delete, name)


@final
class _Release(_Repeated):
    __slots__ = ("token",)

    def __init__(self, shelf: RemoteShelf, key: Key, token: str) -> None:
        super().__init__(shelf, key)
        self.token = token

    def attempt(self, guarded: GuardedStore, name: str) -> Done:
        store: Any = guarded.store
        return guarded.write_now(store.release, name, self.token)
