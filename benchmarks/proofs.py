"""Everything that is measured is first shown to do its work: what does nothing is fast as well."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from benchmarks.harness import ARGUMENT
from benchmarks.ours import ATTEMPTS, DEFAULT, counted
from benchmarks.services import Service, once

__all__ = [
    "Make",
    "Proof",
    "breaks",
    "counts_every_call",
    "keeps_answers",
    "limits",
    "rejects",
    "retries",
    "serves_default",
]

Function = Callable[..., Any]
Make = Callable[[Function], Function]
Proof = Callable[..., None]

#: More failures than any breaker here takes to open.
MANY = 30
#: More successes than a journal holds.
SUCCESSES = 300


def _attempt(call: Function) -> str:
    """Call once, and return the answer or the name of the error."""
    try:
        answer: str = once(call)
    except Exception as error:
        return type(error).__name__
    return answer


def breaks(make: Make, *, is_async: bool = False) -> None:
    """Show that calls go through, and after failures do not."""
    service = Service()
    call = make(service.function(is_async=is_async))
    assert once(call) == ARGUMENT
    service.is_down = True
    for _ in range(MANY):
        _attempt(call)
    calls = service.calls
    _attempt(call)
    assert service.calls == calls, "the circuit did not open"


def retries(make: Make, *, is_async: bool = False) -> None:
    """Show that a call that fails is tried three times, and that one that does not is not."""
    service = Service()
    call = make(service.function(is_async=is_async))
    assert (once(call), service.calls) == (ARGUMENT, 1)
    service.is_down, service.calls = True, 0
    _attempt(call)
    assert service.calls == ATTEMPTS, f"{service.calls} attempts"


def serves_default(make: Make, *, is_async: bool = False) -> None:
    """Show that a failure is answered with the default."""
    service = Service()
    call = make(service.function(is_async=is_async))
    assert once(call) == ARGUMENT
    service.is_down = True
    assert once(call) == DEFAULT


def keeps_answers(make: Make) -> None:
    """Show that the last answer for the same argument is served when calls fail."""
    service = Service()
    call = make(service.function())
    once(call)
    service.is_down = True
    assert once(call) == ARGUMENT
    try:
        call("another argument")
    except ConnectionError:
        return
    raise AssertionError("an answer was served for another argument")


def limits(make: Callable[[Function, float], Function], *, is_async: bool = False) -> None:
    """Show that what takes too long is given up."""

    def hang(_key: str) -> None:
        time.sleep(0.2)

    async def hang_async(_key: str) -> None:
        await asyncio.sleep(0.2)

    started = time.monotonic()
    assert _attempt(make(hang_async if is_async else hang, 0.02)) in ("TimeoutError", "CallTimeout")
    assert time.monotonic() - started < 0.15, "the limit came too late"


def rejects(call: Function, service: Service, expected: str) -> None:
    """Open the circuit of `call`, and show what it answers without a call."""
    service.is_down = True
    _attempt(call)
    calls = service.calls
    assert (_attempt(call), service.calls) == (expected, calls)


def counts_every_call(make: Make, *, is_async: bool = False) -> None:
    """Show that the metrics count exactly what succeeded and what was degraded."""
    service = Service()
    call = make(service.function(is_async=is_async))
    for _ in range(SUCCESSES):
        once(call)
    service.is_down = True
    once(call)
    found = counted(call, "success"), counted(call, "degraded")
    assert found == (SUCCESSES, 1), f"{found[0]} successes and {found[1]} degraded"
