"""Calls that are rejected by an open circuit, and calls that fail three times."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from benchmarks import ours, proofs
from benchmarks.peers.breakers import BREAKERS, BREAKERS_WITH_DEFAULT, forget_traceback
from benchmarks.peers.retries import RETRIES_WITH_DEFAULT
from benchmarks.rows.row import Row, Section, unit_of
from benchmarks.services import Service
from resilient import CircuitOpen

__all__ = [
    "ATTEMPTS",
    "ATTEMPTS_ASYNC",
    "OPEN",
    "OPEN_ASYNC",
    "OPEN_WITH_DEFAULT",
    "OPEN_WITH_DEFAULT_ASYNC",
    "attempts",
    "rejections",
    "rejections_of_peers",
]

Function = Callable[..., Any]

OPEN, OPEN_ASYNC = "open circuit, raising", "open circuit, raising, async"
OPEN_WITH_DEFAULT = "open circuit, default served"
OPEN_WITH_DEFAULT_ASYNC = f"{OPEN_WITH_DEFAULT}, async"
ATTEMPTS = "three attempts, default served"
ATTEMPTS_ASYNC = f"{ATTEMPTS}, async"


def rejections(*, is_async: bool) -> tuple[Section, Section]:
    """Return what a rejected call costs: one that raises, and one that serves a default."""
    colour = "async" if is_async else "sync"
    raising = [
        _rejection(OPEN_ASYNC if is_async else OPEN, ours.opened, is_async, CircuitOpen),
        *(
            _rejection(_named(peer.name, OPEN, is_async), _opened(peer.make), is_async, rejection)
            for peer in BREAKERS
            if is_async in peer.colours and (rejection := peer.rejection) is not None
        ),
    ]
    serving = [
        _rejection(
            OPEN_WITH_DEFAULT_ASYNC if is_async else OPEN_WITH_DEFAULT,
            ours.opened_with_default,
            is_async,
        ),
        *(
            _rejection(_named(peer.name, OPEN_WITH_DEFAULT, is_async), _opened(peer.make), is_async)
            for peer in BREAKERS_WITH_DEFAULT
            if is_async in peer.colours
        ),
    ]
    title = f"Rejected by an open circuit, {colour}"
    return (
        Section(f"rejected-{colour}", f"{title}, raising", tuple(raising)),
        Section(f"default-{colour}", f"{title}, default served", tuple(serving)),
    )


def attempts(*, is_async: bool) -> Section:
    """Return what a call costs that fails three times and is answered with a default."""
    made = {
        ATTEMPTS_ASYNC if is_async else ATTEMPTS: ours.three_attempts,
        **{
            _named(peer.name, ATTEMPTS, is_async): peer.make
            for peer in RETRIES_WITH_DEFAULT
            if is_async in peer.colours
        },
    }
    rows = []
    for name, make in made.items():
        call = make(Service(is_down=True).function(is_async=is_async))
        shown = (proofs.retries, proofs.serves_default)
        rows.append(
            Row(
                unit_of(is_async=is_async).beside(name, call, **_ours(make, call)),
                tuple(partial(proof, make, is_async=is_async) for proof in shown),
            )
        )
    colour = "async" if is_async else "sync"
    title = f"Three failing attempts, then a default, {colour}"
    return Section(f"attempts-{colour}", title, tuple(rows))


def rejections_of_peers(sections: Iterable[Section], ours: str) -> list[str]:
    """Return the names of the rows of other libraries next to our row of that name."""
    tables = [[row.subject for row in section.rows] for section in sections]
    [table] = [table for table in tables if any(one.name == ours for one in table)]
    return [one.name for one in table if not one.is_ours]


def _named(peer: str, what: str, is_async: bool) -> str:
    return f"{peer}: {what}{', async' if is_async else ''}"


def _opened(make: Callable[..., Function]) -> Callable[[Function], Function]:
    """Have a peer's breaker open at the first failure, for longer than any run."""
    return lambda function: make(function, 1, ours.FOR_LONG)


def _rejection(
    name: str,
    make: Callable[[Function], Function],
    is_async: bool,
    error: type[Exception] | None = None,
) -> Row:
    service = Service()
    call = make(service.function(is_async=is_async))
    expected = ours.DEFAULT if error is None else error.__name__
    subject = unit_of(is_async=is_async).beside(
        name,
        call,
        rejects=error,
        tidy=partial(forget_traceback, call) if name.startswith("purgatory") else None,
        **_ours(make, call),
    )
    return Row(subject, (partial(proofs.rejects, call, service, expected),))


def _ours(make: Callable[[Function], Function], call: Function) -> dict[str, Any]:
    is_ours = make.__module__ == ours.__name__
    return {"is_ours": is_ours, "counted": partial(ours.counted, call) if is_ours else None}
