"""The last good answer, served when there is no new one."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Never

from resilient.degrade.flights import Flights
from resilient.degrade.stores import Entry, Store
from resilient.degrade.stores.guarded import GuardedStore
from resilient.degrade.stores.memory import MemoryStore
from resilient.degrade.tier import Answer, Tier
from resilient.engine import clock, settings
from resilient.engine.callables import plain_name
from resilient.engine.isolation import isolated, report_broken
from resilient.engine.key import Key, KeyFunction, KeySetting, key_function
from resilient.engine.outcome import Outcome
from resilient.engine.steps import Steps
from resilient.errors import InvalidSetting, InvalidUse, NothingToServe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from resilient.engine.call import Call
    from resilient.engine.strategy import Target

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
        store: Where answers are kept; in memory unless given.
        store_timeout: The most seconds that a store other than memory may take.

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

    def __init__(
        self,
        ttl: float,
        key: KeySetting = None,
        *,
        fresh_for: float = 0.0,
        store: Store | None = None,
        store_timeout: float = 0.1,
    ) -> None:
        super().__init__()
        self.ttl = settings.seconds("ttl", ttl, above_zero=True)
        self.key = key
        if key is not None and not isinstance(key, str) and not callable(key):
            raise InvalidSetting("key", key, 'a template such as "rec:{user_id}", or a function')
        self.fresh_for = settings.seconds("fresh_for", fresh_for)
        if self.fresh_for > self.ttl:
            raise InvalidSetting("fresh_for", fresh_for, f"at most ttl ({ttl:g})")
        self._memory = store if isinstance(store, MemoryStore) else None
        self._guarded: GuardedStore | None = None
        if store is None:
            self._memory = MemoryStore()
        elif self._memory is None:
            if not all(callable(getattr(store, method, None)) for method in ("get", "put")):
                raise InvalidSetting("store", store, "an object with the methods of a Store")
            timeout = settings.seconds("store_timeout", store_timeout, above_zero=True)
            self._guarded = GuardedStore(store, timeout)
        self.flights = Flights()
        self._key: KeyFunction | None = None
        self._namespace: object = None

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
        return tier

    def key_of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Key | None:
        """Return the key of a call, or None if it has none."""
        if self._key is None:
            return None
        key = isolated("cache key", None, self._key, args, kwargs)
        if key is None or self._namespace is None:
            return key
        return (self._namespace, key)

    @property
    def keeps_at_once(self) -> bool:
        """Whether keeping an answer is so cheap that the fast lane can do it."""
        return self._memory is not None and self.fresh_for == 0.0

    def keeper(self) -> Callable[[tuple[Any, ...], Mapping[str, Any], Any, float], bool]:
        """Return the function that keeps an answer in memory, for the fast lane.

        All that does not change from call to call is looked up here, once.
        """
        assert self._memory is not None
        assert self._key is not None
        key, put, ttl, namespace = self._key, self._memory.put, self.ttl, self._namespace

        def keep(
            args: tuple[Any, ...], kwargs: Mapping[str, Any], value: Any, _seconds: float
        ) -> bool:
            try:
                own_key = key(args, kwargs)
                if own_key is not None:
                    put(own_key if namespace is None else (namespace, own_key), value, ttl)
            except Exception as error:
                report_broken("cache key", error)
            return True

        return keep

    def keep_now(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], value: Any) -> None:
        """Keep an answer in memory."""
        if self._memory is not None and self._key is not None:
            self.keeper()(args, kwargs, value, 0.0)

    def keep(self, call: Call, value: Any) -> Steps[None]:
        """Keep the answer of `call`."""
        if self._guarded is None:
            self.keep_now(call.args, call.kwargs, value)
            return
        key = self.key_of(call.args, call.kwargs)
        if key is not None:
            yield from self._guarded.put(call, key, value, self.ttl)

    def find(self, call: Call, key: Key, oldest: float) -> Steps[Entry | None]:
        """Return what is stored under `key`, if it is not older than `oldest` seconds."""
        found: Entry | None
        if self._guarded is None:
            assert self._memory is not None
            found = isolated("cache store", None, self._memory.get, key)
        else:
            found = yield from self._guarded.get(call, key)
        return found if found is not None and found.age <= oldest else None

    def answer(self, call: Call, failed: Outcome) -> Steps[Answer]:
        """Serve the stored answer, with its age."""
        key = self.key_of(call.args, call.kwargs)
        entry = None if key is None else (yield from self.find(call, key, self.ttl))
        now = clock.now()
        if entry is None:
            why = "this call has no stable key" if key is None else "nothing is stored for this key"
            return Answer(Outcome(None, NothingToServe(f"{call.name}: cached: {why}"), now, now))
        return Answer(Outcome(entry.value, None, now, now), entry.age)


cached = Cached
