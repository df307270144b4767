"""Queues are compared with equal durability, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.queues import DURABLE, Queue, durability, puts_per_second, queues

pytest.importorskip("litequeue", reason="it is measured by `make bench` only")
pytest.importorskip("persistqueue", reason="it is measured by `make bench` only")


def test_every_queue_synchronises_each_put(tmp_path: Path) -> None:
    """Each writes ahead and synchronises, as SQLite itself says."""
    measured = queues(tmp_path)
    assert [durability(queue) for queue in measured] == [DURABLE] * 3
    assert all(puts_per_second(queue, puts=2, rounds=1) > 0 for queue in measured)


def test_a_queue_that_is_less_durable_is_not_measured(tmp_path: Path) -> None:
    """A rate that was bought with safety is no rate."""
    name, put, connection = queues(tmp_path)[1]
    connection.execute("PRAGMA synchronous = OFF")
    with pytest.raises(AssertionError, match="litequeue"):
        puts_per_second(Queue(name, put, connection))
