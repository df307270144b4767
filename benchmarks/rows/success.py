"""Calls that succeed: each strategy alone, several of them, and what others have of the kind."""

from __future__ import annotations

from benchmarks import ours, proofs
from benchmarks.peers.breakers import BREAKERS
from benchmarks.peers.limits import LIMITS
from benchmarks.peers.peer import SYNC, Peer
from benchmarks.peers.retries import RETRIES
from benchmarks.peers.stacks import (
    FALLBACKS,
    STACKS,
    TENACITY_AROUND_PYBREAKER,
    tenacity_around_pybreaker,
)
from benchmarks.rows.row import Row, Section, ours_row, peer_rows, unit_of

__all__ = [
    "CACHED",
    "LIMITED_ASYNC",
    "STACK",
    "STACK_ASYNC",
    "TIMEOUT",
    "limits",
    "success",
    "success_async",
]

STACK = "fallback + retry + breaker (100 calls) + metrics"
STACK_ASYNC = f"{STACK}, async"
LIMITED_ASYNC = f"{STACK} + total and attempt timeout, async"
CACHED = "cached (memory) + retry + breaker + metrics"
TIMEOUT = "timeout, sync"


def success() -> Section:
    """Return what a synchronous call costs that succeeds."""
    around = Peer(TENACITY_AROUND_PYBREAKER, tenacity_around_pybreaker, SYNC)
    rows = (
        *_ours(is_async=False),
        ours_row(CACHED, ours.cached_stack, proofs.keeps_answers, proofs.retries, proofs.breaks),
        *_peers(is_async=False),
        *peer_rows([around], "", proofs.breaks, proofs.retries),
    )
    return Section("success", "Success, sync", (Row(unit_of(is_async=False)), *rows))


def success_async() -> Section:
    """Return what an asynchronous call costs that succeeds, with and without limits."""
    rows = (
        *_ours(is_async=True),
        ours_row(
            f"{CACHED}, async",
            ours.cached_stack,
            proofs.keeps_answers,
            proofs.retries,
            proofs.breaks,
            is_async=True,
        ),
        ours_row("timeout alone, async", ours.timeout_alone, proofs.limits, is_async=True),
        ours_row(
            LIMITED_ASYNC,
            ours.limited_stack,
            proofs.breaks,
            proofs.retries,
            proofs.serves_default,
            proofs.counts_every_call,
            is_async=True,
        ),
        *_peers(is_async=True),
        *peer_rows(LIMITS, "", proofs.limits, is_async=True),
    )
    return Section("success-async", "Success, async", (Row(unit_of(is_async=True)), *rows))


def _ours(*, is_async: bool) -> list[Row]:
    suffix = ", async" if is_async else ""
    made = (
        (STACK, ours.stack, _STACK_PROOFS),
        ("dependency: bulkhead, retry, breaker", ours.dependency, (proofs.breaks, proofs.retries)),
        ("fallback alone", ours.fallback_alone, (proofs.serves_default,)),
        ("retry alone", ours.retry_alone, (proofs.retries,)),
        ("breaker alone", ours.breaker_alone, (proofs.breaks,)),
        ("cached alone", ours.cached_alone, (proofs.keeps_answers,)),
        ("bulkhead alone", ours.bulkhead_alone, (proofs.caps,)),
        ("rate limit alone", ours.rate_limit_alone, (proofs.rations,)),
        ("deadline alone", ours.deadline_alone, (proofs.tells_what_is_left,)),
    )
    return [
        ours_row(f"{name}{suffix}", make, *shown, is_async=is_async) for name, make, shown in made
    ]


_STACK_PROOFS = (
    proofs.breaks,
    proofs.retries,
    proofs.serves_default,
    proofs.counts_every_call,
)


def _peers(*, is_async: bool) -> list[Row]:
    suffix = ", async" if is_async else ""
    whole = (proofs.breaks, proofs.retries, proofs.serves_default)
    made = (
        (BREAKERS, "breaker alone", (proofs.breaks,)),
        (RETRIES, "retry alone", (proofs.retries,)),
        (FALLBACKS, "fallback alone", (proofs.serves_default,)),
        (STACKS, "fallback, retry, breaker", whole),
    )
    return [
        row
        for peers, what, shown in made
        for row in peer_rows(peers, f": {what}{suffix}", *shown, is_async=is_async)
    ]


def limits() -> Section:
    """Return what a time limit costs that can take control back from a synchronous function."""
    rows = (
        ours_row(TIMEOUT, ours.timeout_alone, proofs.limits),
        *peer_rows(LIMITS, "", proofs.limits),
    )
    return Section("limits", "Hard time limit on a healthy synchronous call", rows)
