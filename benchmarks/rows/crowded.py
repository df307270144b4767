"""Calls that many threads or many tasks make at once."""

from __future__ import annotations

from benchmarks import ours, proofs
from benchmarks.peers.breakers import BREAKERS
from benchmarks.peers.limits import ASYNCIO_TIMEOUT, LIMITS
from benchmarks.rows.row import Row, Section, ours_row, peer_rows, unit_of
from benchmarks.rows.success import STACK

__all__ = ["tasks", "threads"]

THREADS = (1, 2, 8, 32)
TASKS = (1, 100, 10_000)


def threads() -> Section:
    """Return what a call costs with so many threads calling, next to a wrapper that they share."""
    rows: list[Row] = []
    for crowd in THREADS:
        who = f", {crowd} thread{'s' if crowd > 1 else ''}"
        rows += [
            Row(unit_of(is_async=False, crowd=crowd)),
            ours_row(STACK + who, ours.stack, proofs.counts_every_call, crowd=crowd),
            *peer_rows(BREAKERS, f": breaker{who}", proofs.breaks, crowd=crowd),
        ]
    return Section("threads", "Calls from so many threads at once", tuple(rows))


def tasks() -> Section:
    """Return what a call costs with so many tasks, all of which are waiting for their answers."""
    limit = [peer for peer in LIMITS if peer.name == ASYNCIO_TIMEOUT]
    counts = proofs.counts_every_call
    rows: list[Row] = []
    for crowd in TASKS:
        who = f", {crowd:,} task{'s' if crowd > 1 else ''}"
        limited = f"{STACK} + total and attempt timeout{who}"
        rows += [
            Row(unit_of(is_async=True, crowd=crowd)),
            ours_row(STACK + who, ours.stack, counts, is_async=True, crowd=crowd),
            ours_row(limited, ours.limited_stack, counts, is_async=True, crowd=crowd),
            *peer_rows(limit, who, proofs.limits, is_async=True, crowd=crowd),
        ]
    return Section("tasks", "Calls from so many tasks, all at once", tuple(rows))
