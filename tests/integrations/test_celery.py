"""Calls that are queued as tasks of a Celery app, made by a real worker over a broker of files."""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import Retry
from structlog.testing import capture_logs

from resilient import (
    BulkheadFull,
    Dependency,
    DuplicateName,
    InvalidSetting,
    InvalidUse,
    RateLimited,
    Receipt,
    Replay,
    queued,
    with_fallback,
)
from resilient.degrade.outbox.attempts import Attempts, was_tried
from resilient.integrations.celery import CeleryQueue
from tests.doubles import Scripted, each
from tests.servers import free_port
from tests.waiting import eventually

SHOP = "tests.integrations.celery_shop"


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The shop, whose payments are down."""
    (tmp_path / "broker").mkdir()
    monkeypatch.setenv("SHOP_FOLDER", str(tmp_path))
    (tmp_path / "down").touch()
    module = importlib.import_module(SHOP)
    yield module
    sys.modules.pop(SHOP)
    module.app.close()
    module.__dict__.clear()  # its circuit is open, which health would show in other tests
    gc.collect()


@contextmanager
def worker() -> Generator[subprocess.Popen[bytes]]:
    """A worker of Celery, in a process of its own."""
    options = ["--pool=solo", "--without-gossip", "--without-mingle", "--loglevel=INFO"]
    log = (Path(os.environ["SHOP_FOLDER"]) / "log").open("ab")
    command = [sys.executable, "-m", "celery", "-A", SHOP, "worker", *options]
    with log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            yield process
        finally:
            process.kill()


def lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def test_calls_wait_for_the_dependency_and_are_made_once(shop: ModuleType, tmp_path: Path) -> None:
    """Calls while it is down have receipts, and each is made exactly once when it is well."""
    receipts = [shop.charge(f"o{number}", number) for number in range(5)]
    receipts.append(asyncio.run(shop.refund("o9")))
    assert all(isinstance(receipt, Receipt) for receipt in receipts)
    tried = len(lines(tmp_path / "attempts"))
    with worker():
        assert eventually(lambda: len(lines(tmp_path / "attempts")) > tried + 1)
        time.sleep(1.3)  # longer than all attempts would last, were they not held by the circuit
        (tmp_path / "down").unlink()
        assert eventually(lambda: len(lines(tmp_path / "ledger")) >= 6)
        time.sleep(0.2)
    assert sorted(lines(tmp_path / "ledger")) == [*(f"o{n} {n}" for n in range(5)), "refund o9"]
    assert "'cents'" not in (tmp_path / "log").read_text()


def test_a_key_is_always_the_same_task_id(shop: ModuleType) -> None:
    """Celery keeps both calls of one key, under one id, by which both can be revoked."""
    first, again, other = (shop.charge(order, 1) for order in ("o1", "o1", "o2"))
    assert first.id == again.id != other.id
    assert first.key == "charge:o1"


@pytest.fixture
def eager() -> Iterator[CeleryQueue]:
    """A queue whose app makes each call at once, where it is put."""
    app = Celery("eager", broker="memory://", set_as_current=False)
    app.conf.update(task_always_eager=True, task_eager_propagates=True)
    yield CeleryQueue(app, max_attempts=2)
    app.close()


@each(
    "error, reason",
    {
        "an answer": (ValueError("declined"), "answered: ValueError"),
        "other parameters": (InvalidUse("they do not fit"), "broken: they do not fit"),
        "the last failure": (ConnectionError("down"), "given up after 1 attempts: ConnectionError"),
    },
)
def test_a_call_that_is_given_up_is_told(error: Exception, reason: str) -> None:
    """What no attempt will change ends a call, and an event says what it was."""
    attempts, replay = Attempts(1, 1.0, 600.0), replay_of(failures=ConnectionError)
    assert attempts.pause(replay, error, 0) is None
    with capture_logs() as logs:
        attempts.tell_buried(replay, "1", error, 0)
    assert logs[0]["reason"] == reason


def test_what_was_rejected_was_no_attempt() -> None:
    """A rejected call is tried again after `retry_after`, however often it has failed."""
    attempts, replay = Attempts(2, 1.0, 60.0), replay_of(failures=ConnectionError)
    assert 5.0 <= (attempts.pause(replay, RateLimited("r", 1, 1, 5.0), 2) or 0) <= 6.25
    assert attempts.pause(replay, RateLimited("r", 1, 1, 500.0), 2) == 60.0
    assert 1.0 <= (attempts.pause(replay, BulkheadFull("b", 1, 0), 2) or 0) <= 1.25
    assert not was_tried(BulkheadFull("b", 1, 0))


def test_an_eager_app_makes_a_call_once(eager: CeleryQueue) -> None:
    """Where nothing can wait, the call is made once, and a failure leaves the caller its own."""
    calls: list[str] = []

    @with_fallback(queued(eager, name="eager.mail"))
    def mail(user: str) -> None:
        calls.append(user)
        raise ConnectionError("down")

    with pytest.raises(ConnectionError):
        mail("u1")
    assert calls == ["u1", "u1"]


async def test_an_eager_app_awaits_what_is_asynchronous(eager: CeleryQueue) -> None:
    """A coroutine is made where the call is put, and its end is awaited there."""
    answers = Scripted(ConnectionError, None)
    made: list[str] = []

    @with_fallback(queued(eager, name="eager.post"))
    async def post(user: str) -> None:
        answers()
        await asyncio.sleep(0)
        made.append(user)

    with capture_logs() as logs:
        assert isinstance(await post("u1"), Receipt)
    assert made == ["u1"]
    assert "resilient.call_replayed" in [one["event"] for one in logs]


def test_a_call_that_fails_again_is_put_again_with_what_it_has_been_through() -> None:
    """The attempts that were made go with it, and the moment in which it was queued."""
    app = Celery("again", broker="memory://", set_as_current=False)
    queue = CeleryQueue(app, queue="again", first_pause=60)
    answers = Scripted(ConnectionError, RateLimited("mail", 1, 1, 5.0), None)

    @with_fallback(queued(queue, name="again.mail"))
    def mail(user: str) -> None:
        answers()

    task, given = queue._tasks["again.mail"], '{"args":[],"kwargs":{"user":"u1"}}'
    queued_at = "2026-01-01T00:00:00+00:00"
    attempts: list[int] = []
    task.push_request(id="c1", called_directly=False, is_eager=False)
    with app.connection_for_read() as connection:
        for failed in (2, 3):
            with pytest.raises(Retry):
                task.run(given, queued_at, failed)
            message = connection.SimpleQueue("again").get(timeout=10)
            _, kwargs, _ = message.payload
            assert (kwargs["arguments"], kwargs["queued"]) == (given, queued_at)
            assert message.headers["id"] == "c1"
            assert message.headers["eta"] is not None
            attempts.append(kwargs["failed"])
    assert attempts == [3, 3]  # what was rejected was no attempt
    with capture_logs() as logs:
        task.run(given, queued_at, 3)
    assert [(one["event"], one["attempts"]) for one in logs] == [("resilient.call_replayed", 4)]
    with capture_logs() as logs, pytest.raises(InvalidUse):
        task.run('{"args":[],"kwargs":{"nobody":1}}', queued_at, 3)
    assert [(one["event"], one["id"]) for one in logs] == [("resilient.call_buried", "c1")]
    task.pop_request()
    app.close()


def test_without_its_broker_a_call_has_its_own_error() -> None:
    """A broker that takes nothing leaves the call to the next tier, or its caller the error."""
    app = Celery("lost", broker=f"redis://127.0.0.1:{free_port()}", set_as_current=False)
    soon = {"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0}
    app.conf.update(task_publish_retry=False, broker_transport_options=soon)

    @with_fallback(queued(CeleryQueue(app), name="lost.mail"))
    def mail(user: str) -> None:
        raise ConnectionError("mail is down")

    with pytest.raises(ConnectionError, match="mail is down"):
        mail("u1")
    app.close()


def test_what_celery_cannot_do_is_refused_when_decorating(eager: CeleryQueue) -> None:
    """An order, what is no app, and two functions of one name are no surprise in an outage."""
    with pytest.raises(InvalidSetting, match="ordered_by"):
        queued(eager, ordered_by="{user}")
    with pytest.raises(InvalidSetting, match="app"):
        CeleryQueue("shop")  # type: ignore[arg-type]
    with_fallback(queued(eager, name="one"))(print_one)
    with pytest.raises(DuplicateName):
        with_fallback(queued(eager, name="one"))(print_two)


def print_one(user: str) -> None:
    """Be a function."""


def print_two(user: str) -> None:
    """Be another one."""


def replay_of(failures: type[Exception]) -> Replay:
    """Return a function as a queue has it, of a dependency with these failures."""
    kept: list[Replay] = []

    class Keeping:
        def register(self, replay: Replay) -> None:
            kept.append(replay)

        def put(self, call: Any) -> Any:
            """Be never called."""

    Dependency("replayed", failures=failures).with_fallback(queued(Keeping()))(print_one)
    return kept[0]
