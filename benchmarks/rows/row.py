"""What a row is made of: something to measure, with the proofs that it does its work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from benchmarks import ours
from benchmarks.harness import Subject
from benchmarks.peers.peer import Peer
from benchmarks.proofs import Proof
from benchmarks.services import answer, answer_async, answer_later, renamed, wrapped, wrapped_async

__all__ = ["Row", "Section", "ours_row", "peer_rows", "unit_of"]

Function = Callable[..., Any]

_UNITS = (
    Subject("do-nothing wrapper", wrapped(answer)),
    Subject("do-nothing wrapper, async", wrapped_async(answer_async), is_async=True),
)


@dataclass(frozen=True, slots=True)
class Row:
    """A subject with the proofs that it does its work."""

    subject: Subject
    proofs: tuple[Callable[[], None], ...] = ()


@dataclass(frozen=True, slots=True)
class Section:
    """Rows that belong together; `name` is that of its chart's file."""

    name: str
    title: str
    rows: tuple[Row, ...]


def unit_of(*, is_async: bool, crowd: int = 0) -> Subject:
    """Return the wrapper that does nothing, called by as many threads or tasks at once.

    What many tasks call lets the others have their turn first, also where there is one of them.
    """
    unit = _UNITS[is_async]
    if not crowd:
        return unit
    who = f"{crowd:,} {'task' if is_async else 'thread'}{'s' if crowd > 1 else ''}"
    call = wrapped_async(answer_later) if is_async else unit.call
    return replace(unit, name=f"do-nothing wrapper, {who}", call=call, crowd=crowd)


def ours_row(
    name: str,
    make: Callable[[Function], Function],
    *proofs: Proof,
    is_async: bool = False,
    crowd: int = 0,
) -> Row:
    """Return a row of this library, whose calls are counted by its metrics."""
    unit = unit_of(is_async=is_async, crowd=crowd)
    function = (answer_later if crowd else answer_async) if is_async else answer
    call = make(renamed(function, name))
    subject = unit.beside(name, call, is_ours=True, counted=partial(ours.counted, call))
    return Row(subject, tuple(partial(proof, make, is_async=is_async) for proof in proofs))


def peer_rows(
    peers: Sequence[Peer], what: str, *proofs: Proof, is_async: bool = False, crowd: int = 0
) -> list[Row]:
    """Return a row for each of `peers` that can guard a function of that colour."""
    unit = unit_of(is_async=is_async, crowd=crowd)
    function = (answer_later if crowd else answer_async) if is_async else answer
    return [
        Row(
            unit.beside(f"{peer.name}{what}", peer.make(function)),
            tuple(partial(proof, peer.make, is_async=is_async) for proof in proofs),
        )
        for peer in peers
        if is_async in peer.colours
    ]
