"""Puts per second into an outbox, next to two other queues in SQLite files, equally durable.

Run as `python -m benchmarks.queues`. Every queue writes ahead and synchronises each put
(`journal_mode = WAL`, `synchronous = FULL`), which is read back from each before it is measured.
"""

from __future__ import annotations

import json
import sqlite3
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from resilient import NewCall, Outbox

__all__ = ["Queue", "puts_per_second", "queues"]

ARGUMENTS = json.dumps({"args": [], "kwargs": {"order_id": "o1", "amount_cents": 1999}})
DURABLE = ("wal", 2)
"""What `journal_mode` and `synchronous` must be; 2 is FULL."""


class Queue(NamedTuple):
    """A queue in a file: what puts one entry into it, and its connection."""

    name: str
    put: Callable[[int], object]
    connection: sqlite3.Connection


def queues(folder: Path) -> list[Queue]:
    """Return the outbox and its peers, each with a file of its own in `folder`."""
    return [_outbox(folder), _litequeue(folder), _persist_queue(folder)]


def _outbox(folder: Path) -> Queue:
    outbox = Outbox(folder / "outbox.db", name=f"measured in {folder.name}")

    def put(number: int) -> object:
        return outbox.put(NewCall("shop.charge", ARGUMENTS, key=f"charge:{number}"))

    connection: sqlite3.Connection = outbox.table.database.read(lambda file: file)
    return Queue("outbox, with idempotency keys", put, connection)


def _litequeue(folder: Path) -> Queue:
    from litequeue import LiteQueue

    queue = LiteQueue(folder / "litequeue.db")
    return Queue("litequeue", lambda _: queue.put(ARGUMENTS), _durable(queue.conn))


def _persist_queue(folder: Path) -> Queue:
    from persistqueue import SQLiteQueue

    queue = SQLiteQueue(str(folder / "persist-queue"), auto_commit=True, multithreading=True)
    connection: Any = queue._putter
    return Queue("persist-queue", lambda _: queue.put(ARGUMENTS), _durable(connection))


def _durable(connection: sqlite3.Connection) -> sqlite3.Connection:
    """Have a peer synchronise each put as the outbox does."""
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def durability(queue: Queue) -> tuple[str, int]:
    """Return how durable a put is, as SQLite says."""
    (mode,) = queue.connection.execute("PRAGMA journal_mode").fetchone()
    (synchronous,) = queue.connection.execute("PRAGMA synchronous").fetchone()
    return mode, synchronous


def puts_per_second(queue: Queue, puts: int = 300, rounds: int = 5) -> float:
    """Return the median over `rounds`; each queue starts with what is in it already."""
    assert durability(queue) == DURABLE, f"{queue.name}: {durability(queue)}"
    rates: list[float] = []
    for turn in range(rounds):
        begun = time.perf_counter()
        for number in range(puts):
            queue.put(turn * puts + number)
        rates.append(puts / (time.perf_counter() - begun))
    return statistics.median(rates)


def main() -> None:
    """Print one line a queue."""
    with TemporaryDirectory() as folder:
        for queue in queues(Path(folder)):
            print(f"{queue.name:32} {puts_per_second(queue):8,.0f} puts/s, WAL, synchronous=FULL")


if __name__ == "__main__":
    main()
