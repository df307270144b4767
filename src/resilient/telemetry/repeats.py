"""A limit on repeats: what happens for the first time is told at once, the rest in summaries.

Ten thousand calls a second that an open circuit rejects are one line, and then one in ten seconds
with their number. The counts of all lines, those without one being 1, are what has happened.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextvars import Context
from operator import itemgetter
from typing import Any, final

from resilient.engine import clock
from resilient.engine.clock import Timer
from resilient.engine.isolation import isolated
from resilient.engine.locks import new_lock

__all__ = ["INTERVAL", "Limit", "Repeats"]

#: Seconds between two summaries.
INTERVAL = 10.0
#: More kinds than this are summed up together, for each event.
MOST_KINDS = 1000
OTHER = "other"

#: Called with the name of an event and its fields.
Tell = Callable[[str, Mapping[str, Any]], object]


@final
class Limit:
    """What tells one kind of an event from another: each is told once, and then summed up."""

    __slots__ = ("kind_of", "whose")

    def __init__(self, whose: str, *more: str) -> None:
        """Name the key of an event for what has failed, and further ones."""
        self.whose = whose
        self.kind_of: Callable[[Mapping[str, Any]], tuple[Any, ...]]
        self.kind_of = itemgetter(whose, whose, *more)  # two at least: of one it makes no tuple


@final
class _Repeat:
    """One kind of event, since it was first told."""

    __slots__ = ("count", "fields", "since")

    def __init__(self) -> None:
        self.since = clock.now()
        #: How many have not been told yet, and the fields of the last of them.
        self.count = 0
        self.fields: Mapping[str, Any] = {}

    def summary_locked(self) -> dict[str, Any]:
        """Return the fields of one line for all that have not been told."""
        summary = {**self.fields, "count": self.count, "for_seconds": clock.now() - self.since}
        self.count = 0
        return summary


@final
class Repeats:
    """What repeats itself at the moment, by kind."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._lock = new_lock()
        self._kinds: dict[tuple[str, tuple[Any, ...]], _Repeat] = {}
        self._timer: Timer | None = None
        # A child, or a test with a clock of its own, has nothing to tell of what was before.
        os.register_at_fork(after_in_child=self.forget)
        clock.followers.append(lambda _now: self.forget())

    def is_first(self, name: str, limit: Limit, fields: Mapping[str, Any]) -> bool:
        """Whether an event is to be told now; if not, it is counted for the next summary."""
        kind = name, limit.kind_of(fields)
        times: int = fields.get("count", 1)
        with self._lock:
            repeat = self._kinds.get(kind)
            if repeat is None and len(self._kinds) >= MOST_KINDS:
                kind, fields = (name, (OTHER,)), {**fields, limit.whose: OTHER}
                repeat = self._kinds.get(kind)
            if repeat is None:
                self._kinds[kind] = _Repeat()
                if self._timer is None:
                    self._timer = clock.current.later(INTERVAL, self._due)
                return True
            repeat.count += times
            repeat.fields = fields
            return False

    def end(self, whose: object) -> None:
        """Tell what has not been told of a dependency: an outage is over, the next one is new."""
        with self._lock:
            ended = {kind: one for kind, one in self._kinds.items() if kind[1][0] == whose}
            for kind in ended:
                del self._kinds[kind]
            summaries = [
                (kind[0], one.summary_locked()) for kind, one in ended.items() if one.count
            ]
        self._tell_all(summaries)

    def flush(self) -> None:
        """Tell all that has not been told, and forget what has not happened for a while."""
        with self._lock:
            self._timer = None
            self._kinds = {kind: one for kind, one in self._kinds.items() if one.count}
            summaries = [(kind[0], one.summary_locked()) for kind, one in self._kinds.items()]
            if self._kinds:
                self._timer = clock.current.later(INTERVAL, self._due)
        self._tell_all(summaries)

    def _due(self) -> None:
        # Sinks may take long, and the thread of timers is for all.
        if not clock.current.background(self.flush):
            self.flush()

    def _tell_all(self, summaries: list[tuple[str, dict[str, Any]]]) -> None:
        for name, fields in summaries:
            # Whoever happens to be called now has not made those calls: none of its context.
            isolated("event sink", None, Context().run, self._tell, name, fields)

    def forget(self) -> None:
        """Begin anew, and tell nothing of what was."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = None
            self._kinds = {}
