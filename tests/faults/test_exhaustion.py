"""No file descriptors, no threads: calls fail clearly or go on, and all is well afterwards."""

from __future__ import annotations

import asyncio
import os
import resource
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from resilient import (
    CircuitBreaker,
    Outbox,
    OutboxError,
    SQLiteStore,
    WorkersSaturated,
    cached,
    default,
    queued,
    timeout,
    with_fallback,
)
from resilient.degrade.outbox.worker import Worker
from resilient.degrade.stores.counts import Counts
from resilient.engine import clock
from resilient.engine.limits import Limit
from resilient.engine.steps import Invoke
from resilient.engine.workers import Workers
from tests.waiting import eventually

_start = threading.Thread.start
_names = (f"exhausted {number}" for number in count())


class Descriptors:
    """Nothing can be opened: the limit lies below what is open, so what others close is no help."""

    def __enter__(self) -> None:
        self._limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, self._limits[1]))

    def __exit__(self, *error: object) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, self._limits)


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """The platform has no thread to give, as at the limit of a container."""

    def refused(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    yield monkeypatch
    monkeypatch.undo()


def limited(function: Callable[[], object]) -> Invoke:
    """Return the step that calls a function on a worker, within a minute."""
    return Invoke(function, limit=Limit(clock.now() + 60, 60, next(_names)))


def test_without_descriptors_a_cache_in_a_file_is_done_without(tmp_path: Path) -> None:
    """Calls are answered, and the file is used again when there are descriptors."""
    store = SQLiteStore(tmp_path / "cache.db", name=next(_names))

    @with_fallback(cached(ttl=60, key="{number}", store=store), "fallback")
    def fetch(number: int, fails: bool = False) -> Any:
        if fails:
            raise ConnectionError
        return number

    with Descriptors():
        assert [fetch(1), fetch(2, True)] == [1, "fallback"]

    def is_kept() -> bool:
        return fetch(3) == 3 and fetch(3, True) == 3

    assert eventually(is_kept)


def test_without_descriptors_nothing_is_acknowledged_that_is_not_kept(tmp_path: Path) -> None:
    """A call that cannot be put off fails with its own error, and the next one can be."""
    outbox = Outbox(tmp_path / "outbox.db", name=next(_names))

    @with_fallback(queued(outbox, name=next(_names)))
    def charge(order: int) -> None:
        raise ConnectionError(order)

    with Descriptors(), pytest.raises(ConnectionError) as failed:
        charge(1)
    assert isinstance(failed.value.__cause__, OutboxError | OSError) or failed.value.__notes__
    receipt: Any = charge(2)
    assert [call.id for call in outbox.pending()] == [receipt.id]
    outbox.close()


def test_without_descriptors_a_connection_fails_with_its_own_error() -> None:
    """The error is the platform's, the circuit opens, and closes when there are descriptors."""
    breaker = CircuitBreaker(next(_names), fail_max=1, reset_timeout=0)

    @breaker
    def look() -> str:
        return Path(os.devnull).read_text(encoding="utf-8")

    assert look() == ""
    with Descriptors(), pytest.raises(OSError, match="Too many open files"):
        look()
    assert breaker.transitions["open"] == 1
    assert look() == ""
    assert breaker.current_state == "closed"


def test_without_threads_timed_calls_are_rejected_as_saturated(
    no_threads: pytest.MonkeyPatch,
) -> None:
    """They fail at once, with an error that says nothing against the dependency."""
    breaker = CircuitBreaker(next(_names), fail_max=1, reset_timeout=60)

    @breaker
    @timeout(5)
    def fetch() -> str:
        return "answer"

    for _ in range(3):
        with pytest.raises(WorkersSaturated):
            fetch()
    assert breaker.current_state == "closed"
    no_threads.undo()
    assert fetch() == "answer"


def test_without_threads_an_answer_that_is_due_is_served_and_renewed_later(
    no_threads: pytest.MonkeyPatch,
) -> None:
    """A refresh that cannot begin costs nobody anything, and is begun by the next who asks."""
    answers = iter(range(100))
    fetch = with_fallback(cached(ttl=3600, fresh_for=3600, refresh_ahead=3600, jitter=0))(
        lambda: next(answers)
    )
    assert [fetch() for _ in range(20)] == [0] * 20
    no_threads.undo()
    assert eventually(lambda: fetch() > 0)


def test_without_threads_a_cache_in_a_file_is_written_later(
    no_threads: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A write for which there is no thread waits, and is made with the next one."""
    store = SQLiteStore(tmp_path / "cache.db", name=next(_names))
    fetch = with_fallback(cached(ttl=60, key="{number}", store=store))(lambda number: number)
    assert fetch(1) == 1
    no_threads.undo()
    assert fetch(2) == 2
    assert eventually(lambda: Counts.of(store.name)["written"] == 2)


def test_without_threads_health_looks_into_an_outbox_later(
    no_threads: pytest.MonkeyPatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look for which there is no thread is not taken for one that is under way."""
    outbox = Outbox(tmp_path / "outbox.db", name=next(_names))
    no_threads.setattr(sys.modules[Outbox.__module__], "_FRESH_SECONDS", -1)  # each time anew

    def shown() -> Any:
        (condition,) = outbox.conditions()
        return condition.details.get("output")

    assert [shown(), shown()] == ["not looked at yet"] * 2
    no_threads.setattr(threading.Thread, "start", _start)
    assert eventually(lambda: shown() is None)
    outbox.close()


def test_without_threads_leases_are_renewed_as_soon_as_there_are_some(
    no_threads: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A renewal that cannot begin is due again, and not the last one."""
    outbox = Outbox(tmp_path / "outbox.db", name=next(_names))
    worker = Worker(outbox, concurrency=1)
    worker._renewal_due()
    assert worker._timer is not None
    worker._timer.cancel()
    outbox.close()


def test_without_threads_nothing_can_be_done_in_the_background(
    no_threads: pytest.MonkeyPatch,
) -> None:
    """That is said to the one who asks for it, who knows what to do instead."""
    done = threading.Event()
    assert not clock.system.background(done.set)
    assert not done.is_set()
    no_threads.undo()
    assert clock.system.background(done.set)
    assert done.wait(30)


def test_a_worker_that_could_not_begin_is_not_given_anything_to_do(
    no_threads: pytest.MonkeyPatch,
) -> None:
    """One that is to stand by for the end of the process is made by the next call instead."""
    workers = Workers(max_workers=1, max_abandoned=1)
    workers.stand_by()
    no_threads.undo()
    assert asyncio.run(workers.run_async(limited(lambda: "answer"))).value == "answer"


def test_without_threads_a_task_is_served_by_a_tier_that_needs_none(
    no_threads: pytest.MonkeyPatch,
) -> None:
    """A plain function with a limit cannot be called, which is told at once."""

    @with_fallback(default(lambda: "from a thread", timeout=5), "last")
    async def fetch() -> str:
        raise ConnectionError

    assert asyncio.run(fetch()) == "last"
    no_threads.undo()
    assert asyncio.run(fetch()) == "from a thread"


async def test_a_task_does_not_wait_for_a_worker() -> None:
    """While all that there may be hang, it is told so."""
    workers, release = Workers(max_workers=1, max_abandoned=1), threading.Event()
    hangs = asyncio.ensure_future(workers.run_async(limited(lambda: release.wait(10))))
    await asyncio.sleep(0)
    rejected = await workers.run_async(limited(lambda: "answer"))
    assert isinstance(rejected.error, WorkersSaturated)
    release.set()
    assert (await hangs).value is True
    assert (await workers.run_async(limited(lambda: "answer"))).value == "answer"


def test_without_threads_tasks_are_limited_all_the_same(no_threads: pytest.MonkeyPatch) -> None:
    """A limit on a coroutine needs no thread; one on a plain function of a task does."""

    @timeout(5)
    async def fetch() -> str:
        return "answer"

    assert asyncio.run(fetch()) == "answer"


def test_a_circuit_that_opens_without_threads_is_probed_once_there_are_some(
    no_threads: pytest.MonkeyPatch,
) -> None:
    """The timer that could not begin begins with the next rejection at the latest."""
    breaker = CircuitBreaker(
        next(_names), fail_max=1, reset_timeout=60, probe=lambda: True, probe_every=0.05
    )

    @breaker
    def fetch(fails: bool) -> str:
        if fails:
            raise ConnectionError
        return "answer"

    with pytest.raises(ConnectionError):
        fetch(True)
    no_threads.undo()

    def is_back() -> bool:
        try:
            return fetch(False) == "answer"
        except Exception:
            return False

    assert eventually(is_back)
