"""A fork at any moment: while others hold a lock, are in a call, or are about to finish one."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
import structlog

from resilient import (
    BulkheadFull,
    CircuitBreaker,
    CircuitOpen,
    MemoryStore,
    bulkhead,
    cached,
    pipeline_of,
    retry,
    timeout,
    with_fallback,
)
from resilient.engine import locks
from resilient.engine.measures import all_measures
from resilient.strategies.breaker.interface import CircuitInterface
from tests.faults.children import holds_in_a_child

_names = (f"forked {number}" for number in count())


class Held:
    """Something that another thread holds until the end of the block."""

    def __init__(self, hold: Callable[[threading.Event, threading.Event], object]) -> None:
        self._holds, self._enough = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=hold, args=(self._holds, self._enough))

    def __enter__(self) -> None:
        self._thread.start()
        assert self._holds.wait(10)

    def __exit__(self, *error: object) -> None:
        self._enough.set()
        self._thread.join()


def test_a_child_is_free_of_every_lock_that_another_thread_holds() -> None:
    """Each lock of the library is held by a thread of the parent, all of them at once."""
    breaker = CircuitBreaker(next(_names), fail_max=1, reset_timeout=0, probe=lambda: True)

    @with_fallback(cached(60, fresh_for=30, store=MemoryStore(name="forked")), "fallback")
    @bulkhead(2, max_waiting=1)
    @breaker
    @retry(on=ConnectionError, wait_initial=0)
    @timeout(5)
    def guarded(fails: bool) -> str:
        if fails:
            raise ConnectionError
        return "answer"

    def hold(holds: threading.Event, enough: threading.Event) -> None:
        held = [lock for reference in locks._locks if (lock := reference()) is not None]
        for lock in held:
            lock.acquire()
        holds.set()
        enough.wait(10)
        for lock in held:
            lock.release()

    def claim() -> bool:
        with structlog.testing.capture_logs():
            first, second = guarded(True), guarded(False)
            breaker.reset()
            return (first, second) == ("fallback", "answer") and bool(all_measures())

    gc.collect()
    with structlog.testing.capture_logs():
        assert guarded(False) == "answer"
        with Held(hold):
            assert holds_in_a_child(claim)


def test_a_child_does_not_wait_for_a_call_that_its_parent_shares() -> None:
    """Who carries the call out does not exist in the child, which makes a call of its own."""
    inside, enough = threading.Event(), threading.Event()

    @with_fallback(cached(60, fresh_for=30, key="one"))
    def guarded() -> str:
        if not inside.is_set():
            inside.set()
            enough.wait(10)
        return "answer"

    leader = threading.Thread(target=guarded)
    leader.start()
    try:
        assert inside.wait(10)
        assert holds_in_a_child(lambda: guarded() == "answer")
    finally:
        enough.set()
        leader.join()


def test_a_call_that_forks_gives_no_permit_back_that_is_not_missing() -> None:
    """The child begins with all permits, and does not get one more when that call ends there."""
    limit = bulkhead(1)
    results: list[Any] = []

    def rest() -> bool:
        with limit, pytest.raises(BulkheadFull):
            limit(lambda: None)()
        return limit.in_flight == 0

    @limit
    def forks() -> bool:
        # What is asked in the child is asked when this call has ended there.
        return holds_in_a_child(leave_and_ask)

    def leave_and_ask() -> bool:
        limit.give()  # as the end of the call does it
        return rest()

    results.append(forks())
    assert results == [True]
    assert limit.in_flight == 0


def test_a_child_forked_as_a_circuit_opens_turns_calls_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The thread that was about to close the fast lane does not exist in the child."""
    breaker = CircuitBreaker(next(_names), fail_max=1, reset_timeout=60)

    @breaker
    def guarded(fails: bool) -> str:
        if fails:
            raise ConnectionError
        return "answer"

    def hold(holds: threading.Event, enough: threading.Event) -> None:
        def stop_there(*_args: Any, **_kwargs: Any) -> None:
            holds.set()
            enough.wait(10)

        monkeypatch.setattr(CircuitInterface, "_announce", stop_there)
        with pytest.raises(ConnectionError):
            guarded(True)
        monkeypatch.undo()

    def claim() -> bool:
        monkeypatch.undo()
        with structlog.testing.capture_logs(), pytest.raises(CircuitOpen):
            guarded(False)
        return True

    assert guarded(False) == "answer"
    with Held(hold):
        assert holds_in_a_child(claim)


def test_a_child_forked_as_a_journal_is_settled_settles_it() -> None:
    """The thread that had taken the turn does not exist in the child."""
    breaker = CircuitBreaker(next(_names), failure_rate=0.5, min_calls=10)

    @breaker
    def guarded() -> str:
        return "answer"

    pipeline = pipeline_of(guarded)

    def hold(holds: threading.Event, enough: threading.Event) -> None:
        with pipeline.measures.lock:
            pipeline._turn.pop()
            holds.set()
            enough.wait(10)
            pipeline._turn.append(None)

    def claim() -> bool:
        guarded()
        breaker.settle()
        return pipeline.journal == [] and pipeline.measures.calls["success"] == 2

    guarded()
    with Held(hold):
        assert holds_in_a_child(claim)


LOADING = """
import os, sys, threading, time, types

loading, go_on = threading.Event(), threading.Event()

class Slow:  # stands for a disk that takes its time over the first import of what logs
    def find_spec(self, name, path, target=None):
        if name == "resilient.telemetry.events":
            loading.set()
            go_on.wait(0.3)

sys.meta_path.insert(0, Slow())
from resilient import with_fallback

@with_fallback("fallback")
def fetch():
    raise ConnectionError

first = threading.Thread(target=fetch)
first.start()
loading.wait(10)
child = os.fork()
if child == 0:
    threading.Timer(10, os._exit, (2,)).start()
    os._exit(0 if fetch() == "fallback" else 1)
first.join()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_child_forked_as_the_first_event_is_logged_can_log() -> None:
    """The fork waits for the import, whose lock would never be free in the child."""
    program = [sys.executable, "-W", "ignore", "-c", LOADING]
    done = subprocess.run(program, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_children_forked_while_circuits_open_and_close_agree_with_themselves() -> None:
    """Whatever their parent was doing: lanes follow circuits, and every call comes to an end."""
    breaker = CircuitBreaker(next(_names), fail_max=1, reset_timeout=0)

    @with_fallback("fallback")
    @bulkhead(4, max_waiting=4)
    @breaker
    @timeout(5)
    def guarded(number: int, fails: bool = False) -> str:
        if fails:
            raise ConnectionError
        return "answer"

    done = threading.Event()

    def storm() -> None:
        for number in count():
            if done.is_set():
                return
            guarded(number, number % 2 == 0)

    def claim() -> bool:
        answers = {guarded(number, number % 2 == 0) for number in range(20)}
        breaker.reset()
        lane = pipeline_of(guarded).lane
        return (
            answers <= {"answer", "fallback"}
            and (lane.epoch is not None) == (breaker.current_state == "closed")
            and guarded(7) == "answer"
        )

    callers = [threading.Thread(target=storm) for _ in range(3)]
    with structlog.testing.capture_logs():
        for caller in callers:
            caller.start()
        try:
            found = []
            for _ in range(25):
                found.append(holds_in_a_child(claim))
                time.sleep(0.005)
        finally:
            done.set()
            for caller in callers:
                caller.join()
    assert found == [True] * 25


def test_a_fork_does_not_wait_for_ever_for_what_is_being_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A lock that the forking thread has not got is not let go by it, and is free in the child."""

    def hold(holds: threading.Event, enough: threading.Event) -> None:
        with locks.loading:
            holds.set()
            enough.wait(10)

    monkeypatch.setattr(locks, "LONGEST_LOADING", 0.01)
    with Held(hold):
        assert holds_in_a_child(lambda: locks.loading.acquire(timeout=0))
        assert not locks.loading.acquire(blocking=False)
