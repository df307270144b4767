"""Errors that are answers: remembered for a while where a user says so, else never.

They are kept without what they were raised in. A traceback holds every variable of the functions
that it leads through, those of the caller included; of ten thousand errors, that is all memory.
"""

from __future__ import annotations

import copy
from typing import final

from resilient.degrade.stores.memory import MemoryStore
from resilient.engine import clock, settings
from resilient.engine.isolation import isolated
from resilient.engine.key import Key
from resilient.engine.notes import put
from resilient.engine.outcome import Outcome
from resilient.errors import InvalidSetting
from resilient.strategies.matching import Matches, error_matcher

__all__ = ["Negatives"]

_MOST = 10_000
#: So many causes of causes are kept.
_DEEPEST = 5


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
            self._store.put(key, _bare(error), self.seconds)

    def find(self, key: Key) -> Outcome | None:
        """Return the error that is the answer for `key`, as if it was raised here, or None."""
        entry = self._store.get(key) if self._matches is not None else None
        if entry is None:
            return None
        now = clock.now()
        return Outcome(None, _bare(entry.value), now, now)

    def forget(self, key: Key) -> None:
        """Forget the error for `key`."""
        self._store.delete(key)


def _bare(error: Exception, depth: int = 0) -> Exception:
    """Return a copy of `error` with its causes and notes, that was raised nowhere.

    What cannot be copied, or would not be the same, is returned as it is.
    """
    for make in (copy.copy, _made_anew):
        try:
            made = make(error)
            is_same = made.args == error.args and str(made) == str(error)
            if made is error or type(made) is not type(error) or not is_same:
                continue
            if hasattr(error, "__notes__"):
                put(made, "__notes__", error.__notes__[:])
        except Exception:  # whatever an error of a user's does when it is made
            continue
        if isinstance(error.__cause__, Exception) and depth < _DEEPEST:
            put(made, "__cause__", _bare(error.__cause__, depth + 1))
        return made
    return error


def _made_anew(error: Exception) -> Exception:
    """Return a copy of an error that is made of something else than its arguments."""
    made = type(error).__new__(type(error), *error.args)
    vars(made).update(vars(error))
    return made
