"""Calls that are queued as jobs in a real PostgreSQL, made by procrastinate's worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest
from procrastinate import App, PsycopgConnector, SyncPsycopgConnector

from resilient import (
    Dependency,
    InvalidSetting,
    RateLimited,
    Receipt,
    circuit_breaker,
    queued,
    with_fallback,
)
from resilient.integrations.procrastinate import ProcrastinateQueue
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
