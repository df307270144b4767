"""A store that may be slow or down, guarded by the library's own strategies.

A cache must not become a dependency: a store that hangs costs its limit for three calls, and is
then left alone until a probe finds it well again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, final

from resilient.degrade.stores import Entry, Store
from resilient.engine.call import Call
from resilient.engine.isolation import report_broken
from resilient.engine.outcome import Outcome
from resilient.engine.pipeline import Pipeline
from resilient.engine.steps import Proceed, Steps
from resilient.errors import CallRejected
from resilient.strategies.breaker.breaker import CircuitBreaker
from resilient.strategies.bulkhead import Bulkhead
from resilient.strategies.timeout import Timeout

__all__ = ["GuardedStore"]


class _StoreTimeout(Timeout):
    """A limit that also takes a blocking store off the event loop."""

    def steps(self, call: Call, proceed: Proceed) -> Steps[Outcome]:
        call.workers = self._need_workers()
        return (yield from super().steps(call, proceed))


@final
class GuardedStore:
    """The methods of a store as steps, with a limit and a breaker around them."""

    def __init__(self, store: Store, seconds: float) -> None:
        self._store = store
        name = f"{type(store).__name__} of a cache"
        breaker = CircuitBreaker(fail_max=3)
        limit = _StoreTimeout(seconds, max_abandoned=8)
        # Fewer at once than there are workers, for which a task cannot wait.
        turns = Bulkhead(limit.max_workers // 2, max_waiting=10_000)
        self._pipeline = Pipeline(breaker, limit, turns, name=name)

    def get(self, call: Call, key: Hashable) -> Steps[Entry | None]:
        """Return the entry under `key`, or None if there is none or the store does not answer."""
        entry = yield from self._ask(call, self._store.get, key)
        if isinstance(entry, Entry) and isinstance(entry.age, int | float):
            return entry
        return None

    def put(self, call: Call, key: Hashable, value: Any, ttl: float) -> Steps[None]:
        """Store `value`, if the store answers."""
        yield from self._ask(call, self._store.put, key, value, ttl)

    def _ask(self, call: Call, method: Callable[..., Any], *args: Any) -> Steps[Any]:
        asking = Call(self._pipeline, method, args, {}, is_async=call.is_async)
        outcome = yield from self._pipeline.steps(asking)
        if outcome.error is not None and not isinstance(outcome.error, CallRejected):
            report_broken("cache store", outcome.error)
        return outcome.value
