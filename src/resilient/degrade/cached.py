"""The last good answer, served when there is no new one."""

from __future__ import annotations

import copy
import sys
from typing import TYPE_CHECKING, Any, Never

from resilient.degrade.flights import Flights
from resilient.degrade.negatives import Negatives
from resilient.degrade.stores import Entry, Store
from resilient.degrade.stores.codec import Codec, JSONCodec, MsgspecCodec
from resilient.degrade.stores.guarded import GuardedStore
from resilient.degrade.stores.memory import MemoryStore
from resilient.degrade.stores.shelf import MemoryShelf, RemoteShelf, Shelf
from resilient.degrade.tier import Answer, Tier
from resilient.engine import clock, settings
from resilient.engine.callables import plain_name
from resilient.engine.isolation import isolated, report_broken
from resilient.engine.key import Key, KeyFunction, KeySetting, key_function
from resilient.engine.outcome import Outcome
from resilient.engine.steps import Steps
from resilient.errors import InvalidSetting, InvalidUse, NothingToServe
from resilient.strategies.matching import Matches

if TYPE_CHECKING:
    from collections.abc import Mapping

    from resilient.engine.call import Call
    from resilient.engine.strategy import Accept, Target

__all__ = ["Cached", "cached"]


class Cached(Tier[Never]):
    """Keeps the answers of calls that succeed, and serves them when calls fail.

    Arguments:
        ttl: The most seconds for which an answer may be served in place of a failed call.
        key: What two calls must have in common to have the same answer: a template of the
            function's parameters such as "rec:{user_id}", a function of the arguments, or None for
            all arguments with their types.
        fresh_for: The seconds for which an answer is served without a call; 0 for not at all.
            Callers who miss at the same time share one call.
        refresh_ahead: In the last so many seconds of `fresh_for` an answer that is asked for is
            also called for again, in the background; 0 for not at all.
        jitter: The part of `fresh_for` by which it is shorter for some keys than for others, 0 to
            1, so that what was stored at one time is not called for at one time.
        negative: The errors that are an answer too, such as a `NotFound`: exception types, or a
            predicate.
        negative_for: The seconds for which such an error is raised without a call, by this process.
        version: To be changed with the meaning of answers: those of another are not served.
        store: Where answers are kept; in memory unless given.
        store_timeout: The most seconds that a store other than memory may take; above 0.
        codec: How values become bytes in a store other than memory; `JSONCodec` unless given.

    An empty answer is an answer; only absence is a miss. A failure never drops a good answer.

    Raises:
        InvalidSetting: If an argument is outside of its range, or the template does not fit.
        InvalidUse: When decorating a generator, whose answer cannot be kept.

    Example:
        >>> from resilient import cached, with_fallback
        >>> answers = iter([["book"], ConnectionError("down")])
        >>> @with_fallback(cached(ttl=3600, key="rec:{user_id}"))
        ... def recommendations_for(user_id: str) -> list[str]:
        ...     answer = next(answers)
        ...     if isinstance(answer, Exception):
        ...         raise answer
        ...     return answer
        >>> recommendations_for("u1")
        ['book']
        >>> recommendations_for("u1")
        ['book']

    Where the rules come from: `stale-if-error` in RFC 5861, and single flight in Go's
    `golang.org/x/sync`.
    """

    name = "cached"
    #: Of a tier that is attached to a function.
    shelf: Shelf
    _key: KeyFunction
    _namespace: object

    def __init__(
        self,
        ttl: float,
        key: KeySetting = None,
        *,
        fresh_for: float = 0.0,
        refresh_ahead: float = 0.0,
        jitter: float = 0.1,
        negative: Matches | None = None,
        negative_for: float = 0.0,
        version: str | int = 1,
        store: Store | MemoryStore | None = None,
        store_timeout: float = 0.1,
        codec: Codec | None = None,
    ) -> None:
        super().__init__()
        self.ttl = settings.seconds("ttl", ttl, above_zero=True)
        self.key = key
        if key is not None and not isinstance(key, str) and not callable(key):
            raise InvalidSetting("key", key, 'a template such as "rec:{user_id}", or a function')
        self.fresh_for = settings.seconds("fresh_for", fresh_for)
        if self.fresh_for > self.ttl:
            raise InvalidSetting("fresh_for", fresh_for, f"at most ttl ({ttl:g})")
        self.refresh_ahead = settings.seconds("refresh_ahead", refresh_ahead)
        if self.refresh_ahead > self.fresh_for:
            raise InvalidSetting(
                "refresh_ahead", refresh_ahead, f"at most fresh_for ({fresh_for:g})"
            )
        self.jitter = settings.seconds("jitter", jitter)
        if self.jitter > 1:
            raise InvalidSetting("jitter", jitter, "0 to 1")
        self.negatives = Negatives(negative, negative_for)
        is_whole = isinstance(version, int) and not isinstance(version, bool)
        if not isinstance(version, str) and not (is_whole and abs(version) <= sys.maxsize):
            raise InvalidSetting("version", version, "a text or a whole number")
        self.version = str(version)
        self._store = MemoryStore() if store is None else store
        self._guarded: GuardedStore | None = None
        if not isinstance(self._store, MemoryStore):
            timeout = settings.seconds("store_timeout", store_timeout, above_zero=True)
            self._guarded = GuardedStore.of(self._store, timeout)
        expected = "an object with the methods of a Codec"
        self.codec = JSONCodec() if codec is None else codec
        settings.having("codec", self.codec, ("encode", "decode"), expected)
        settings.text("codec.name", getattr(self.codec, "name", None))
        self.flights = Flights()

    def __repr__(self) -> str:
        fresh = f", fresh_for={self.fresh_for:g}" if self.fresh_for else ""
        key = plain_name(self.key) if callable(self.key) else repr(self.key)
        return f"cached(ttl={self.ttl:g}, key={key}{fresh})"

    def attach(self, target: Target) -> Cached:
        """Return this tier with the key function for `target`; the store stays the same."""
        if target.is_stream:
            raise InvalidUse(
                f"{target.name} is a generator: what it yields is gone once it is consumed, and "
                "cannot be cached; cache a function that returns a list"
            )
        tier = copy.copy(self)
        tier._key = key_function(self.key, target)
        # Two functions that share a tier do not share answers, unless a template says so.
        tier._namespace = None if isinstance(self.key, str) else target.name
        tier.shelf = self._shelf_for(target)
        return tier

    def _shelf_for(self, target: Target) -> Shelf:
        if self._guarded is None:
            assert isinstance(self._store, MemoryStore)
            return MemoryShelf(self._store)
        if self._guarded.is_async and not target.is_async:
            raise InvalidUse(
                f"{target.name} is synchronous and cannot wait for its cache's asynchronous store"
            )
        codec = self.codec
        if isinstance(codec, MsgspecCodec):
            codec = codec.for_target(target)
        return RemoteShelf(
            self._guarded, codec, self.version, target.name, readable=isinstance(self.key, str)
        )

    def key_of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Key | None:
        """Return the key of a call, or None if it has none."""
        key = isolated("cache key", None, self._key, args, kwargs)
        if key is None or self._namespace is None:
            return key
        return (self._namespace, key)

    @property
    def shares_calls(self) -> bool:
        """Whether a call may be answered without being made."""
        return self.fresh_for > 0 or self.negatives.seconds > 0

    def keeper(self) -> Accept:
        """Return the function that keeps an answer, for the fast lane.

        All that does not change from call to call is looked up here, once.
        """
        key, put, ttl, namespace = self._key, self.shelf.put, self.ttl, self._namespace

        def keep(
            args: tuple[Any, ...],
            kwargs: Mapping[str, Any],
            value: Any,
            _started: float,
            ended: float,
        ) -> bool:
            try:
                own_key = key(args, kwargs)
            except Exception as error:
                report_broken("cache key", error)
                return True
            try:
                if own_key is not None:
                    put(own_key if namespace is None else (namespace, own_key), value, ttl, ended)
            except Exception as error:
                report_broken("cache store", error)
            return True

        return keep

    def keep(self, call: Call, answered: Outcome) -> None:
        """Keep the answer of `call`."""
        keep = self.keeper()
        keep(call.args, call.kwargs, answered.value, answered.started, answered.ended)

    def freshness(self, key: Key) -> float:
        """Return for how long an answer for `key` is fresh; not the same for all keys.

        What was stored at one time is not called for again at one time.
        """
        return self.fresh_for * (1 - self.jitter * (hash(key) % 1024) / 1024)

    def answer(self, call: Call, failed: Outcome) -> Steps[Answer]:
        """Serve the stored answer, with its age."""
        key = self.key_of(call.args, call.kwargs)
        entry: Entry | None = None
        if key is not None:
            entry = yield from self.shelf.find(call, key, self.ttl, None)
        now = clock.now()
        if entry is None:
            why = "this call has no stable key" if key is None else "nothing is stored for this key"
            return Answer(Outcome(None, NothingToServe(f"{call.name}: cached: {why}"), now, now))
        return Answer(Outcome(entry.value, None, now, now), entry.age)


cached = Cached
