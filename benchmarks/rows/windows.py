"""What a breaker costs by how many calls it remembers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks import ours, proofs
from benchmarks.rows.row import Row, Section, unit_of
from benchmarks.services import Service

__all__ = ["WINDOWS", "window_of", "windows"]

WINDOWS = (10, 100, 1_000, 10_000, 100_000)


def window_of(size: int, *, failing: bool = False) -> str:
    """Return the name of the row about a window of `size` calls."""
    return f"window of {size:,}{', every other call fails' if failing else ''}"


def windows() -> Section:
    """Return what a call costs that succeeds, and one of which every other fails."""
    rows = (*map(_succeeding, WINDOWS), *map(_failing, WINDOWS))
    return Section("windows", "Breaker that remembers so many calls", rows)


def _succeeding(size: int) -> Row:
    service = Service()
    return _row(window_of(size), service, ours.breaker_alone(service.function(), size), size)


def _failing(size: int) -> Row:
    service = Service()
    call = ours.tolerant_breaker(service.function(), size)

    def tried(key: str) -> Any:
        try:
            return call(key)
        except ConnectionError:
            return None

    return _row(window_of(size, failing=True), service, call, size, tried)


def _row(
    name: str,
    service: Service,
    call: Callable[..., Any],
    size: int,
    measured: Callable[..., Any] | None = None,
) -> Row:
    """Return a row whose proof leaves the window full, and the service as it is to be measured."""

    def remembers() -> None:
        proofs.remembers(call, service, size)
        service.is_flaky = measured is not None

    subject = unit_of(is_async=False).beside(
        name, measured or call, is_ours=True, counted=partial(ours.counted, call)
    )
    return Row(subject, (remembers,))
