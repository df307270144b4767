"""What parts of the library tell about themselves, for metrics and health to show.

Whoever has numbers of its own (an outbox, a store, an event) reports itself here and is read when
somebody looks, so that telemetry knows none of them by name, and none of them knows telemetry.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, final

from resilient.engine.isolation import isolated
from resilient.engine.locks import new_lock
from resilient.engine.weak import WeakGroup

if TYPE_CHECKING:
    from resilient.engine.measures import Histogram

__all__ = ["Condition", "Reading", "Reported", "all_conditions", "all_readings"]


@final
@dataclass(frozen=True, slots=True)
class Reading:
    """One series of a metric, as it is now.

    Attributes:
        name: The metric, without the prefix and without `_total`, such as "outbox_pending".
        help: One line on what it counts; the same for every reading of that name.
        kind: What the value is.
        labels: Few, with few values; every reading of a name has the same ones.
        value: A number, or the `Histogram` itself.
        across: What a gauge comes to over several processes: "sum", or "max" where all of them read
            the same thing, such as the rows of a table, or "min" where one 0 must be seen.
    """

    name: str
    help: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: Mapping[str, str]
    value: float | Histogram
    across: Literal["sum", "max", "min"] = "sum"


@final
@dataclass(frozen=True, slots=True)
class Condition:
    """One line in the answer about health, read from memory in no time.

    Attributes:
        name: Who and what, such as "orders:outbox".
        status: "fail" turns readiness to 503, "warn" is only shown.
        details: What the people on call must see, in the terms of application/health+json.
    """

    name: str
    status: Literal["pass", "warn", "fail"]
    details: Mapping[str, Any] = field(default_factory=dict[str, Any])


class Reported:
    """The base of what is shown by itself, for as long as somebody else keeps it alive."""

    __slots__ = ("__weakref__",)

    def report(self) -> None:
        """Be read from now on by all who look; the last thing that a constructor does."""
        with _lock:
            _reported.add(self)

    def readings(self) -> Iterable[Reading]:
        """Return the numbers to show as metrics."""
        return ()

    def conditions(self) -> Iterable[Condition]:
        """Return the lines to show in the answer about health."""
        return ()


_reported: WeakGroup[Reported] = WeakGroup()
_lock = new_lock()


def _all() -> list[Reported]:
    with _lock:
        return list(_reported)


def all_readings() -> list[Reading]:
    """Return the readings of all, ordered by name; one that fails is isolated."""
    found = [one for each in _all() for one in isolated("readings", [], _readings, each)]
    return sorted(found, key=lambda reading: (reading.name, sorted(reading.labels.items())))


def all_conditions() -> list[Condition]:
    """Return the conditions of all, ordered by name; who cannot tell has that as a warning."""
    found = [
        one for each in _all() for one in isolated("conditions", [_silent(each)], _conditions, each)
    ]
    return sorted(found, key=lambda condition: condition.name)


def _silent(one: Reported) -> Condition:
    return Condition(f"{type(one).__name__}:conditions", "warn", {"output": "cannot be told"})


def _readings(one: Reported) -> list[Reading]:
    return list(one.readings())


def _conditions(one: Reported) -> list[Condition]:
    return list(one.conditions())
