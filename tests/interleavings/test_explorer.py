"""The explorer finds what is planted, and finds nothing where there is nothing."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from tests.interleavings import planted
from tests.interleavings.explorer import Deadlock, Failed, Plan, explore, random_walks, steered


@pytest.fixture(autouse=True)
def _steered() -> Iterator[None]:
    with steered(planted.__file__):
        yield


def counting(kind: type[planted.Counter], threads: int = 2) -> Plan:
    """Return a plan in which each thread adds one."""
    counter = kind()

    def check(_results: list[object]) -> None:
        assert counter.value == threads

    return Plan([counter.add] * threads, check)


def test_a_read_and_a_write_without_a_lock_are_found_to_lose_a_count() -> None:
    """One preemption between the two is enough, and the order of steps is told."""
    with pytest.raises(Failed, match=r"(?s)thread 0 goes on at .*planted.py:\d+ in add"):
        explore(lambda: counting(planted.Counter), preemptions=1)


def test_random_walks_find_it_too() -> None:
    """A seed says how to get there again."""
    with pytest.raises(Failed, match=r"seed \d+"):
        random_walks(lambda: counting(planted.Counter), seeds=range(100))


def test_code_that_runs_for_the_first_time_has_the_same_steps_as_later() -> None:
    """An interpreter adapts code that has run; runs could not be repeated if steps hung on that."""
    scope: dict[str, Any] = {}
    exec(compile("def add(one):\n    one.value += 1\n", planted.__file__, "exec"), scope)
    add = scope["add"]

    def walked() -> int:
        counter = planted.Counter()
        return random_walks(lambda: Plan([partial(add, counter)], lambda _: None), seeds=[1]).steps

    assert [walked() for _ in range(5)] == [2] * 5  # to read, and to write


def test_without_a_preemption_there_is_nothing_to_find() -> None:
    """Threads that run one after the other lose nothing; all their orders are tried."""
    report = explore(lambda: counting(planted.Counter, 3), preemptions=0)
    assert report.complete
    assert report.runs == 6


def test_a_lock_is_respected() -> None:
    """A thread that waits for a lock is not chosen, and nothing is lost."""
    report = explore(lambda: counting(planted.LockedCounter, 2), preemptions=2)
    assert report.complete
    assert report.runs > 40


def test_a_journal_that_is_cleared_instead_of_cut_is_found_to_lose_entries() -> None:
    """What is noted between the count and the emptying is gone."""

    def plan() -> Plan:
        journal = planted.ClearedJournal()
        journal.note(0.1)

        def check(_results: list[object]) -> None:
            journal.settle()
            assert journal.settled == 2

        return Plan([lambda: journal.note(0.2), journal.settle], check)

    with pytest.raises(Failed):
        explore(plan, preemptions=1)


def test_permits_that_are_looked_at_before_they_are_taken_are_found_to_be_given_twice() -> None:
    """Two threads see the one permit."""

    def plan() -> Plan:
        permits = planted.CheckedPermits(1)

        def check(results: list[object]) -> None:
            assert results.count(True) == 1

        return Plan([permits.take] * 2, check)

    with pytest.raises(Failed):
        explore(plan, preemptions=1)


def test_a_wakeup_that_is_lost_is_found() -> None:
    """A permit that comes back between a look and a place in the queue wakes nobody."""

    def plan() -> Plan:
        permits = planted.ForgetfulQueue()
        assert permits.take()

        def wait() -> None:
            if not permits.take():
                permits.wait()

        def check(_results: list[object]) -> None:
            assert not (permits.queue and permits.free)

        return Plan([wait, permits.give], check)

    with pytest.raises(Failed):
        explore(plan, preemptions=2)


def test_two_locks_in_either_order_are_found_to_be_a_deadlock() -> None:
    """The two threads that wait for each other are named, with their places."""

    def plan() -> Plan:
        both = planted.TwoLocks()
        return Plan([both.there, both.back], lambda _: None)

    with pytest.raises(Deadlock, match=r"thread 0 at planted.py:\d+ in there, thread 1 at"):
        explore(plan, preemptions=1)
