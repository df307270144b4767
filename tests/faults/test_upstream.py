"""Guarded clients before a server that is broken for real."""

from __future__ import annotations

import asyncio
import http.client
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import httpx
import pytest

from resilient import CallTimeout, CircuitBreaker, CircuitOpen, timeout, with_fallback
from tests.faults.upstream import FAULTS, Upstream

_names = (f"upstream {number}" for number in count())
#: The seconds that a call has. A loaded machine may need some of them for a healthy one.
LIMIT = 1.0
#: Far beyond the limit, and far below what the server takes when it hangs.
BACK_BY = 6.0


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        yield server


def with_urllib(url: str) -> str:
    with urllib.request.urlopen(url) as answer:
        return answer.read().decode()


def with_httpx(url: str) -> str:
    with httpx.Client(timeout=None, trust_env=False, verify=False) as client:
        return client.get(url).text


async def with_async_httpx(url: str) -> str:
    async with httpx.AsyncClient(timeout=None, trust_env=False, verify=False) as client:
        return (await client.get(url)).text


CLIENTS = {"urllib": with_urllib, "httpx": with_httpx, "httpx on asyncio": with_async_httpx}
#: What each client says of each fault by itself, where it says anything.
SAID = (
    OSError,
    http.client.HTTPException,
    urllib.error.URLError,
    httpx.TransportError,
)


def caller(guarded: Callable[..., Any]) -> Callable[[str], Any]:
    """Return what calls `guarded` from a thread or on a loop."""

    def call(url: str) -> Any:
        result = guarded(url)
        return asyncio.run(result) if asyncio.iscoroutine(result) else result

    return call


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("client", CLIENTS.values(), ids=CLIENTS)
def test_a_broken_upstream_is_cut_noticed_stood_in_for_and_found_well_again(
    upstream: Upstream, client: Any, fault: str
) -> None:
    """Limits hold, errors surface as they were, the circuit opens, and it closes again."""
    breaker = CircuitBreaker(next(_names), fail_max=2, reset_timeout=60)
    bare = caller(breaker(timeout(LIMIT)(client)))
    degrading = caller(with_fallback("fallback", on=Exception)(breaker(timeout(LIMIT)(client))))

    assert bare(upstream.url) == "answer"
    upstream.mode = fault
    hangs = fault in ("silent", "trickle")
    last: BaseException | None = None
    for _ in range(2):
        began = time.monotonic()
        with pytest.raises(CallTimeout if hangs else SAID) as failed:
            bare(upstream.url)
        assert time.monotonic() - began < BACK_BY
        last = failed.value
        assert isinstance(last, CallTimeout) == hangs

    reached = upstream.connections
    with pytest.raises(CircuitOpen) as rejected:
        bare(upstream.url)
    assert rejected.value.__cause__ is last
    assert degrading(upstream.url) == "fallback"
    assert upstream.connections == reached

    upstream.mode = "well"
    breaker.half_open()
    assert bare(upstream.url) == "answer"
    assert breaker.current_state == "closed"


def test_a_name_that_is_never_resolved_is_cut_like_any_call(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resolving blocks in C, where no interruption reaches it: the caller goes on all the same."""
    resolved = socket.getaddrinfo

    def hanging(*args: Any, **kwargs: Any) -> Any:
        time.sleep(2)
        return resolved(*args, **kwargs)

    url = upstream.url.replace("127.0.0.1", "localhost")
    guarded = caller(timeout(0.2, max_abandoned=2)(with_urllib))
    monkeypatch.setattr(socket, "getaddrinfo", hanging)
    began = time.monotonic()
    with pytest.raises(CallTimeout):
        guarded(url)
    assert time.monotonic() - began < 1.5

    async def in_a_task() -> float:
        began = time.monotonic()
        with pytest.raises(CallTimeout):
            await timeout(0.2)(with_async_httpx)(url)
        return time.monotonic() - began

    assert asyncio.run(in_a_task()) < 1.5
    monkeypatch.undo()
    assert caller(timeout(10)(with_urllib))(url) == "answer"
    assert caller(timeout(10)(with_async_httpx))(url) == "answer"
