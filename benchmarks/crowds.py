"""How long many threads or tasks take that do the same at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from threading import Barrier, Thread
from time import perf_counter

__all__ = ["seconds_of_tasks", "seconds_of_threads"]


def seconds_of_threads(work: Callable[[], object], threads: int) -> float:
    """Return the seconds from when all `threads` threads stand ready until the last is done."""
    times: list[float] = []
    failures: list[BaseException] = []

    def note() -> None:
        times.append(perf_counter())

    ready = Barrier(threads, action=note)

    def run() -> None:
        ready.wait()
        try:
            work()
        except BaseException as error:
            failures.append(error)
        note()

    workers = [Thread(target=run) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if failures:
        raise failures[0]
    return max(times) - min(times)


async def seconds_of_tasks(work: Callable[[], Awaitable[object]], tasks: int) -> float:
    """Return the seconds until as many tasks have been made and are done, and the loop is idle."""
    started = perf_counter()
    if tasks == 1:
        await work()
        await asyncio.sleep(0)
    else:
        async with asyncio.TaskGroup() as group:
            for _ in range(tasks):
                group.create_task(_finished(work()))
    return perf_counter() - started


async def _finished(work: Awaitable[object]) -> None:
    await work
