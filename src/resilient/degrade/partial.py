"""An answer of several parts, some of which may be missing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import TypeVar, final

from resilient.degrade.degradations import Degradation, note_degradation
from resilient.engine import signals
from resilient.engine.locks import new_lock
from resilient.engine.measures import MOST_LABELS
from resilient.engine.reported import Reading, Reported

__all__ = ["Partial", "note_missing", "note_wanted"]

T_co = TypeVar("T_co", covariant=True)


@final
class Partial(Mapping[str, T_co]):
    """The parts that there are, by name, and why the others are not; see `gather_partial`.

    Attributes:
        missing: For each part that is missing, the error that it came to.

    Example:
        >>> from resilient import Partial
        >>> page = Partial({"product": "lamp"}, {"reviews": TimeoutError("not back in time")})
        >>> page["product"], page.get("reviews", [])
        ('lamp', [])
        >>> page
        <Partial: product; missing: reviews (TimeoutError)>
    """

    __slots__ = ("_parts", "missing")

    def __init__(self, parts: Mapping[str, T_co], missing: Mapping[str, Exception]) -> None:
        self._parts = dict(parts)
        self.missing: Mapping[str, Exception] = MappingProxyType(dict(missing))

    def __getitem__(self, name: str) -> T_co:
        return self._parts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def __repr__(self) -> str:
        # The values are the user's, and are nobody's business in a log.
        why = (f"{name} ({type(error).__name__})" for name, error in self.missing.items())
        missing = f"; missing: {', '.join(why)}" if self.missing else ""
        return f"<Partial: {', '.join(self._parts)}{missing}>"


@final
class _Missed(Reported):
    """How often each part has been missing."""

    __slots__ = ("_counts", "_lock")

    def __init__(self) -> None:
        self._lock = new_lock()
        self._counts: dict[str, int] = {}
        self.report()

    def add(self, name: str, count: int) -> None:
        with self._lock:
            if name not in self._counts and len(self._counts) >= MOST_LABELS:
                name = "other"
            self._counts[name] = self._counts.get(name, 0) + count

    def readings(self) -> Iterable[Reading]:
        help_text = "Answers that went out without this part"
        for part, count in sorted(self._counts.copy().items()):
            yield Reading("parts_missed", help_text, "counter", {"part": part}, count)


_missed = _Missed()


def note_wanted(names: Iterable[str]) -> None:
    """Have the count of each part be there, from zero."""
    for name in names:
        _missed.add(name, 0)


def note_missing(missing: Mapping[str, Exception]) -> None:
    """Tell everybody who wants to know that an answer goes out without these parts."""
    for name, error in missing.items():
        reason = type(error).__name__
        _missed.add(name, 1)
        note_degradation(Degradation(name, "missing", None, reason))
        signals.emit("resilient.part_missed", part=name, reason=reason)
