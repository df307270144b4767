"""Calls that are queued as jobs in a real PostgreSQL, made by procrastinate's worker."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from procrastinate import App, PsycopgConnector, SyncPsycopgConnector
from structlog.testing import capture_logs

from resilient import (
    Dependency,
    InvalidSetting,
    NewCall,
    RateLimited,
    Receipt,
    ResilientError,
    circuit_breaker,
    queued,
    with_fallback,
)
from resilient.integrations.procrastinate import ProcrastinateQueue
from tests.doubles import Scripted
from tests.servers import PATIENCE, PostgresServer, free_port


@pytest.fixture
def calls(postgres: PostgresServer) -> Iterator[ProcrastinateQueue]:
    """A queue in an empty database."""
    with App(connector=SyncPsycopgConnector(conninfo=postgres.url)).open() as app:
        app.schema_manager.apply_schema()
    queue = ProcrastinateQueue(
        App(connector=PsycopgConnector(conninfo=postgres.url)),
        postgres.url,
        first_pause=0.005,
        max_attempts=8,
    )
    yield queue
    queue.close()


class Bank:
    """What the other side has had, and whether it is down."""

    def __init__(self, calls: ProcrastinateQueue) -> None:
        self.is_down = True
        self.ledger: list[str] = []
        guards = Dependency(
            f"bank-{id(self)}",
            failures=ConnectionError,
            breaker=circuit_breaker(fail_max=2, reset_timeout=0.4),
        )

        @guards.with_fallback(queued(calls, key="charge:{order_id}", name="bank.charge"))
        def charge(order_id: str, cents: int) -> None:
            self._note(f"{order_id} {cents}")

        @guards.with_fallback(queued(calls, ordered_by="{order_id}", name="bank.refund"))
        async def refund(order_id: str) -> None:
            self._note(f"refund {order_id}")

        self.charge, self.refund = charge, refund

    def _note(self, line: str) -> None:
        if self.is_down:
            raise ConnectionError("down")
        self.ledger.append(line)


async def work(calls: ProcrastinateQueue, bank: Bank, count: int) -> None:
    """Have a worker make the calls while the bank is down, and when it is well again."""
    settings: dict[str, Any] = {"install_signal_handlers": False, "fetch_job_polling_interval": 0.1}
    async with calls.app.open_async():
        worker = asyncio.create_task(calls.app.run_worker_async(concurrency=4, **settings))
        await asyncio.sleep(0.7)  # longer than all attempts, were they not held by the circuit
        bank.is_down = False
        deadline = time.monotonic() + PATIENCE
        while len(bank.ledger) < count and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.3)
        worker.cancel()
        await asyncio.wait([worker])


async def test_calls_wait_for_the_dependency_and_are_made_once(
    calls: ProcrastinateQueue, postgres: PostgresServer
) -> None:
    """Calls while it is down have receipts, and each is made exactly once when it is well."""
    bank = Bank(calls)
    receipts: list[Any] = [
        await asyncio.to_thread(bank.charge, f"o{number}", number) for number in range(5)
    ]
    receipts.append(await bank.refund("o9"))
    assert all(isinstance(receipt, Receipt) for receipt in receipts)
    again: Any = await asyncio.to_thread(bank.charge, "o1", 1)
    assert again == receipts[1]
    await work(calls, bank, 6)
    assert sorted(bank.ledger) == [*(f"o{number} {number}" for number in range(5)), "refund o9"]
    status = "SELECT status, count(*), max(attempts) < 8 FROM procrastinate_jobs GROUP BY 1"
    assert postgres.sql(status) == "succeeded|6|t"
    after: Any = await asyncio.to_thread(bank.charge, "o1", 1)
    assert after is None


async def test_a_rejection_is_no_attempt(
    calls: ProcrastinateQueue, postgres: PostgresServer
) -> None:
    """A call that is rejected more often than it may be tried is made all the same, once."""
    made: list[str] = []
    rejections = iter(range(12))

    @with_fallback(queued(calls, name="bank.transfer"))
    def transfer(order_id: str) -> None:
        if next(rejections, None) is not None:
            raise RateLimited("bank", 1, 1, 0.02)
        made.append(order_id)

    assert isinstance(await asyncio.to_thread(transfer, "o1"), Receipt)
    async with calls.app.open_async():
        worker = asyncio.create_task(
            calls.app.run_worker_async(
                install_signal_handlers=False, fetch_job_polling_interval=0.05
            )
        )
        deadline = time.monotonic() + PATIENCE
        while not made and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.2)
        worker.cancel()
        await asyncio.wait([worker])
    assert made == ["o1"]
    assert next(rejections, None) is None
    assert postgres.sql("SELECT status, attempts < 8 FROM procrastinate_jobs") == "succeeded|t"


async def made_once(calls: ProcrastinateQueue) -> None:
    """Have a worker make the calls that are due, until none is."""
    async with calls.app.open_async():
        await calls.app.run_worker_async(install_signal_handlers=False, wait=False)


async def test_an_answer_ends_a_call_and_a_coroutine_is_awaited(
    calls: ProcrastinateQueue, postgres: PostgresServer
) -> None:
    """Of what no attempt will change, an event says what it was, and the job has failed."""
    answers = Scripted(ConnectionError, ConnectionError, ValueError)
    made: list[str] = []
    calls.close()  # harmless, as it has not been used

    async def noted(order_id: str) -> None:
        await asyncio.sleep(0)
        made.append(order_id)

    guards = Dependency("bank-answers", failures=ConnectionError)

    def pay(order_id: str) -> Any:
        return answers() if order_id == "o1" else noted(order_id)

    pays = guards.with_fallback(queued(calls, name="bank.pay"))
    assert isinstance(await asyncio.to_thread(pays(pay), "o1"), Receipt)
    pays(pay)  # as a module that is loaded anew does
    calls.put(NewCall("bank.pay", '{"args":[],"kwargs":{"order_id":"o2"}}'))
    with capture_logs() as logs:
        await made_once(calls)
        await asyncio.sleep(0.02)
        await made_once(calls)
    assert made == ["o2"]
    buried = [one["reason"] for one in logs if one["event"] == "resilient.call_buried"]
    assert buried == ["answered: ValueError"]
    statuses = postgres.sql("SELECT status, attempts FROM procrastinate_jobs ORDER BY id")
    assert statuses.split() == ["failed|2", "succeeded|1"]


async def test_a_call_that_was_put_again_while_it_was_made_is_tried_once_more_and_not_twice(
    calls: ProcrastinateQueue, postgres: PostgresServer
) -> None:
    """Two calls of one key cannot wait: the newer one is the call now."""
    call = NewCall("bank.once", '{"args":[],"kwargs":{"order_id":"o1"}}', key="o1")
    answers = Scripted(ConnectionError, None)

    @with_fallback(queued(calls, name="bank.once"))
    def once(order_id: str) -> None:
        if not answers.calls:
            calls.put(call)
        answers()

    calls.put(call)
    await made_once(calls)
    assert answers.calls == 2
    assert postgres.sql("SELECT status, attempts FROM procrastinate_jobs ORDER BY id").split() == [
        "succeeded|1",
        "succeeded|1",
    ]


def test_a_call_whose_worker_ends_is_made_again_however_often_it_has_failed() -> None:
    """An interruption says nothing about the call."""
    app = App(connector=PsycopgConnector(conninfo="postgresql://"))
    retrying = ProcrastinateQueue(app, "postgresql://", max_attempts=1)._retrying("bank.pay")
    job: Any = SimpleNamespace(attempts=99)
    assert retrying.get_retry_decision(exception=asyncio.CancelledError(), job=job) is not None


def test_without_the_library_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has not installed procrastinate is told what to install."""
    app = App(connector=PsycopgConnector(conninfo="postgresql://"))
    monkeypatch.setitem(sys.modules, "procrastinate", None)
    with pytest.raises(ResilientError, match=r"resilient-calls\[procrastinate\]"):
        ProcrastinateQueue(app, "postgresql://")


def test_without_its_database_a_call_has_its_own_error() -> None:
    """A database that is down leaves the call to the next tier, or its caller the error."""
    conninfo = f"postgresql://postgres@127.0.0.1:{free_port()}/postgres"
    app = App(connector=PsycopgConnector(conninfo=conninfo))
    queue = ProcrastinateQueue(app, conninfo, patience=0.2)

    @with_fallback(queued(queue, name="lost.mail"))
    def mail(user: str) -> None:
        raise ConnectionError("mail is down")

    with pytest.raises(ConnectionError, match="mail is down"):
        mail("u1")
    queue.close()


def test_what_is_no_app_is_refused() -> None:
    """A wrong app is no surprise in an outage."""
    with pytest.raises(InvalidSetting, match="app"):
        ProcrastinateQueue("shop", "postgresql://")  # type: ignore[arg-type]
