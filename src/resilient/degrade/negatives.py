"""Errors that are answers: remembered for a while where a user says so, else never."""

from __future__ import annotations

from types import TracebackType
from typing import final

from resilient.degrade.stores.memory import MemoryStore
from resilient.engine import clock, settings
from resilient.engine.isolation import isolated
from resilient.engine.key import Key
from resilient.engine.outcome import Outcome
from resilient.errors import InvalidSetting
from resilient.strategies.matching import Matches, error_matcher

__all__ = ["Negatives"]

_MOST = 10_000


@final
class Negatives:
    """The last errors of some kinds, by key; in this process only, as errors are no data."""

    def __init__(self, matches: Matches | None, seconds: float) -> None:
        self.seconds = settings.seconds("negative_for", seconds)
        self._matches = None if matches is None else error_matcher("negative", matches)
        if (matches is None) != (self.seconds == 0):
            raise InvalidSetting(
                "negative_for", seconds, "above 0 together with negative=, which errors are answers"
            )
        self._store = MemoryStore(_MOST, copies=False, name="negative")

    def note(self, key: Key, outcome: Outcome) -> None:
        """Remember the error of a call, if it is an answer."""
        error = outcome.error
        if error is None or self._matches is None:
            return
        if isolated("negative", False, self._matches, error):
            self._store.put(key, (error, error.__traceback__), self.seconds)

    def find(self, key: Key) -> Outcome | None:
        """Return the error that is the answer for `key`, as it was raised, or None."""
        entry = self._store.get(key) if self._matches is not None else None
        if entry is None:
            return None
        error: Exception
        traceback: TracebackType | None
        error, traceback = entry.value
        error.__traceback__ = traceback
        now = clock.now()
        return Outcome(None, error, now, now)

    def forget(self, key: Key) -> None:
        """Forget the error for `key`."""
        self._store.delete(key)
