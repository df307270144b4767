"""Answers in memory: bounded, and nobody's to change."""

# What returns Any may be a coroutine, for all that a type checker knows.
# pyright: reportUnusedCoroutine=false, reportIndexIssue=false, reportAttributeAccessIssue=false

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from resilient import MemoryStore, cached, with_fallback
from resilient.degrade.stores.snapshot import snapshot, weight
from resilient.engine.isolation import broken
from resilient.engine.reported import all_readings
from resilient.testing import VirtualTime
from tests.doubles import Scripted, each
from tests.hard_cases.crowd import crowd, errors


def test_a_caller_who_changes_an_answer_changes_nobody_elses(virtual_time: VirtualTime) -> None:
    """Neither the one who made the call nor one who was served can change what is kept."""
    guarded = with_fallback(cached(ttl=60))(Scripted(["a", {"b": [1]}], ConnectionError))
    mine = guarded()
    mine[1]["b"].append(2)
    mine.append("mine")
    served = guarded()
    assert served == ["a", {"b": [1]}]
    served[1]["b"].append(3)
    assert guarded() == ["a", {"b": [1]}]


async def test_those_who_share_a_call_do_not_share_its_value() -> None:
    """A hundred waiters of one call have a list each."""
    import asyncio

    @with_fallback(cached(ttl=60, fresh_for=10))
    async def load() -> list[str]:
        await asyncio.sleep(0.01)
        return ["a"]

    answers = await asyncio.gather(*(load() for _ in range(100)))
    assert answers == [["a"]] * 100
    assert len({id(one) for one in answers}) == 100


class Locked:
    def __init__(self) -> None:
        self.lock = threading.Lock()


def test_what_cannot_be_copied_is_not_kept_unless_copies_are_not_asked_for(
    virtual_time: VirtualTime,
) -> None:
    """An object with a lock in it is no answer to keep, and that is counted."""
    before = broken["cache store"]
    guarded = with_fallback(cached(ttl=60), "instead")(Scripted(Locked(), ConnectionError))
    assert [type(guarded()), guarded()] == [Locked, "instead"]
    assert broken["cache store"] == before + 1
    shared = cached(ttl=60, store=MemoryStore(copies=False))
    answer = Locked()
    guarded = with_fallback(shared, "instead")(Scripted(answer, ConnectionError))
    assert [guarded(), guarded()] == [answer, answer]


@each(
    "value",
    {
        "nested": [1, [2, {"a": (3, [4])}]],
        "set": {1, 2},
        "object": Scripted("a"),
        "in a tuple": (1, [2]),
        "key of a mapping": {(1, 2): [3]},
    },
)
def test_a_snapshot_shares_nothing_that_can_change(value: Any) -> None:
    """All that can change is another object of the same type and content."""
    copied = snapshot(value)
    assert type(copied) is type(value)
    assert copied is not value
    assert repr(copied)[:20] == repr(value)[:20]


def test_a_value_that_contains_itself_can_be_kept(virtual_time: VirtualTime) -> None:
    """A list in itself is copied, not followed for ever."""
    endless: list[Any] = ["a"]
    endless.append(endless)
    guarded = with_fallback(cached(ttl=60))(Scripted(endless, ConnectionError))
    guarded()
    assert guarded()[0] == "a"


def test_it_is_bounded_by_bytes(virtual_time: VirtualTime) -> None:
    """A thousand large values do not take more than they may, give or take one look."""
    store = MemoryStore(max_bytes=1_000_000)
    for number in range(1000):
        store.put(number, b"x" * 10_000, 60)
    assert store.bytes <= 1_000_000
    assert len(store) * 10_000 <= 1_000_000 + 64 * 10_100
    assert store.get(999) is not None
    assert store.get(0) is None


def test_overwriting_one_key_takes_the_room_of_one(virtual_time: VirtualTime) -> None:
    """What takes the place of another is not counted twice, nor is what was deleted."""
    store = MemoryStore()
    for number in range(1000):
        store.put("one", b"x" * 1000, 60)
        store.put(number, "", 60)
        store.delete(number)
    virtual_time.advance(1)
    store.put("one", b"x" * 1000, 60)
    assert 1000 <= store.bytes <= 1200
    assert len(store) == 1


def test_its_bytes_are_right_under_threads() -> None:
    """After many threads have written and deleted at once, the sum is that of what is there."""
    store = MemoryStore(max_entries=100)

    def act(index: int) -> None:
        for number in range(500):
            store.put((index * number) % 150, b"x" * 100, 60)
            if number % 7 == 0:
                store.delete(number % 150)

    assert errors(crowd(8, act)) == []
    store._make_room(store._due)
    assert len(store) <= 100
    assert store.bytes == pytest.approx(len(store) * weight(b"x" * 100), rel=0.1)


def test_what_is_stored_while_the_oldest_are_looked_for_spoils_nothing(
    virtual_time: VirtualTime,
) -> None:
    """A store that is full takes the values of several threads at once."""

    class Busy(dict[Any, Any]):
        """Has another thread store something as soon as somebody begins to look through it."""

        def __iter__(self) -> Iterator[Any]:
            looking = super().__iter__()
            if others:
                self[others.pop()] = ("of another thread", 0.0, 60.0)
            return looking

    others: list[str] = []
    store = MemoryStore(max_entries=2)
    store._entries = Busy()
    for key in ("a", "b"):
        store.put(key, key, 60)
    others.append("c")
    store.put("d", "d", 60)
    assert [*store._entries] == ["b", "d", "c"]
    store.put("e", "e", 60)
    assert [*store._entries] == ["c", "e"]


def test_what_is_stored_while_others_are_weighed_is_weighed_the_next_time(
    virtual_time: VirtualTime,
) -> None:
    """A thread that stores in the midst of it spoils neither the look nor the sum."""

    class Meddling:
        def __hash__(self) -> int:
            if meddles:
                meddles.clear()
                store.put("meanwhile", b"x" * 1000, 60)
            return 1

        def __eq__(self, other: object) -> bool:
            return self is other

    meddles: list[bool] = []
    store = MemoryStore()
    store.put("before", b"x" * 1000, 60)
    store.put(Meddling(), b"x" * 1000, 60)
    meddles.append(True)
    store._make_room(store._due)
    assert (len(store), meddles) == (3, [])
    store._make_room(store._due)
    assert store.bytes == 3 * weight(b"x" * 1000)


def test_a_part_that_is_there_twice_takes_the_room_of_one() -> None:
    """A list that names one text a thousand times is not as large as a thousand texts."""
    text = "x" * 10_000
    assert weight([text] * 1000) < 2 * len(text)
    assert weight([text, [text]]) - weight([[text]]) < 100


def test_hits_misses_and_contents_are_metrics(virtual_time: VirtualTime) -> None:
    """Stores of one name are counted together."""
    store = MemoryStore(name="shown")
    store.put("a", "b", 60)
    store.get("a")
    store.get("b")
    shown = {
        (one.name, one.labels.get("result")): one.value
        for one in all_readings()
        if one.labels.get("store") == "shown"
    }
    assert shown["cache_lookups", "hit"] == 1
    assert shown["cache_lookups", "miss"] == 1
    assert shown["cache_entries", None] == 1
