"""What was found, ready to be shown or stored."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.spread import Spread

__all__ = ["Bar", "Line", "Report", "Table"]


@dataclass(frozen=True, slots=True)
class Line:
    """One row: what was found in the unit of its table, and how many times something else.

    `kind` is "ours", "unit" or "other".
    """

    name: str
    value: Spread
    times: Spread | None = None
    kind: str = "other"


@dataclass(frozen=True, slots=True)
class Table:
    """Rows that belong together.

    `unit` is "seconds", "bytes" or "times"; `of` says what takes them, and `times_of` what the
    second figure of each row is compared with. `name` is that of the picture's file.
    """

    name: str
    title: str
    unit: str
    of: str
    times_of: str
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Bar:
    """What was set out to be reached, and what was found.

    Either `at_most` or `at_least` is the bar, for the median. The run fails where the median is
    beyond `fails_beyond`, which leaves a margin for the machine; without it, a miss is only told.
    """

    row: str
    to: str
    found: Spread
    unit: str = "times"
    at_most: float | None = None
    at_least: float | None = None
    fails_beyond: float | None = None

    @property
    def is_met(self) -> bool:
        """Whether the median reaches the bar."""
        median = self.found.median
        return (self.at_most is None or median <= self.at_most) and (
            self.at_least is None or median >= self.at_least
        )

    @property
    def fails(self) -> bool:
        """Whether the median is so far off that the run fails."""
        if self.fails_beyond is None or self.is_met:
            return False
        median = self.found.median
        return median > self.fails_beyond if self.at_least is None else median < self.fails_beyond


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that one run has found."""

    facts: dict[str, str]
    rounds: int
    bars: tuple[Bar, ...]
    tables: tuple[Table, ...]

    def as_data(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> Report:
        """Return what `as_data` was made from."""
        return cls(
            data["facts"],
            data["rounds"],
            tuple(map(_bar, data["bars"])),
            tuple(map(_table, data["tables"])),
        )


def _bar(data: dict[str, Any]) -> Bar:
    values: dict[str, Any] = {**data, "found": Spread(**data["found"])}
    return Bar(**values)


def _table(data: dict[str, Any]) -> Table:
    values: dict[str, Any] = {**data, "lines": tuple(map(_line, data["lines"]))}
    return Table(**values)


def _line(data: dict[str, Any]) -> Line:
    times = data["times"]
    spreads = {"value": Spread(**data["value"]), "times": times and Spread(**times)}
    values: dict[str, Any] = {**data, **spreads}
    return Line(**values)
