"""Checks of health: asked in the background, shown from memory, and red when they should be."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from resilient import DuplicateName, InvalidSetting, InvalidUse, circuit_breaker, health, retry
from resilient.engine.reported import all_readings
from resilient.telemetry.health import checks
from resilient.testing import VirtualTime
from tests.doubles import Scripted, each
from tests.waiting import eventually


@pytest.fixture(autouse=True)
def no_checks_are_left() -> Iterator[None]:
    """Take away what a test has added."""
    yield
    for one in checks._checks.all():
        health.remove(one.name)
    health.show_details(False)


def shown(name: str) -> dict[str, Any]:
    """Return what readiness says about a check."""
    [found] = health.ready().checks[f"{name}:check"]
    return found


def asked(virtual: VirtualTime, name: str, seconds: float = 0) -> str:
    """Return the status of a check after `seconds`, in which it is asked when it is due."""
    health.ready()
    virtual.advance(seconds)
    status: str = shown(name)["status"]
    return status


# Green, and red


def test_a_check_that_passes_is_green(virtual_time: VirtualTime) -> None:
    """It shows how long it took and how old the answer is."""
    health.check("database", lambda: virtual_time.sleep(0.25), every=5)
    assert asked(virtual_time, "database", 2) == "pass"
    assert shown("database") == {
        "componentType": "component",
        "status": "pass",
        "critical": True,
        "observedValue": 250.0,
        "observedUnit": "ms",
        "ageSeconds": 1.75,
    }


@each(
    "answer, failure",
    {
        "an error": (ConnectionError, "ConnectionError"),
        "False": (False, "returned False"),
        "an error of a library without a text": (KeyError(), "KeyError"),
    },
)
def test_a_check_that_fails_is_red(virtual_time: VirtualTime, answer: object, failure: str) -> None:
    """Raising and returning False are a no; the process is not ready."""
    health.check("red", Scripted(answer))
    assert asked(virtual_time, "red") == "fail"
    assert shown("red")["lastFailure"] == failure
    assert health.ready().http_status == 503


@each("answer", {"None": None, "True": True, "zero": 0, "an empty list": []})
def test_whatever_else_a_check_returns_is_a_yes(virtual_time: VirtualTime, answer: object) -> None:
    """Most functions that ping return nothing of interest; only False is a no."""
    health.check("green", lambda: answer)
    assert asked(virtual_time, "green") == "pass"


def test_a_check_that_is_not_critical_is_a_warning(virtual_time: VirtualTime) -> None:
    """It is shown, and traffic goes on."""
    health.check("reviews", Scripted(ConnectionError), critical=False)
    assert asked(virtual_time, "reviews") == "warn"
    assert health.ready().http_status == 200


def test_a_check_turns_red_and_green_again(virtual_time: VirtualTime) -> None:
    """Each at the next time that it is asked, with the time since which it fails; told once."""
    answers = Scripted("well", *[ConnectionError] * 3, "well")
    health.check("database", answers, every=5)
    seen: list[tuple[str, float | None]] = []
    with capture_logs() as logs:
        for seconds in (0, 5, 5, 5, 5):
            status = asked(virtual_time, "database", seconds)
            seen.append((status, shown("database").get("failingForSeconds")))
    assert seen == [("pass", None), ("fail", 0), ("fail", 5), ("fail", 10), ("pass", None)]
    events = [(one["event"], one["check"]) for one in logs]
    assert events == [
        ("resilient.check_failed", "database"),
        ("resilient.check_recovered", "database"),
    ]
    assert logs[0]["error"] == "ConnectionError"


def test_a_check_that_hangs_is_red_after_its_limit(virtual_time: VirtualTime) -> None:
    """Its own limit is what it fails by, not the patience of who asks."""
    health.check("hung", lambda: virtual_time.sleep(3600), timeout=2, every=5)
    assert asked(virtual_time, "hung", 2) == "fail"
    assert shown("hung")["lastFailure"] == "CallTimeout"


def test_before_its_first_answer_a_check_is_not_green() -> None:
    """Nobody knows yet; a critical one keeps traffic away until somebody does."""
    release = threading.Event()
    health.check("unknown", release.wait, timeout=30)
    health.check("unknown and not critical", release.wait, timeout=30, critical=False)
    assert shown("unknown")["status"] == "fail"
    assert shown("unknown")["output"] == "no result yet"
    assert shown("unknown and not critical")["status"] == "warn"
    release.set()
    until("unknown", "pass")


def test_an_old_answer_is_not_the_last_good_one(virtual_time: VirtualTime) -> None:
    """When no answers come any more, the check is red, whatever the last one was."""
    health.check("silent", Scripted("well"), timeout=1, every=5)
    assert asked(virtual_time, "silent") == "pass"
    checks._checks._by_name["silent"].end()  # as if its thread had been lost
    assert asked(virtual_time, "silent", 16) == "pass"
    assert asked(virtual_time, "silent", 0.1) == "fail"
    assert shown("silent")["output"] == "results have stopped coming"


def test_metrics_show_checks() -> None:
    """One series for each, 1 while it passes: alerts can be written on it."""

    def value() -> list[float]:
        return [one.value for one in all_readings() if dict(one.labels) == {"check": "measured"}]  # type: ignore[misc]

    with VirtualTime() as virtual:
        health.check("measured", Scripted("well", ConnectionError), every=5)
        assert value() == [0]
        asked(virtual, "measured")
        assert value() == [1]
        asked(virtual, "measured", 5)
        assert value() == [0]


# How they run


def until(name: str, status: str) -> None:
    """Wait until a check has a status."""
    assert eventually(lambda: shown(name)["status"] == status)


@pytest.mark.real_time
def test_a_check_that_hangs_delays_no_other_and_no_answer() -> None:
    """Fifty hang, one does not: it is green within a moment, and answers come at once."""
    release = threading.Event()
    for number in range(50):
        health.check(f"hung {number}", release.wait, timeout=5)
    health.check("quick", lambda: None)
    began = time.perf_counter()
    health.ready()
    assert time.perf_counter() - began < 0.25
    until("quick", "pass")
    assert shown("hung 0")["status"] == "fail"
    release.set()


def test_a_check_may_be_due_before_its_beginning_has_ended(
    virtual_time: VirtualTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread of the timers can be faster than the one that begins: none is forgotten."""
    later = virtual_time.later

    def at_once(seconds: float, callback: Callable[[], object]) -> Any:
        if seconds == 0:
            callback()
        return later(seconds, callback)

    monkeypatch.setattr(virtual_time, "later", at_once)
    health.check("due at once", Scripted("well"))
    health.ready()
    assert shown("due at once")["status"] == "pass"


def test_a_check_that_hangs_for_ever_takes_a_bounded_number_of_threads() -> None:
    """After three that have not come back, no further one is begun."""
    release = threading.Event()
    begun: list[None] = []

    def hang() -> None:
        begun.append(None)
        release.wait()

    health.check("for ever", hang, timeout=0.01, every=0.01)
    health.ready()
    until("for ever", "fail")
    time.sleep(0.3)
    assert len(begun) == 3
    assert shown("for ever")["lastFailure"] == "WorkersSaturated"
    release.set()
    until("for ever", "pass")


def test_an_asynchronous_check_runs_on_the_loop_of_the_service() -> None:
    """Clients belong to a loop: a check that uses one has to run on that."""
    loops: list[asyncio.AbstractEventLoop] = []

    async def ping() -> None:
        loops.append(asyncio.get_running_loop())

    async def main() -> None:
        health.check("on its loop", ping, every=60)
        health.ready()
        while not loops:
            await asyncio.sleep(0.005)
        assert loops == [asyncio.get_running_loop()]

    asyncio.run(main())


def test_a_check_from_before_the_loop_runs_on_that_of_started() -> None:
    """A check that was added at import has no loop; `started` says which it is."""
    loops: list[asyncio.AbstractEventLoop] = []

    @health.check("added at import", every=60)
    async def ping() -> None:
        loops.append(asyncio.get_running_loop())

    async def main() -> None:
        health.started()
        while not loops:
            await asyncio.sleep(0.005)
        assert loops == [asyncio.get_running_loop()]

    asyncio.run(main())
    health.started(False)


def test_a_probe_that_comes_before_the_loop_does_not_keep_a_check_from_it() -> None:
    """Kubernetes asks while the service starts: `started` still says on which loop checks run."""
    loops: list[asyncio.AbstractEventLoop] = []

    @health.check("asked early", every=0.01)
    async def ping() -> None:
        loops.append(asyncio.get_running_loop())

    health.startup()
    until("asked early", "pass")

    async def main() -> None:
        health.started()
        own = asyncio.get_running_loop()
        while own not in loops:
            await asyncio.sleep(0.005)
        health.remove("asked early")

    asyncio.run(asyncio.wait_for(main(), 5))
    health.started(False)


def test_a_check_stays_on_its_loop_wherever_it_is_asked_for() -> None:
    """A page that is served on another loop takes no check away from that of the service."""
    loops: list[asyncio.AbstractEventLoop] = []

    async def ping() -> None:
        loops.append(asyncio.get_running_loop())

    async def page() -> None:
        health.ready()

    async def main() -> None:
        health.check("stays", ping, every=60)
        await asyncio.to_thread(asyncio.run, page())
        while not loops:
            await asyncio.sleep(0.005)
        assert loops == [asyncio.get_running_loop()]

    asyncio.run(asyncio.wait_for(main(), 5))


def test_an_asynchronous_check_on_a_blocked_loop_is_red() -> None:
    """It cannot answer, and that is a failure: nobody waits for the loop."""

    async def ping() -> None:
        await asyncio.sleep(0)

    async def main() -> None:
        health.check("blocked", ping, timeout=0.05, every=0.02)
        until_red = threading.Thread(target=lambda: until("blocked", "fail"))
        until_red.start()
        until_red.join()  # blocks the loop
        assert shown("blocked")["status"] == "fail"

    asyncio.run(main())


def test_an_asynchronous_check_without_a_loop_has_one_of_its_own() -> None:
    """Services on threads can use asynchronous clients in a check."""

    @health.check("no loop")
    async def ping() -> None:
        await asyncio.sleep(0)

    health.ready()
    until("no loop", "pass")


def test_a_guarded_function_can_be_a_check(virtual_time: VirtualTime) -> None:
    """What the service calls anyway is a check without further code."""
    ask = Scripted(ConnectionError, "answer")
    guarded = circuit_breaker("checked", fail_max=9)(retry(on=OSError, wait_initial=0)(ask))
    assert health.check("guarded", guarded) is guarded
    assert asked(virtual_time, "guarded") == "pass"


def test_nothing_runs_before_somebody_wants_to_know(virtual_time: VirtualTime) -> None:
    """Adding a check at import calls nothing and starts no thread, also not later by itself."""
    ping = Scripted("well")
    threads = threading.active_count()
    health.check("at import", ping)
    virtual_time.advance(60)
    health.live()
    assert (ping.calls, threading.active_count()) == (0, threads)
    health.startup()
    virtual_time.advance(0)
    assert ping.calls == 1


def test_a_forked_worker_asks_by_itself() -> None:
    """Gunicorn forks after import: each worker has answers of its own."""
    health.check("in each worker", lambda: None, every=0.05)
    health.ready()
    until("in each worker", "pass")
    before = checks._checks._by_name["in each worker"]._result
    child = os.fork()
    if child == 0:
        end = time.monotonic() + 5
        while (
            checks._checks._by_name["in each worker"]._result is before and time.monotonic() < end
        ):
            time.sleep(0.01)
        os._exit(0 if shown("in each worker")["ageSeconds"] < 1 and before is not None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# How they are written


def test_a_name_is_given_once() -> None:
    """Two checks of one name would hide each other."""
    health.check("twice", lambda: None)
    with pytest.raises(DuplicateName, match="health check named 'twice'"):
        health.check("twice", lambda: None)
    health.remove("twice")
    health.check("twice", lambda: None)


def test_a_module_that_is_loaded_anew_may_give_its_checks_again(
    virtual_time: VirtualTime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new check takes the place of the old one, which is not asked any more."""
    (tmp_path / "reloaded_checks.py").write_text(
        "from resilient import health\n"
        "asked = []\n"
        "health.check('reloaded', lambda asked=asked: asked.append(1), every=5)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("reloaded_checks")
    try:
        asked(virtual_time, "reloaded")
        old = module.asked
        before = len(old)
        new = importlib.reload(module).asked
        assert asked(virtual_time, "reloaded", seconds=20) == "pass"
        assert (len(old), len(new)) == (before, 5)
    finally:
        del sys.modules["reloaded_checks"]


def test_a_removed_check_is_neither_asked_nor_shown(virtual_time: VirtualTime) -> None:
    """What is gone cannot make the process not ready."""
    ping = Scripted(ConnectionError)
    health.check("gone", ping, every=5)
    asked(virtual_time, "gone")
    health.remove("gone")
    virtual_time.advance(60)
    assert ping.calls == 1
    assert "gone:check" not in health.ready().checks
    with pytest.raises(InvalidUse, match="no health check of the name 'gone'"):
        health.remove("gone")


@each(
    "wrong",
    {
        "timeout 0": {"timeout": 0},
        "every 0": {"every": 0},
        "every in words": {"every": "5s"},
        "timeout for ever": {"timeout": float("inf")},
    },
)
def test_wrong_settings_are_told_when_it_is_added(wrong: dict[str, Any]) -> None:
    """And nothing is added."""
    with pytest.raises(InvalidSetting, match=next(iter(wrong))):
        health.check("wrong", lambda: None, **wrong)
    assert "wrong:check" not in health.ready().checks


@each("name, function", {"no name": ("", print), "no function": ("wrong", "print")})
def test_what_is_no_check_is_told(name: str, function: Any) -> None:
    """A name and something to call are needed."""
    with pytest.raises(InvalidSetting):
        health.check(name, function)


def test_what_needs_arguments_is_no_check() -> None:
    """That is told when it is added, rather than by a check that is red for ever."""

    @health.check("without arguments")
    def ping(retries: int = 3, **options: int) -> None: ...

    with pytest.raises(InvalidUse, match="'with arguments' is called without arguments"):

        @health.check("with arguments")
        def query(statement: str) -> None: ...


def test_what_does_not_say_what_it_needs_may_be_a_check(virtual_time: VirtualTime) -> None:
    """Some of what is written in C has no signature; if it needs arguments the check is red."""
    health.check("without a signature", dict)
    assert asked(virtual_time, "without a signature") == "pass"
    health.check("needs what it does not say", max)
    assert asked(virtual_time, "needs what it does not say") == "fail"


# What is told


def test_the_text_of_an_error_is_shown_only_where_the_operator_asks(
    virtual_time: VirtualTime,
) -> None:
    """A type is enough to begin with, and a text may hold a password."""
    health.check("login", Scripted(ConnectionError("no route for bob:hunter2")))
    asked(virtual_time, "login")
    assert "hunter2" not in json.dumps(health.ready().as_dict())
    health.show_details()
    assert shown("login")["output"] == "no route for bob:hunter2"


def test_the_people_on_call_see_whom_to_ask_and_what_to_do(virtual_time: VirtualTime) -> None:
    """Owner and runbook stand next to what fails."""
    health.check("owned", Scripted(OSError), owner="storage", runbook="https://runbooks/owned")
    asked(virtual_time, "owned")
    assert (shown("owned")["owner"], shown("owned")["runbook"]) == (
        "storage",
        "https://runbooks/owned",
    )
