"""What other libraries do in the cases of `docs/comparison.md`, found by running them.

`python -m benchmarks.compared` runs every case, and says where the page differs; `--write` puts
what was found into the page. The page names the versions: with others, a difference is told but is
no error. Quotes on the page are looked up in what each distribution says of itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from itertools import count
from pathlib import Path
from threading import Barrier, Event, get_ident
from types import TracebackType
from typing import Any

import stamina.instrumentation

from benchmarks import ours, proofs
from benchmarks.distributions import facts, unfounded
from benchmarks.harness import ARGUMENT
from benchmarks.peers.breakers import BREAKERS
from benchmarks.peers.limits import LIMITS
from benchmarks.peers.peer import Function, Peer
from benchmarks.peers.retries import RETRIES
from benchmarks.services import Service, once
from resilient import circuit_breaker, timeout

PAGE = Path(__file__).parents[1] / "docs" / "comparison.md"
CALLERS = 20
NOT = "-"
_names = map("compared-{}".format, count())


def _breaker(function: Function, failures: int = 5, seconds: float = 60) -> Function:
    return circuit_breaker(next(_names), fail_max=failures, reset_timeout=seconds)(function)


OUR_BREAKER = Peer("resilient", _breaker)
OUR_RETRY = Peer("resilient", ours.retry_alone)
OUR_LIMIT = Peer("resilient", lambda function, seconds: timeout(seconds)(function))


def _does(proof: proofs.Proof, make: Callable[..., Function], *, is_async: bool) -> bool:
    """Return whether what `make` guards passes `proof`."""
    try:
        proof(make, is_async=is_async)
    except Exception:
        return False
    return True


def _said(does: bool) -> str:
    return "yes" if does else "no"


# Breakers


def _run(call: Function, *, is_async: bool, callers: int) -> float:
    """Call from so many threads, or tasks, at once; return the seconds that it took."""
    barrier = Barrier(callers)

    def enter() -> None:
        barrier.wait()
        with contextlib.suppress(Exception):
            call(ARGUMENT)

    async def gather() -> None:
        await asyncio.gather(*(call(ARGUMENT) for _ in range(callers)), return_exceptions=True)

    started = time.monotonic()
    if is_async:
        asyncio.run(gather())
    else:
        with ThreadPoolExecutor(callers) as pool:
            for _ in range(callers):
                pool.submit(enter)
    return time.monotonic() - started


def _slow(service: Service, seconds: float, *, is_async: bool) -> Function:
    fast = service.function(is_async=is_async)

    def serve(key: str) -> Any:
        answer = fast(key)
        time.sleep(seconds)
        return answer

    async def serve_async(key: str) -> Any:
        answer = await fast(key)
        await asyncio.sleep(seconds)
        return answer

    return serve_async if is_async else serve


def _overlap(peer: Peer, *, is_async: bool) -> str:
    call = peer.make(_slow(Service(), 0.1, is_async=is_async))
    took = _run(call, is_async=is_async, callers=8)
    return "at once" if took < 0.5 else "one after the other"


def _half_open(peer: Peer, *, is_async: bool) -> str:
    """Return how many of many callers get through to what is just coming back."""
    service = Service(is_down=True)
    call = peer.make(_slow(service, 0.2, is_async=is_async), 1, 0.1)
    with contextlib.suppress(Exception):
        once(call)
    service.is_down, service.calls = False, 0
    time.sleep(0.2)
    took = _run(call, is_async=is_async, callers=CALLERS)
    return f"{service.calls}, one after the other" if took > 2 else str(service.calls)


def _cancelled(peer: Peer) -> str:
    """Return what ten cancelled calls do to a circuit that opens after five failures."""
    service = Service()
    call = peer.make(_slow(service, 0.2, is_async=True))

    async def cancel() -> None:
        for _ in range(10):
            task: asyncio.Future[Any] = asyncio.ensure_future(call(ARGUMENT))
            await asyncio.sleep(0.001)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task
        service.calls = 0
        with contextlib.suppress(Exception):
            await call(ARGUMENT)

    asyncio.run(cancel())
    return "stays closed" if service.calls else "opens"


def _error(call: Function) -> Exception | None:
    try:
        once(call)
    except Exception as error:
        return error
    return None


def _own_error(peer: Peer, *, is_async: bool) -> str:
    call = peer.make(Service(is_down=True).function(is_async=is_async), 1)
    error = _error(call)
    return "its own" if type(error) is ConnectionError else f"`{type(error).__name__}`"


def _frames(traceback: TracebackType | None) -> int:
    frames = 0
    while traceback is not None:
        traceback, frames = traceback.tb_next, frames + 1
    return frames


def _traceback(peer: Peer, *, is_async: bool) -> str:
    call = peer.make(Service(is_down=True).function(is_async=is_async), 1)
    once_open = [_error(call) for _ in range(101)]
    first, last = once_open[1], once_open[-1]
    assert first is not None
    assert last is not None
    return "short" if first is not last or _frames(last.__traceback__) < 50 else "grows"


def breakers() -> list[list[str]]:
    """Return a row for each breaker."""
    rows = []
    for peer in (OUR_BREAKER, *BREAKERS):
        sync, is_async = (_does(proofs.breaks, peer.make, is_async=one) for one in (False, True))
        colour = not sync
        rows.append(
            [
                peer.name,
                _said(sync),
                _said(is_async),
                _overlap(peer, is_async=colour),
                _half_open(peer, is_async=colour),
                _cancelled(peer) if is_async else NOT,
                _own_error(peer, is_async=colour),
                _traceback(peer, is_async=colour),
            ]
        )
    return rows


# Retries


def _load(peer: Peer, *, is_async: bool) -> str:
    service = Service(is_down=True)
    call = peer.make(service.function(is_async=is_async))
    for _ in range(100):
        _error(call)
    return str(service.calls)


def _stream(peer: Peer) -> str:
    """Return whether a generator that fails before its first item is tried again."""
    service = Service(is_flaky=True)

    def stream(key: str) -> Any:
        yield service.function()(key)

    try:
        return _said(list(peer.make(stream)(ARGUMENT)) == [ARGUMENT])
    except Exception:
        return "no"


def retries() -> list[list[str]]:
    """Return a row for each retry."""
    rows = []
    for peer in (OUR_RETRY, *RETRIES):
        sync, is_async = (_does(proofs.retries, peer.make, is_async=one) for one in (False, True))
        rows.append(
            [
                peer.name,
                _said(sync),
                _said(is_async),
                _load(peer, is_async=not sync),
                _stream(peer) if sync else NOT,
            ]
        )
    return rows


# Time limits

_variable: ContextVar[str] = ContextVar("_variable", default="nothing")


def _own_timeout(peer: Peer, *, is_async: bool) -> str:
    """Return what comes out when the function raises a `TimeoutError` of its own at once."""
    own = TimeoutError("mine")

    def fail(_key: str) -> None:
        raise own

    async def fail_async(_key: str) -> None:
        raise own

    found = _error(peer.make(fail_async if is_async else fail, 30.0))
    return "unchanged" if found is own else f"`{type(found).__name__}`"


def _context(peer: Peer) -> str:
    _variable.set("set by the caller")
    found = once(peer.make(lambda _key: _variable.get(), 2.0))
    return "seen" if found == "set by the caller" else "lost"


def _hung(peer: Peer) -> tuple[str, str]:
    """Return the threads that hung calls take, and whether a call works when they have ended."""
    ends = Event()
    hung: set[int] = set()

    def answer(key: str) -> str:
        hung.add(get_ident())
        ends.wait(5)
        return key

    call = peer.make(answer, 0.01)
    for _ in range(100):
        _error(call)
    threads = len(hung)
    ends.set()
    time.sleep(0.2)
    return str(threads), _said(_error(call) is None)


def limits() -> list[list[str]]:
    """Return a row for each time limit."""
    by_library: dict[str, dict[bool, Peer]] = {
        "resilient": {False: OUR_LIMIT, True: OUR_LIMIT},
        "hyx": {},
        "pyresilience": {},
        "interlock": {},
    }
    for peer in LIMITS:
        library = peer.name.partition(":")[0]
        if library in by_library:
            by_library[library] |= dict.fromkeys(peer.colours, peer)
    rows = []
    for library, peers in by_library.items():
        does = {
            colour: colour in peers and _does(proofs.limits, peers[colour].make, is_async=colour)
            for colour in (False, True)
        }
        colour = not does[False]
        sync = peers.get(False)
        rows.append(
            [
                library,
                _said(does[False]),
                _said(does[True]),
                _own_timeout(peers[colour], is_async=colour),
                *([_context(sync), *_hung(sync)] if sync is not None else [NOT] * 3),
            ]
        )
    return rows


TABLES: dict[str, tuple[list[str], Callable[[], list[list[str]]]]] = {
    "facts": (["library", "version", "Python", "what it needs"], facts),
    "breakers": (
        [
            "library",
            "`def`",
            "`async def`",
            "eight callers of 100 ms",
            f"of {CALLERS} callers at once on a half-open circuit get through",
            "ten cancelled calls",
            "the failing call that opens it raises",
            "traceback of rejections",
        ],
        breakers,
    ),
    "retries": (
        [
            "library",
            "`def`",
            "`async def`",
            "attempts for 100 calls in an outage",
            "a generator that fails before its first item",
        ],
        retries,
    ),
    "limits": (
        [
            "library",
            "`def`",
            "`async def`",
            "the function's own `TimeoutError`",
            "context variables on a thread",
            "threads taken by 100 hung calls",
            "works when they have ended",
        ],
        limits,
    ),
}


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _place(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?<=<!-- {name} -->\n\n).*?(?=\n\n<!-- end -->)", re.DOTALL)


def main() -> int:
    """Compare, and return 1 if the page says something else of the versions that it names."""
    logging.disable(logging.CRITICAL)
    stamina.instrumentation.set_on_retry_hooks([])
    page = PAGE.read_text(encoding="utf-8")
    found = page
    for name, (header, rows) in TABLES.items():
        table = _table(header, rows())
        print(f"{table}\n")
        found = _place(name).sub(table.replace("\\", r"\\"), found)
    missing = unfounded(found)
    print(*(f"not found: {one}" for one in missing), sep="\n")
    if "--write" in sys.argv:
        PAGE.write_text(found, encoding="utf-8")
        return 1 if missing else 0
    same_versions = _place("facts").findall(found) == _place("facts").findall(page)
    if found == page and not missing:
        print("docs/comparison.md says the same")
        return 0
    print("docs/comparison.md differs", "" if same_versions else "(it names other versions)")
    return 1 if same_versions else 0


if __name__ == "__main__":
    sys.exit(main())
