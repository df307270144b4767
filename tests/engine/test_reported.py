"""Parts of the library that tell metrics and health about themselves."""

from __future__ import annotations

import gc
from collections.abc import Iterable

from resilient.engine.reported import Condition, Reading, Reported, all_conditions, all_readings


class Pool(Reported):
    """Something with a number and a condition of its own."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.report()

    def readings(self) -> Iterable[Reading]:
        """Return one number."""
        yield Reading("pool_size", "Members", "gauge", {"pool": self.name}, 3)

    def conditions(self) -> Iterable[Condition]:
        """Return one condition."""
        yield Condition(f"{self.name}:pool", "pass")


class Broken(Pool):
    """Something whose numbers cannot be read."""

    def readings(self) -> Iterable[Reading]:
        """Fail on the way."""
        yield Reading("pool_size", "Members", "gauge", {"pool": "half"}, 1)
        raise RuntimeError("lost")

    def conditions(self) -> Iterable[Condition]:
        """Fail at once."""
        raise RuntimeError("lost")


def test_what_reports_itself_is_read_in_order_for_as_long_as_it_lives() -> None:
    """Readings and conditions come ordered by name, and end with their owner."""
    second, first = Pool("test-b"), Pool("test-a")
    readings = [one.labels["pool"] for one in all_readings() if one.name == "pool_size"]
    assert readings == ["test-a", "test-b"]
    conditions = [one.name for one in all_conditions() if one.name.startswith("test-")]
    assert conditions == ["test-a:pool", "test-b:pool"]
    del first, second
    gc.collect()
    assert not [one for one in all_readings() if one.name == "pool_size"]


def test_one_that_cannot_be_read_hides_no_other() -> None:
    """A part that raises is left out, whole; health says so, and the others are shown."""
    broken, whole = Broken("test-broken"), Pool("test-whole")
    readings = [one.labels["pool"] for one in all_readings() if one.name == "pool_size"]
    assert readings == ["test-whole"]
    conditions = [one.name for one in all_conditions() if one.name.startswith("test-")]
    assert conditions == ["test-whole:pool"]
    [silent] = [one for one in all_conditions() if one.name == "Broken:conditions"]
    assert silent.status == "warn"
    del broken, whole


class Silent(Reported):
    """Something that has nothing to tell."""

    def __init__(self) -> None:
        self.report()


def test_one_that_has_nothing_to_tell_is_shown_nowhere() -> None:
    """What it leaves out is nothing that could not be read."""
    silent = Silent()
    assert (list(silent.readings()), list(silent.conditions())) == ([], [])
    all_readings()
    assert not [one for one in all_conditions() if one.name.startswith("Silent")]
