"""Health checks in the background: a recovery is noticed without a caller that has to try it."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest

from resilient import CircuitBreaker
from resilient.testing import VirtualTime
from tests.circuits import WAYS, Upstream, outcome_of, outcomes_of, rejection_of
from tests.waiting import PATIENCE, eventually


class Health:
    """A health check that says what it is told to, and when it was asked."""

    def __init__(self, time: VirtualTime) -> None:
        self.time = time
        self.answer: Any = ConnectionError("still down")
        self.asked: list[float] = []

    def check(self) -> Any:
        """Be asked."""
        self.asked.append(self.time.now())
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def upstream(virtual_time: VirtualTime) -> Upstream:
    """A dependency in virtual time."""
    return Upstream(virtual_time)


@pytest.fixture
def checks(virtual_time: VirtualTime) -> Health:
    """A health check in virtual time."""
    return Health(virtual_time)


def tripped(upstream: Upstream, **settings: Any) -> tuple[CircuitBreaker, Callable[[], Any]]:
    """Return a breaker that has opened, and the call that it guards."""
    breaker = CircuitBreaker(fail_max=1, **settings)
    call = upstream.guarded(breaker)
    upstream.down()
    outcome_of(call)
    return breaker, call


def test_nothing_is_checked_while_the_circuit_is_closed(upstream: Upstream, checks: Health) -> None:
    """A dependency that is well is not asked how it is."""
    call = upstream.guarded(CircuitBreaker(probe=checks.check))
    outcomes_of(call, 10)
    upstream.time.advance(3600)

    assert checks.asked == []


def test_while_it_is_open_the_dependency_is_checked_every_so_often(
    upstream: Upstream, checks: Health
) -> None:
    """Once each probe_every, the first one period after the trip."""
    tripped(upstream, probe=checks.check, probe_every=2.0, reset_timeout=60)
    began = upstream.time.now()
    upstream.time.advance(10)

    assert [moment - began for moment in checks.asked] == [2, 4, 6, 8, 10]


@pytest.mark.parametrize("answer", [True, None, "pong", 0])
def test_a_recovery_is_noticed_within_one_period_of_the_checks(
    upstream: Upstream, checks: Health, answer: object
) -> None:
    """Not when the open period ends, an hour later; anything but False is well."""
    breaker, call = tripped(upstream, probe=checks.check, reset_timeout=3600)
    upstream.time.advance(100)
    assert outcome_of(call) == "rejected"

    checks.answer = answer
    upstream.up()
    upstream.time.advance(1)

    assert breaker.current_state != "open"
    assert outcome_of(call) == "answered"


@pytest.mark.parametrize("answer", [False, ConnectionError("still down"), SystemError()])
def test_a_check_that_fails_leaves_the_circuit_open(
    upstream: Upstream, checks: Health, answer: object
) -> None:
    """An error and False both say that it is not back."""
    breaker, call = tripped(upstream, probe=checks.check, reset_timeout=3600)
    checks.answer = answer
    upstream.time.advance(100)

    assert breaker.current_state == "open"
    assert outcome_of(call) == "rejected"


def test_the_circuit_closes_without_any_call(upstream: Upstream, checks: Health) -> None:
    """With nobody calling, checks that succeed speak for all calls, and then there are no more."""
    breaker, _ = tripped(upstream, probe=checks.check, reset_timeout=3600)
    checks.answer = True
    upstream.time.advance(3)
    assert breaker.current_state == "closed"
    asked = len(checks.asked)
    upstream.time.advance(100)

    assert len(checks.asked) == asked


def test_as_many_checks_as_asked_for_must_succeed(upstream: Upstream, checks: Health) -> None:
    """The threshold is that of probes, whoever makes them."""
    breaker, _ = tripped(
        upstream, probe=checks.check, reset_timeout=3600, success_threshold=3, ramp=False
    )
    checks.answer = True
    states = []
    for _ in range(3):
        upstream.time.advance(1)
        states.append(breaker.current_state)

    assert states == ["half-open", "half-open", "closed"]


def test_a_failed_check_takes_a_half_open_circuit_back(upstream: Upstream, checks: Health) -> None:
    """One success and then a failure: it was not back."""
    breaker, _ = tripped(
        upstream, probe=checks.check, reset_timeout=3600, success_threshold=3, ramp=False
    )
    checks.answer = True
    upstream.time.advance(1)
    checks.answer = False
    upstream.time.advance(1)

    assert breaker.current_state == "open"


def test_checks_begin_anew_with_the_next_outage(upstream: Upstream, checks: Health) -> None:
    """Each time that it opens, and never two at once."""
    breaker, call = tripped(upstream, probe=checks.check, reset_timeout=3600, ramp=False)
    checks.answer = True
    upstream.time.advance(1)
    assert breaker.current_state == "closed"
    upstream.time.advance(0.5)
    checks.answer = False
    outcome_of(call)
    began = upstream.time.now()
    checks.asked.clear()
    upstream.time.advance(3)

    assert [moment - began for moment in checks.asked] == [1, 2, 3]


@pytest.mark.parametrize("ended", ["forced open", "reset"])
def test_checks_end_when_the_state_is_set_by_hand(
    upstream: Upstream, checks: Health, ended: str
) -> None:
    """A circuit that somebody has set waits for nobody's answer."""
    breaker, _ = tripped(upstream, probe=checks.check, reset_timeout=3600)
    if ended == "forced open":
        breaker.force_open()
    else:
        breaker.reset()
    checks.answer = True
    upstream.time.advance(100)

    assert checks.asked == []
    assert breaker.current_state == ("open" if ended == "forced open" else "closed")


@pytest.mark.parametrize("way", WAYS)
def test_nobody_knows_when_a_circuit_ends_that_is_forced_open(
    upstream: Upstream, checks: Health, way: str
) -> None:
    """Its rejections name no time: checks were made before, and are made no more."""
    breaker, _ = tripped(upstream, probe=checks.check, reset_timeout=60)
    call = upstream.guarded(breaker, way)
    assert rejection_of(call).retry_after == 1.0
    breaker.force_open()

    assert rejection_of(call).retry_after is None
    assert breaker.retry_after is None


def test_a_check_that_hangs_is_a_check_that_failed(upstream: Upstream, checks: Health) -> None:
    """It is given up after probe_timeout, and the next one is made."""

    def hang() -> bool:
        checks.check()
        upstream.time.sleep(1_000)
        return True

    checks.answer = True
    breaker, _ = tripped(upstream, probe=hang, probe_timeout=0.5, reset_timeout=3600)
    upstream.time.advance(5)

    assert breaker.current_state == "open"
    assert len(checks.asked) >= 3


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("kind", [SystemExit, asyncio.CancelledError, GeneratorExit])
def test_a_check_that_ends_by_what_is_no_exception_has_failed(
    virtual_time: VirtualTime, kind: type[BaseException], is_async: bool
) -> None:
    """It interrupts nobody, and the next one is made: a client may cancel itself at any time."""
    asked: list[float] = []

    def check() -> None:
        asked.append(virtual_time.now())
        if len(asked) < 3:
            raise kind

    async def check_async() -> None:
        check()

    probe = check_async if is_async else check
    breaker = CircuitBreaker(reset_timeout=3600, probe=probe, ramp=False)
    breaker.open()
    virtual_time.advance(2)
    assert (len(asked), breaker.current_state) == (2, "open")
    virtual_time.advance(1)
    assert (len(asked), breaker.current_state) == (3, "closed")


def test_ctrl_c_in_a_check_on_the_main_thread_is_not_lost(virtual_time: VirtualTime) -> None:
    """There it is meant for the one who waits, and says nothing of the dependency."""

    def check() -> None:
        raise KeyboardInterrupt

    breaker = CircuitBreaker(reset_timeout=3600, probe=check)
    breaker.open()
    with pytest.raises(KeyboardInterrupt):
        virtual_time.advance(1)
    assert breaker.current_state == "open"


def test_a_check_that_there_is_no_thread_for_is_made_when_there_is_one(
    upstream: Upstream, checks: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each period anew, as if the one before had been made."""
    checks.answer = True
    breaker, _ = tripped(upstream, probe=checks.check, reset_timeout=3600, ramp=False)
    monkeypatch.setattr(upstream.time, "background", lambda _function: False)
    upstream.time.advance(3)
    assert (checks.asked, breaker.current_state) == ([], "open")
    monkeypatch.undo()
    upstream.time.advance(1)
    assert (len(checks.asked), breaker.current_state) == (1, "closed")


def test_a_check_can_be_asynchronous(upstream: Upstream, checks: Health) -> None:
    """Also where no event loop is running."""

    async def ping() -> bool:
        await asyncio.sleep(0)
        return bool(checks.check())

    checks.answer = True
    breaker, _ = tripped(upstream, probe=ping, reset_timeout=3600, ramp=False)
    upstream.time.advance(1)

    assert breaker.current_state == "closed"


def test_a_breaker_that_nobody_uses_is_not_kept_by_its_checks(
    virtual_time: VirtualTime, checks: Health
) -> None:
    """Dropped while open it is gone, and its checks end."""
    breaker = CircuitBreaker(fail_max=1, probe=checks.check, reset_timeout=3600)
    breaker.open()
    gone = weakref.ref(breaker)
    del breaker
    gc.collect()

    assert gone() is None
    virtual_time.advance(100)
    assert len(checks.asked) <= 1


def test_a_check_is_made_on_a_thread_of_the_background() -> None:
    """In real time: nobody who calls waits for it, and it does not keep the process from ending."""
    asked: list[threading.Thread] = []
    answered = threading.Event()

    def ping() -> bool:
        asked.append(threading.current_thread())
        answered.set()
        return True

    breaker = CircuitBreaker(fail_max=1, probe=ping, probe_every=0.02, reset_timeout=60, ramp=False)
    breaker.open()
    assert answered.wait(PATIENCE)
    assert eventually(lambda: breaker.current_state == "closed")
    assert asked[0] is not threading.current_thread()
    assert asked[0].daemon


async def test_an_asynchronous_check_runs_on_the_loop_of_the_calls() -> None:
    """In real time: it may use the clients that belong to the loop on which the circuit opened."""
    loops: list[asyncio.AbstractEventLoop] = []
    answered = asyncio.Event()

    async def ping() -> bool:
        loops.append(asyncio.get_running_loop())
        answered.set()
        return True

    breaker = CircuitBreaker(fail_max=1, probe=ping, probe_every=0.02, reset_timeout=60, ramp=False)

    @breaker
    async def call() -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await call()
    await asyncio.wait_for(answered.wait(), 5)

    assert loops[0] is asyncio.get_running_loop()


who: ContextVar[str] = ContextVar("who", default="nobody")


def test_a_check_does_not_run_in_the_context_of_the_call_that_failed(
    upstream: Upstream, checks: Health
) -> None:
    """It is nobody's call: it does not have the variables of the one that failed."""
    seen: list[str] = []
    token = who.set("a caller")
    try:
        tripped(upstream, probe=lambda: seen.append(who.get()), reset_timeout=3600)
    finally:
        who.reset(token)
    upstream.time.advance(1)

    assert seen == ["nobody"]
