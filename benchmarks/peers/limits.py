"""Time limits of other libraries, and of the standard library."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from inspect import iscoroutinefunction
from typing import Any

import hyx.timeout
import interlock
import pyresilience

from benchmarks.peers.peer import ASYNC, SYNC, Function, Peer

__all__ = ["ASYNCIO_TIMEOUT", "EXECUTOR", "LIMITS", "PYRESILIENCE"]

ASYNCIO_TIMEOUT = "async with asyncio.timeout"
PYRESILIENCE = "pyresilience: timeout, sync"
EXECUTOR = "ThreadPoolExecutor.submit().result()"


def _executor(function: Function, seconds: float = 2) -> Function:
    pool = ThreadPoolExecutor()

    def guarded(*args: Any, **kwargs: Any) -> Any:
        return pool.submit(function, *args, **kwargs).result(timeout=seconds)

    return guarded


def _asyncio_timeout(function: Function, seconds: float = 2) -> Function:
    async def guarded(*args: Any, **kwargs: Any) -> Any:
        async with asyncio.timeout(seconds):
            return await function(*args, **kwargs)

    return guarded


def _hyx(function: Function, seconds: float = 2) -> Function:
    # As a decorator it binds itself to the loop that runs where it is written, and is a task each.
    async def guarded(*args: Any, **kwargs: Any) -> Any:
        async with hyx.timeout.timeout(seconds):
            return await function(*args, **kwargs)

    return guarded


def _pyresilience(function: Function, seconds: float = 2) -> Function:
    limit = pyresilience.TimeoutConfig(seconds=seconds)
    guarded: Function = pyresilience.resilient(timeout=limit)(function)
    return guarded


def _interlock(function: Function, seconds: float = 2) -> Function:
    if not iscoroutinefunction(function):
        return interlock.sync_timeout(seconds)(function)

    async def guarded(*args: Any, **kwargs: Any) -> Any:
        async with interlock.timeout(seconds):
            return await function(*args, **kwargs)

    return guarded


LIMITS = (
    Peer(EXECUTOR, _executor, SYNC),
    Peer(PYRESILIENCE, _pyresilience, SYNC),
    Peer("interlock: timeout, sync", _interlock, SYNC),
    Peer(ASYNCIO_TIMEOUT, _asyncio_timeout, ASYNC),
    Peer("pyresilience: timeout, async", _pyresilience, ASYNC),
    Peer("interlock: timeout, async", _interlock, ASYNC),
    Peer("hyx: timeout, async", _hyx, ASYNC),
)
