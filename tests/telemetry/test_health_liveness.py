"""The watchdog: what is stuck is noticed, and dependencies are nobody's business here."""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from resilient import (
    Dependency,
    DuplicateName,
    InvalidSetting,
    InvalidUse,
    circuit_breaker,
    drain,
    health,
)
from resilient.telemetry.health import liveness
from resilient.testing import VirtualLoop, VirtualTime
from tests.doubles import Scripted, each


@pytest.fixture(autouse=True)
def nobody_is_watched() -> Iterator[None]:
    """End what a test has left."""
    yield
    liveness._forget_all()


def status() -> tuple[int, str]:
    report = health.live()
    return report.http_status, report.status


def test_a_process_in_which_nobody_is_watched_is_alive() -> None:
    """It has answered, which is all that is known."""
    assert health.live().as_dict() == {"status": "pass"}


def test_liveness_looks_at_no_dependency(virtual_time: VirtualTime) -> None:
    """An open circuit, a failing check and draining are no reason for a restart."""
    breaker = circuit_breaker()
    kept = Dependency("not looked at by liveness", critical=True, breaker=breaker)
    breaker.force_open()
    health.check("not looked at", Scripted(ConnectionError))
    drained = drain(0)
    health.ready()
    virtual_time.advance(60)
    assert health.ready().http_status == 503
    assert health.live().as_dict() == {"status": "pass"}
    drained.resume()
    health.remove("not looked at")
    assert kept.critical


# Threads


def test_a_thread_that_gives_signs_of_life_is_alive(virtual_time: VirtualTime) -> None:
    """For as long as it does, within its limit."""
    consumer = health.watch("consumer", limit=60)
    for _ in range(10):
        virtual_time.advance(60)
        assert status() == (200, "pass")
        consumer.beat()


def test_a_thread_that_is_stuck_is_noticed_within_its_limit(virtual_time: VirtualTime) -> None:
    """Red right after the limit, green with the next sign of life."""
    consumer = health.watch("consumer", limit=60)
    virtual_time.advance(60)
    assert status() == (200, "pass")
    virtual_time.advance(0.001)
    assert status() == (503, "fail")
    assert health.live().checks == {
        "consumer:turns": [
            {
                "componentType": "system",
                "status": "fail",
                "observedValue": 60.001,
                "observedUnit": "s",
                "limitSeconds": 60,
            }
        ]
    }
    consumer.beat()
    assert status() == (200, "pass")


def test_who_has_ended_in_good_order_is_not_stuck(virtual_time: VirtualTime) -> None:
    """And the name is free again."""
    health.watch("consumer", limit=60).stop()
    virtual_time.advance(3600)
    assert status() == (200, "pass")
    health.watch("consumer", limit=60)


def test_a_thread_that_has_died_is_noticed() -> None:
    """It has not said that it has ended; nobody else would."""

    def consume() -> None:
        health.watch("that dies", limit=0.05)

    thread = threading.Thread(target=consume)
    thread.start()
    thread.join()
    time.sleep(0.06)
    assert status() == (503, "fail")


def test_where_it_is_stuck_is_logged_once(virtual_time: VirtualTime) -> None:
    """The line that the thread is at, when it is first found, and again the next time."""
    at_work, release = threading.Event(), threading.Event()

    def stuck_here() -> None:
        watched.beat()
        at_work.set()
        release.wait()

    watched = health.watch("stuck", limit=60)
    thread = threading.Thread(target=stuck_here)
    thread.start()
    at_work.wait()
    with capture_logs() as logs:
        virtual_time.advance(61)
        for _ in range(5):
            health.live()
        release.set()
        thread.join()
        watched.beat()
        health.live()
        virtual_time.advance(61)
        health.live()
    assert [one["event"] for one in logs] == ["resilient.stall_noticed"] * 2
    assert logs[0]["watch"] == "stuck"
    assert "threading.py" in logs[0]["at"]
    assert "at" not in logs[1]


# Loops


def test_a_loop_that_gets_its_turn_is_alive(virtual_time: VirtualTime) -> None:
    """Idle or busy with short steps."""

    async def main() -> None:
        health.watch_loop(limit=5)
        for _ in range(20):
            await asyncio.sleep(3)
            assert status() == (200, "pass")

    virtual_time.run(main())


def test_a_blocked_loop_is_noticed_within_its_limit() -> None:
    """Another thread sees it, before the limit is much over, and sees it come back."""
    seen: list[tuple[float, int]] = []

    def ask(began: float) -> None:
        while time.monotonic() - began < 0.6:
            seen.append((time.monotonic() - began, health.live().http_status))
            time.sleep(0.01)

    async def main() -> None:
        health.watch_loop(limit=0.2)
        await asyncio.sleep(0.05)
        asking = threading.Thread(target=ask, args=(time.monotonic(),))
        asking.start()
        time.sleep(0.45)  # what is to be noticed
        await asyncio.sleep(0.15)
        asking.join()

    asyncio.run(main())
    red = [at for at, code in seen if code == 503]
    assert 0.15 < red[0] < 0.25
    assert red[-1] < 0.55
    assert seen[-1][1] == 200


def test_where_a_loop_is_blocked_is_logged() -> None:
    """The line of the coroutine that does not give way."""

    async def main() -> list[object]:
        health.watch_loop(limit=0.05)
        await asyncio.sleep(0)
        with capture_logs() as logs:
            asking = threading.Timer(0.15, health.live)
            asking.start()
            time.sleep(0.2)  # what is to be noticed
            asking.join()
        return [one["at"] for one in logs]

    [place] = asyncio.run(main())
    assert "test_health_liveness.py" in str(place)
    assert str(place).endswith("main")


def test_a_loop_that_has_ended_is_not_stuck(virtual_time: VirtualTime) -> None:
    """A program may run one loop after the other; the watch ends with its loop."""

    async def main() -> None:
        health.watch_loop(limit=5)

    for _ in range(3):
        virtual_time.run(main())
        virtual_time.advance(60)
        assert health.live().as_dict() == {"status": "pass"}


def test_a_loop_can_be_watched_after_another_that_nobody_asked_about() -> None:
    """A service that is started again and again in its tests watches its loop each time."""

    async def main() -> None:
        health.watch_loop(limit=5)

    for _ in range(3):
        asyncio.run(main())


def test_a_loop_that_is_stopped_is_not_stuck_and_watched_again_when_it_goes_on() -> None:
    """Some programs run a loop for a task at a time."""
    loop = asyncio.new_event_loop()
    try:
        health.watch_loop(limit=0.05, loop=loop)
        loop.run_until_complete(asyncio.sleep(0.01))
        time.sleep(0.06)
        assert status() == (200, "pass")
        loop.run_until_complete(asyncio.sleep(0.02))
        assert liveness._watched["event loop"].silent_for < 0.05
    finally:
        loop.close()


def test_two_loops_are_watched_apart() -> None:
    """One that is blocked shows which it is."""
    release, blocked = threading.Event(), threading.Event()

    async def other() -> None:
        health.watch_loop(limit=0.05, name="second loop")
        await asyncio.sleep(0.01)
        blocked.set()
        release.wait()

    async def main() -> None:
        health.watch_loop(limit=0.05, name="first loop")
        thread = threading.Thread(target=asyncio.run, args=(other(),))
        thread.start()
        while not blocked.is_set():
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.08)
        checks = health.live().checks
        release.set()
        await asyncio.to_thread(thread.join)
        assert checks["second loop:turns"][0]["status"] == "fail"
        assert checks["first loop:turns"][0]["status"] == "pass"

    asyncio.run(main())


# How they are written


def test_without_a_loop_there_is_nothing_to_watch() -> None:
    """That is told at once, not when a probe finds nothing."""
    with pytest.raises(InvalidUse, match="no event loop is running"):
        health.watch_loop()


def test_a_name_is_watched_once() -> None:
    """Two of one name would hide each other."""
    health.watch("twice")
    with pytest.raises(DuplicateName, match="watch named 'twice'"):
        health.watch("twice")


def test_a_module_that_is_loaded_anew_may_watch_under_its_names_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old watch neither is judged nor takes the new one away when it ends."""
    (tmp_path / "reloaded_watch.py").write_text(
        "from resilient import health\n"
        "def begin(loop): return health.watch_loop(limit=5, loop=loop)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with VirtualTime() as virtual, asyncio.Runner(loop_factory=lambda: VirtualLoop(virtual)) as on:
        module = importlib.import_module("reloaded_watch")
        try:
            old = module.begin(on.get_loop())
            new = importlib.reload(module).begin(on.get_loop())
        finally:
            del sys.modules["reloaded_watch"]

        async def main() -> None:
            await asyncio.sleep(60)
            assert new.silent_for < 1
            assert old.silent_for == 60
            old.stop()
            await asyncio.sleep(60)
            assert list(health.live().checks) == ["event loop:turns"]
            assert status() == (200, "pass")

        on.run(main())


def test_a_watch_says_how_long_it_has_heard_nothing(virtual_time: VirtualTime) -> None:
    """For those who look at it in a debugger."""
    consumer = health.watch("consumer", limit=60)
    virtual_time.advance(2.5)
    assert repr(consumer) == "<Watch consumer: 2.5 s of at most 60 s>"


def test_garbage_that_is_not_collected_is_not_collected_afterwards(
    virtual_time: VirtualTime,
) -> None:
    """Where somebody is stuck is looked up without collecting, whoever has turned that off."""
    health.watch("stuck", limit=1)
    virtual_time.advance(2)
    gc.disable()
    try:
        with capture_logs() as logs:
            health.live()
        assert not gc.isenabled()
    finally:
        gc.enable()
    assert [one["event"] for one in logs] == ["resilient.stall_noticed"]


@each("limit", {"0": 0, "negative": -1, "for ever": float("inf"), "a text": "5s"})
def test_wrong_limits_are_told(limit: float) -> None:
    """And nobody is watched."""
    with pytest.raises(InvalidSetting, match="limit"):
        health.watch("wrong", limit=limit)
    assert health.live().checks == {}


def test_a_forked_child_watches_nobody_of_its_parent() -> None:
    """Threads and loops stay behind at a fork: they would look stuck for ever."""
    health.watch("of the parent", limit=60)
    child = os.fork()
    if child == 0:
        os._exit(0 if health.live().checks == {} else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert list(health.live().checks) == ["of the parent:turns"]


def test_to_say_where_a_thread_stands_is_safe_while_garbage_is_collected() -> None:
    """Python 3.11 can stand still for ever here, in the answer that is to find out who does."""
    script = (
        "import faulthandler, gc, threading, time\n"
        "from resilient import health\n"
        "faulthandler.dump_traceback_later(20, exit=True)\n"
        "gc.set_threshold(1)\n"
        "class Cyclic:\n"
        "    def __init__(self): self.me = self\n"
        "    def __del__(self): time.sleep(0)\n"
        "def begin_threads():\n"
        "    while True:\n"
        "        thread = threading.Thread(target=int)\n"
        "        thread.start()\n"
        "        thread.join()\n"
        "def stuck():\n"
        "    health.watch('stuck', limit=0.01)\n"
        "    time.sleep(60)\n"
        "for run in (stuck, *[begin_threads] * 4, *[lambda: time.sleep(60)] * 40):\n"
        "    threading.Thread(target=run, daemon=True).start()\n"
        "time.sleep(0.1)\n"
        "until = time.monotonic() + 1\n"
        "while time.monotonic() < until:\n"
        "    [Cyclic() for _ in range(3)]\n"
        "    assert health.live().status == 'fail'\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=40)
