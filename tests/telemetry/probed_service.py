"""A service for probes: told over stdin what is to go wrong, it serves its pages on a thread.

Commands: "started", "starting", "<dependency> up|down|hang", "block <seconds>", "stick", "unstick",
"work", "finish".
"""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
import time

import resilient
from resilient import Dependency, circuit_breaker, health, unit_of_work

SECONDS_BLOCKED = 0.5
moods = {"payments": "up", "reviews": "up", "stock": "up"}
sticks, finishes = threading.Event(), threading.Event()


def ask(name: str) -> str:
    """Do as the dependency of that name does."""
    if moods[name] == "down":
        raise ConnectionError("hunter2")
    while moods[name] == "hang":
        time.sleep(0.01)
    return "answer"


def breaker() -> resilient.CircuitBreaker:
    """Return a breaker that is as quick as a test."""
    return circuit_breaker(fail_max=3, reset_timeout=0.05)


payments = Dependency("payments", critical=True, timeout=0.2, breaker=breaker())
reviews = Dependency("reviews", timeout=0.2, breaker=breaker())
health.check("stock", lambda: ask("stock"), timeout=0.1, every=0.02)


async def traffic(dependency: Dependency) -> None:
    """Call a dependency all the time, off the loop."""
    while True:
        try:
            await asyncio.to_thread(dependency.call, ask, dependency.name)
        except Exception:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.01)


def consume() -> None:
    """Beat like a consumer of a queue."""
    consumer = health.watch("consumer", limit=SECONDS_BLOCKED)
    while True:
        if not sticks.is_set():
            consumer.beat()
        time.sleep(0.02)


async def work() -> None:
    """Be a request that takes long, until it is told to finish."""
    async with unit_of_work():
        while not finishes.is_set():
            await asyncio.sleep(0.01)
    print("worked", flush=True)


def obey(loop: asyncio.AbstractEventLoop) -> None:
    """Carry out the commands that come over stdin."""
    for line in sys.stdin:
        what, *how = line.split()
        if what in moods:
            moods[what] = how[0]
        elif what == "started":
            health.started()
        elif what == "starting":
            health.started(False)
        elif what == "block":
            loop.call_soon_threadsafe(time.sleep, float(how[0]))
        elif what == "work":
            asyncio.run_coroutine_threadsafe(work(), loop)
        elif what == "finish":
            finishes.set()
        else:
            (sticks.set if what == "stick" else sticks.clear)()


async def main() -> None:
    """Serve until SIGTERM, then finish what is in flight."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def end() -> None:
        resilient.drain(timeout=5)
        ended.set()

    loop.add_signal_handler(signal.SIGTERM, end)
    health.watch_loop(limit=SECONDS_BLOCKED)
    threading.Thread(target=consume, daemon=True).start()
    threading.Thread(target=obey, args=(loop,), daemon=True).start()
    server = resilient.serve(port=0)
    tasks = [asyncio.create_task(traffic(one)) for one in (payments, reviews)]
    print(server.port, flush=True)
    await ended.wait()
    print("all ended" if await resilient.drain(timeout=5) else "left behind", flush=True)
    for task in tasks:
        task.cancel()
    server.close()


if __name__ == "__main__":
    asyncio.run(main())
