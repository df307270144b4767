"""Everything that is measured is first shown to do its work: what does nothing is fast as well."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from benchmarks.harness import ARGUMENT
from benchmarks.ours import ATTEMPTS, DEFAULT, breaker_of, counted
from benchmarks.services import Service, once
from resilient import remaining

__all__ = [
    "Make",
    "Proof",
    "breaks",
    "caps",
    "counts_every_call",
    "keeps_answers",
    "limits",
    "rations",
    "rejects",
    "remembers",
    "retries",
    "serves_default",
    "tells_what_is_left",
]

Function = Callable[..., Any]
Make = Callable[[Function], Function]
Proof = Callable[..., None]

#: More failures than any breaker here takes to open.
MANY = 30
#: More successes than a journal holds.
SUCCESSES = 300
#: What a limit raises, by library.
TIMEOUTS = (
    "TimeoutError",
    "CallTimeout",
    "CallTimeoutError",
    "MaxDurationExceeded",
    "ResilienceTimeoutError",
)


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


def keeps_answers(make: Make, *, is_async: bool = False) -> None:
    """Show that the last answer for the same argument is served when calls fail."""
    service = Service()
    call = make(service.function(is_async=is_async))
    once(call)
    service.is_down = True
    assert once(call) == ARGUMENT
    other = _attempt(lambda _: call("another argument"))
    assert other == "ConnectionError", "an answer was served for another argument"


def limits(make: Callable[[Function, float], Function], *, is_async: bool = False) -> None:
    """Show that what takes too long is given up."""

    def hang(_key: str) -> None:
        time.sleep(0.2)

    async def hang_async(_key: str) -> None:
        await asyncio.sleep(0.2)

    started = time.monotonic()
    found = _attempt(make(hang_async if is_async else hang, 0.02))
    assert found in TIMEOUTS, f"{found} instead of a timeout"
    assert time.monotonic() - started < 0.15, "the limit came too late"


def rejects(call: Function, service: Service, expected: str) -> None:
    """Open the circuit of `call`, and show what it answers without a call."""
    service.is_down = True
    _attempt(call)
    calls = service.calls
    assert (_attempt(call), service.calls) == (expected, calls)


def remembers(call: Function, service: Service, window: int) -> None:
    """Show that a breaker's window holds the last `window` calls, and no other."""
    breaker = breaker_of(call)
    service.is_flaky = False
    for _ in range(window):
        call(ARGUMENT)
    service.is_down = True
    _attempt(call)
    service.is_down = False
    found = breaker.failure_rate
    assert abs(found * window - 1) < 1e-6, f"a window of {round(1 / found) if found else 'nothing'}"


def caps(make: Callable[[Function, int], Function], *, is_async: bool = False) -> None:
    """Show that a call is rejected while as many as are allowed are being made."""
    inner = "from within"

    def again(key: str) -> str:
        answer: str = key if key == inner else call(inner)
        return answer

    async def again_async(key: str) -> str:
        answer: str = key if key == inner else await call(inner)
        return answer

    call = make(again_async if is_async else again, 1)
    assert _attempt(call) == "BulkheadFull", "a second call was let in"


def rations(make: Callable[[Function, int], Function], *, is_async: bool = False) -> None:
    """Show that of four calls at once, with three allowed, the last is rejected."""
    call = make(Service().function(is_async=is_async), 3)
    assert [_attempt(call) for _ in range(4)] == [ARGUMENT] * 3 + ["RateLimited"]


def tells_what_is_left(
    make: Callable[[Function, float], Function], *, is_async: bool = False
) -> None:
    """Show that a call knows what time is left."""

    def look(_key: str) -> float | None:
        return remaining()

    async def look_async(_key: str) -> float | None:
        return remaining()

    left = once(make(look_async if is_async else look, 5.0))
    assert left is not None, "no limit"
    assert 4.0 < left <= 5.0, f"{left} seconds are left"


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
