"""Queued calls are made as soon as that can be, at least once, and set aside when it cannot."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import itertools
import threading
import time
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from resilient import (
    Dependency,
    InvalidUse,
    NewCall,
    Outbox,
    OutboxError,
    Receipt,
    bulkhead,
    circuit_breaker,
    queued,
    retry,
    with_fallback,
)
from resilient.degrade.outbox import worker as worker_module
from resilient.engine import signals
from resilient.testing import VirtualTime
from tests.doubles import Scripted, calls
from tests.outbox.conftest import MakeOutbox
from tests.waiting import eventually


class Declined(Exception):
    """An answer that is no failure of who gives it."""


def test_a_queued_call_is_made_with_the_arguments_of_its_caller(outbox: Outbox) -> None:
    """Once what it needs is well, the call is made and the outbox is empty."""
    made: list[tuple[str, int]] = []
    gateway = Scripted(ConnectionError, None)

    @with_fallback(queued(outbox, key="charge:{order_id}"))
    def charge(order_id: str, cents: int) -> None:
        gateway()
        made.append((order_id, cents))

    charge("o1", 1999)
    assert outbox.drain() == 0
    assert made == [("o1", 1999)]
    assert outbox.pending() == outbox.dead() == []


def test_a_replay_that_fails_is_not_queued_again(
    make_outbox: MakeOutbox, virtual_time: VirtualTime
) -> None:
    """It is the same call that waits for its next attempt, not another one."""
    outbox = make_outbox()
    gateway = Scripted(*[ConnectionError] * 4, None)
    with_receipt = with_fallback(queued(outbox, key="{order_id}"))

    @with_receipt
    def charge(order_id: str) -> None:
        gateway()

    charge("o1")
    assert outbox.drain() == 0
    assert gateway.calls == 5
    assert charge("o2") is None


def test_a_replay_goes_through_all_that_guards_the_function(outbox: Outbox) -> None:
    """Retries, circuits and counts are those of the function."""
    gateway = Scripted(*[ConnectionError] * 3, "paid")
    payments = Dependency("replayed payments", retry=retry(attempts=3, wait=lambda _: 0))

    @payments.with_fallback(queued(outbox))
    def charge() -> str:
        answer: str = gateway()
        return answer

    assert isinstance(charge(), Receipt)
    assert outbox.drain() == 0
    assert gateway.calls == 4
    assert calls("replayed payments") == {"degraded": 1, "success": 1}


def test_one_looks_for_all_who_have_nothing_to_do(
    make_outbox: MakeOutbox, virtual_time: VirtualTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker of a hundred asks its file once a second, and makes a hundred calls at once."""
    outbox = make_outbox()
    claim, times = outbox.table.claim, []
    at_once, most = 0, 0

    def claimed(*arguments: Any) -> Any:
        times.append(virtual_time.now())
        return claim(*arguments)

    monkeypatch.setattr(outbox.table, "claim", claimed)

    @with_fallback(queued(outbox))
    async def charge() -> None:
        nonlocal at_once, most
        if len(times) == 0:
            raise ConnectionError
        at_once, most = at_once + 1, max(most, at_once + 1)
        await asyncio.sleep(0.5)
        at_once -= 1

    async def main() -> None:
        await asyncio.gather(*(charge() for _ in range(100)))
        await outbox.run(until_empty=True, concurrency=100)
        assert (len(times), most) == (201, 100)
        times.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(outbox.run(concurrency=100), 3.5)
        assert times == [pytest.approx(times[0] + second) for second in range(4)]

    virtual_time.run(main())


def test_pauses_grow_between_attempts_and_have_a_cap(
    make_outbox: MakeOutbox, virtual_time: VirtualTime
) -> None:
    """1, 2, 4, 8 and at most so many seconds, each between half and all of it."""
    outbox = make_outbox(first_pause=1, max_pause=8)
    times: list[float] = []

    @with_fallback(queued(outbox))
    def charge() -> None:
        times.append(virtual_time.now())
        if len(times) < 8:
            raise ConnectionError

    charge()
    outbox.drain()
    pauses = [later - earlier for earlier, later in itertools.pairwise(times[1:])]
    for pause, most in zip(pauses, [1, 2, 4, 8, 8, 8], strict=True):
        assert most / 2 - 0.01 <= pause <= most + 0.01


def test_a_call_that_never_succeeds_is_set_aside(
    make_outbox: MakeOutbox, virtual_time: VirtualTime
) -> None:
    """After its attempts it is a dead letter, which an operator can have made again or drop."""
    outbox = make_outbox(max_attempts=3)
    gateway = Scripted(*[ConnectionError] * 4, None)

    @with_fallback(queued(outbox))
    def charge() -> None:
        gateway()

    charge()
    with capture_logs() as events:
        assert outbox.drain() == 0
    (dead,) = outbox.dead()
    assert (dead.state, dead.attempts) == ("dead", 3)
    assert dead.error == "given up after 3 attempts: ConnectionError"
    (buried,) = [one for one in events if one["event"] == "resilient.call_buried"]
    assert (buried["id"], buried["reason"]) == (dead.id, dead.error)

    assert outbox.retry(dead.id) == 1
    assert outbox.drain() == 0
    assert outbox.dead() == []
    assert gateway.calls == 5


def test_an_error_that_is_an_answer_is_not_asked_for_again(outbox: Outbox) -> None:
    """A declined card is declined: the call is set aside after one attempt."""
    gateway = Scripted(ConnectionError, Declined)
    payments = Dependency("declining payments", failures=ConnectionError)

    @payments.with_fallback(queued(outbox), on=ConnectionError)
    def charge() -> None:
        gateway()

    charge()
    outbox.drain()
    assert [dead.error for dead in outbox.dead()] == ["answered: Declined"]
    assert gateway.calls == 2


def test_a_call_of_unknown_name_is_set_aside_after_a_while(
    make_outbox: MakeOutbox, virtual_time: VirtualTime
) -> None:
    """A worker that starts before the modules it serves has time to import them."""
    outbox = make_outbox()
    outbox.put(NewCall("shop.gone", '{"args":[],"kwargs":{}}'))
    began = virtual_time.now()
    outbox.drain()
    assert virtual_time.now() - began > 5
    (dead,) = outbox.dead()
    assert dead.error is not None
    assert dead.error.startswith("unknown: no function")


def test_arguments_that_do_not_fit_any_more_are_set_aside_at_once(outbox: Outbox) -> None:
    """A parameter that was renamed while calls waited."""

    @with_fallback(queued(outbox, name="charge"))
    def charge(order: str) -> None: ...

    outbox.put(NewCall("charge", '{"args":[],"kwargs":{"order_id":"o1"}}'))
    outbox.drain()
    (dead,) = outbox.dead()
    assert dead.error == "broken: its arguments do not fit the function any more"


def test_arguments_that_are_nested_too_deep_are_set_aside_and_end_no_worker(
    outbox: Outbox,
) -> None:
    """A process with a higher limit of recursion may have put them; the next call is made."""
    made: list[object] = []
    guarded = with_fallback(queued(outbox, name="charge"))
    guarded(made.append)
    outbox.put(NewCall("charge", f'{{"args":[{"[" * 99_999}{"]" * 99_999}],"kwargs":{{}}}}'))
    outbox.put(NewCall("charge", '{"args":["o1"],"kwargs":{}}'))
    assert outbox.drain() == 0
    (dead,) = outbox.dead()
    assert dead.error == "broken: its arguments do not fit the function any more"
    assert made == ["o1"]


def test_calls_of_one_order_are_made_one_after_the_other(
    make_outbox: MakeOutbox, virtual_time: VirtualTime
) -> None:
    """One that has to be tried again holds back those after it, and no others."""
    outbox = make_outbox()
    made: list[str] = []
    answers = {"a1": Scripted(*[ConnectionError] * 3, None)}

    @with_fallback(queued(outbox, ordered_by="{account}"))
    def book(account: str, text: str) -> None:
        answers.setdefault(text, Scripted(ConnectionError, None))()
        made.append(text)

    for account, text in [("a", "a1"), ("a", "a2"), ("b", "b1")]:
        assert isinstance(book(account, text), Receipt)
    assert outbox.drain() == 0
    assert made == ["b1", "a1", "a2"]


def test_an_open_circuit_costs_no_attempt(outbox: Outbox) -> None:
    """The worker waits for the circuit, and goes on the moment it lets calls through."""
    gateway = Scripted(ConnectionError, None)
    breaker = circuit_breaker("waited for", fail_max=1, reset_timeout=60)

    @with_fallback(queued(outbox, key="{order_id}"))
    @breaker
    def charge(order_id: str) -> None:
        gateway()

    charge("o1")
    charge("o2")
    with outbox.worker(concurrency=2):
        assert eventually(lambda: outbox.replayed["rejected"] >= 1)  # one was not let through
        assert eventually(lambda: [call.attempts for call in outbox.pending()] == [0, 0])
        began = time.monotonic()
        breaker.force_closed()
        assert eventually(lambda: not outbox.pending())
        assert time.monotonic() - began < 5
    assert gateway.calls == 3


def test_an_open_circuit_of_one_key_holds_up_no_other_key(
    make_outbox: MakeOutbox, virtual_time: VirtualTime
) -> None:
    """Where each host has a circuit, the calls for one that is down let the others pass."""
    outbox = make_outbox()
    down, made = {"a", "b"}, list[str]()

    hosts = circuit_breaker.per_key("with calls", key="{host}", fail_max=1, reset_timeout=3600)

    @with_fallback(queued(outbox))
    @hosts
    def send(host: str) -> None:
        if host in down:
            raise ConnectionError
        made.append(host)

    for host in ("a", "a", "b", "a"):
        send(host)
    down.remove("b")
    hosts.circuits["{host}", "b"].force_closed()
    outbox.drain(timeout=60)
    assert made == ["b"]
    assert [call.attempts for call in outbox.pending()] == [0, 0, 0]
    assert outbox.replayed["rejected"] <= 3 * 7, "each is looked at every ten seconds"


def test_a_full_bulkhead_costs_no_attempt(make_outbox: MakeOutbox) -> None:
    """A rejection of any kind says nothing about the call."""
    outbox = make_outbox()
    gate, inside = threading.Event(), threading.Event()
    answers = Scripted(ConnectionError, None)

    @with_fallback(queued(outbox))
    @bulkhead(1)
    def charge() -> None:
        answers()
        inside.set()
        gate.wait(10)

    charge()
    busy = threading.Thread(target=charge)
    busy.start()
    inside.wait(10)
    with outbox.worker():
        assert eventually(lambda: outbox.replayed["rejected"] >= 1)
        assert eventually(lambda: outbox.pending()[0].attempts == 0)
        gate.set()
        busy.join()
        assert eventually(lambda: not outbox.pending())


@pytest.mark.real_time
def test_a_put_wakes_the_worker(outbox: Outbox) -> None:
    """What is queued while a worker of this process rests is made at once."""
    made = threading.Event()
    answers = Scripted(ConnectionError, None)

    @with_fallback(queued(outbox))
    def charge() -> None:
        answers()
        made.set()

    with outbox.worker():
        time.sleep(0.1)
        began = time.monotonic()
        charge()
        assert made.wait(10)
        assert time.monotonic() - began < 0.9
        outbox.start()  # harmless


def test_a_put_of_what_is_held_back_wakes_nobody(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a circuit is open nothing can be done for its calls; to look would hold up each put."""
    breaker = circuit_breaker("not woken for", fail_max=1, reset_timeout=60)
    woken: list[str] = []

    @with_fallback(queued(outbox, name="held"))
    @breaker
    def charge() -> None:
        raise ConnectionError

    charge()
    with outbox.worker():
        assert eventually(lambda: [one.holds("held") for one in list(outbox.workers)] == [True])
        with monkeypatch.context() as patch:
            patch.setattr(worker_module.Worker, "wake", lambda _: woken.append("woken"))
            charge()
            assert woken == []
            outbox.put(NewCall("another", '{"args":[],"kwargs":{}}'))
            assert woken == ["woken"]


def test_a_worker_leaves_the_file_alone_for_as_long_as_it_has_looked(
    make_outbox: MakeOutbox, virtual_time: VirtualTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it is woken: through a long queue it looks for long, and holds up each put."""
    outbox = make_outbox(first_pause=60)
    looks: list[tuple[float, float]] = []
    claim = type(outbox.table).claim

    def slow(*arguments: Any) -> Any:
        began = virtual_time.now()
        for worker in outbox.workers:
            worker.wake()
        virtual_time.sleep(0.25)
        looks.append((began, virtual_time.now()))
        return claim(*arguments)

    @with_fallback(queued(outbox))
    def charge() -> None:
        raise ConnectionError

    charge()
    monkeypatch.setattr(type(outbox.table), "claim", slow)
    assert outbox.drain(timeout=5) == 1
    assert len(looks) > 5
    pauses = [later - ended for (_, ended), (later, _) in itertools.pairwise(looks[1:])]
    assert min(pauses) >= 0.249


async def test_asynchronous_and_plain_functions_share_a_worker_on_the_loop(outbox: Outbox) -> None:
    """The coroutine runs on the loop of `run`, the function on a thread."""
    where: dict[str, Any] = {}
    answers = {name: Scripted(ConnectionError, None) for name in ("plain", "coroutine")}

    @with_fallback(queued(outbox))
    def plain() -> None:
        answers["plain"]()
        where["plain"] = threading.get_ident()

    @with_fallback(queued(outbox))
    async def coroutine() -> None:
        answers["coroutine"]()
        where["coroutine"] = asyncio.get_running_loop()

    plain()
    await coroutine()
    await outbox.run(until_empty=True)
    assert where["plain"] != threading.get_ident()
    assert where["coroutine"] is asyncio.get_running_loop()
    with pytest.raises(InvalidUse, match="event loop"):
        outbox.drain()


async def test_a_cancelled_worker_lets_calls_in_flight_end(outbox: Outbox) -> None:
    """`run` begins nothing more, waits for the last call, and leaves the rest in the outbox."""
    begun, may_end = asyncio.Event(), asyncio.Event()
    answers = Scripted(ConnectionError, ConnectionError, None)
    ended: list[str] = []

    @with_fallback(queued(outbox))
    async def charge(order_id: str) -> None:
        answers()
        begun.set()
        await may_end.wait()
        ended.append(order_id)

    await charge("o1")
    await charge("o2")
    serving = asyncio.create_task(outbox.run())
    await begun.wait()
    serving.cancel()
    await asyncio.sleep(0.05)
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert ended == ["o1"]
    assert len(outbox.pending()) == 1


async def test_a_call_that_outlasts_the_stop_is_kept(outbox: Outbox) -> None:
    """It is interrupted, and made again by the next worker without waiting for its lease."""
    begun = asyncio.Event()
    answers = Scripted(ConnectionError, None)

    @with_fallback(queued(outbox))
    async def charge() -> None:
        answers()
        begun.set()
        await asyncio.sleep(60 if answers.calls == 2 else 0)

    await charge()
    serving = asyncio.create_task(outbox.run(stop_within=0.05))
    await begun.wait()
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert [call.state for call in outbox.pending()] == ["waiting"]
    await outbox.run(until_empty=True)
    assert answers.calls == 3


@pytest.mark.parametrize("kind", [SystemExit, asyncio.CancelledError, BaseException])
@pytest.mark.parametrize("is_async", [False, True])
async def test_a_call_that_ends_by_what_is_no_exception_has_failed_and_the_others_are_made(
    make_outbox: MakeOutbox, kind: type[BaseException], is_async: bool
) -> None:
    """An exit, or a cancellation of the callee's own, ends the call and not its worker."""
    outbox = make_outbox(max_attempts=2, first_pause=0)
    made: list[str] = []

    def charge(order_id: str) -> None:
        if not made:
            made.append("down")
            raise ConnectionError
        made.append(order_id)
        if order_id == "o1":
            raise kind

    async def charge_async(order_id: str) -> None:
        charge(order_id)

    guarded: Any = with_fallback(queued(outbox))(charge_async if is_async else charge)
    for order_id in ("o1", "o2"):
        made.clear()
        receipt = guarded(order_id)
        if is_async:
            await receipt
    await asyncio.wait_for(outbox.run(until_empty=True), 5)
    assert sorted(made) == ["down", "o1", "o1", "o2"]
    [dead] = outbox.dead()
    assert dead.error == f"given up after 2 attempts: {kind.__name__}"


def test_context_variables_of_one_replay_are_not_those_of_the_next(outbox: Outbox) -> None:
    """What a call binds to its context is gone with it, also on an event loop."""
    user: contextvars.ContextVar[str] = contextvars.ContextVar("user", default="nobody")
    seen: list[str] = []
    answers = Scripted(ConnectionError, ConnectionError, None)

    @with_fallback(queued(outbox))
    async def charge(name: str) -> None:
        answers()
        seen.append(user.get())
        user.set(name)

    asyncio.run(charge("bob"))
    asyncio.run(charge("eve"))
    outbox.drain()
    assert seen == ["nobody", "nobody"]


def test_a_lease_is_renewed_while_its_worker_lives(make_outbox: MakeOutbox) -> None:
    """A call may take many leases, and no other worker takes it meanwhile."""
    answers = Scripted(ConnectionError, None)
    outbox, other = make_outbox(lease=0.3), make_outbox(lease=0.3)
    running = threading.Semaphore(0)

    @with_fallback(queued(outbox, name="charge"), queued(other, name="charge"))
    def charge() -> None:
        answers()
        running.release()
        time.sleep(1.0)

    charge()
    with outbox.worker(), other.worker():
        assert eventually(lambda: not outbox.pending())
    assert answers.calls == 2


def test_a_call_whose_worker_died_is_made_again_after_its_lease(
    make_outbox: MakeOutbox, virtual_time: VirtualTime
) -> None:
    """A claim that is not renewed ends, and what the dead one left is taken up."""
    outbox = make_outbox(lease=30)
    answers = Scripted(ConnectionError, None)

    @with_fallback(queued(outbox))
    def charge() -> None:
        answers()

    charge()
    assert outbox.table.claim("the dead", ()) is not None
    assert [call.state for call in outbox.pending()] == ["running"]
    began = virtual_time.now()
    outbox.drain()
    assert 29 < virtual_time.now() - began < 35
    assert answers.calls == 2


def test_a_call_that_ends_its_worker_each_time_is_set_aside(
    make_outbox: MakeOutbox, virtual_time: VirtualTime
) -> None:
    """An attempt counts before it is made, so that a call which kills does not do so for ever."""
    outbox = make_outbox(lease=1, max_attempts=3)
    answers = Scripted(ConnectionError, None)

    @with_fallback(queued(outbox))
    def charge() -> None:
        answers()

    charge()
    for _ in range(3):
        assert outbox.table.claim("the dead", ()) is not None
        virtual_time.advance(2)
    outbox.drain()
    assert [dead.error for dead in outbox.dead()] == ["given up: its worker ended each time"]
    assert answers.calls == 1


def test_what_comes_after_the_lease_is_noted_all_the_same(
    make_outbox: MakeOutbox, virtual_time: VirtualTime
) -> None:
    """A call that was made is done, whoever has its lease by then."""
    outbox = make_outbox(lease=1)
    outbox.put(NewCall("charge", "{}"))
    claimed = outbox.table.claim("slow", ())
    virtual_time.advance(2)
    assert outbox.table.claim("other", ()) is not None
    assert claimed is not None
    outbox.table.done(claimed.call)
    assert outbox.pending() == []


def test_a_worker_goes_on_after_the_file_could_not_be_used(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trouble with the disk is told and waited out; the call is marked as done later."""
    monkeypatch.setattr("resilient.degrade.outbox.worker.POLL_SECONDS", 0.02)
    answers = Scripted(ConnectionError, None)

    @with_fallback(queued(outbox))
    def charge() -> None:
        answers()

    charge()
    folder = outbox.path.parent
    outbox.close()
    hidden = folder.with_name(folder.name + ".away")
    folder.rename(hidden)
    with outbox.worker():
        assert eventually(lambda: next(iter(outbox.conditions())) is not None)
        time.sleep(0.1)
        hidden.rename(folder)
        assert eventually(lambda: not outbox.pending())
    assert answers.calls == 2


def test_what_cannot_be_noted_for_long_is_noted_at_last_and_not_made_again(
    make_outbox: MakeOutbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that was made while the disk was away is neither repeated nor held for ever."""
    monkeypatch.setattr("resilient.degrade.outbox.worker.POLL_SECONDS", 0.01)
    monkeypatch.setattr("resilient.degrade.outbox.worker.TRIES_TO_NOTE", 2)
    outbox = make_outbox(lease=0.6)
    folder = outbox.path.parent
    hidden = folder.with_name(folder.name + ".away")
    answers = Scripted(ConnectionError, None)

    @with_fallback(queued(outbox))
    def charge() -> None:
        answers()
        outbox.close()
        folder.rename(hidden)

    charge()
    with outbox.worker():
        assert eventually(hidden.exists)
        time.sleep(0.3)  # the worker has given up, and its lease has been renewed in vain
        hidden.rename(folder)
        assert eventually(lambda: not outbox.pending())
    assert answers.calls == 2
    assert outbox.replayed["success"] == 1


def test_a_call_of_a_file_that_was_moved_away_is_not_taken_for_one_of_the_new_file(
    make_outbox: MakeOutbox,
) -> None:
    """Numbers begin anew in a new file, and what was made is not what has its number there."""
    outbox = make_outbox()
    outbox.put(NewCall("charge", "{}"))
    claimed = outbox.table.claim("a worker", ())
    assert claimed is not None
    for file in outbox.path.parent.glob("outbox.db*"):
        file.rename(file.with_name(file.name.replace("outbox", "aside")))
    other = outbox.put(NewCall("charge", "{}"))
    assert other.id == claimed.call.id
    outbox.table.done(claimed.call)
    assert [call.queued for call in outbox.pending()] == [other.queued]


def test_a_worker_that_had_stalled_leaves_the_call_to_whoever_is_awake(
    make_outbox: MakeOutbox, virtual_time: VirtualTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claim that took half of its lease is given back: another worker may be about to have it."""
    outbox = make_outbox(lease=30)
    answers = Scripted(ConnectionError, None)
    stalls, claims, claim = iter([15.1, 14.9]), list[Any](), type(outbox.table).claim

    def stall(*arguments: Any) -> Any:
        claims.append(claim(*arguments))
        virtual_time.sleep(next(stalls, 0))
        return claims[-1]

    @with_fallback(queued(outbox))
    def charge() -> None:
        answers()

    charge()
    monkeypatch.setattr(type(outbox.table), "claim", stall)
    assert outbox.drain() == 0
    first, second, last = claims
    assert first.call.id == second.call.id
    assert last is None
    assert answers.calls == 2


def test_a_worker_that_is_stopped_does_not_wait_for_a_file_that_cannot_be_written(
    outbox: Outbox, virtual_time: VirtualTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a call came to is tried to be noted for a while, but not by a worker that is to end."""

    def fail(*_: Any) -> None:
        raise OutboxError("the disk is away")

    answers = Scripted(ConnectionError, None)

    @with_fallback(queued(outbox))
    def charge() -> None:
        answers()

    charge()
    monkeypatch.setattr(type(outbox.table), "done", fail)
    began = virtual_time.now()
    assert outbox.drain(timeout=3) == 1
    assert 3 <= virtual_time.now() - began < 5


def test_a_plain_function_that_returns_a_coroutine_is_awaited(outbox: Outbox) -> None:
    """Its call is made when the coroutine has ended, and not when it was returned."""
    made: list[str] = []

    async def charged(order_id: str) -> None:
        await asyncio.sleep(0)
        made.append(order_id)

    @with_fallback(queued(outbox))
    def charge(order_id: str) -> Any:
        answers()
        return charged(order_id)

    answers = Scripted(ConnectionError, None)
    assert isinstance(charge("o1"), Receipt)
    assert outbox.drain() == 0
    assert made == ["o1"]


def test_a_drain_of_a_file_that_cannot_be_used_says_so(tmp_path: Path) -> None:
    """Who waits for the outbox to be empty does not wait for a disk that is gone."""
    folder = tmp_path / "mounted"
    folder.mkdir()
    outbox = Outbox(folder / "outbox.db", name=f"{tmp_path.name} drained")
    folder.rmdir()
    with pytest.raises(OutboxError, match="unable to open"):
        outbox.drain()


def test_a_retry_by_hand_wakes_the_worker(
    make_outbox: MakeOutbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has mended something does not wait for the next look of a worker in this process."""
    monkeypatch.setattr("resilient.degrade.outbox.worker.POLL_SECONDS", 3600)
    outbox = make_outbox(max_attempts=1)
    answers = Scripted(ConnectionError, ConnectionError, None)

    @with_fallback(queued(outbox))
    def charge() -> None:
        answers()

    charge()
    with outbox.worker():
        assert eventually(outbox.dead)
        assert outbox.retry() == 1
        assert eventually(lambda: outbox.replayed["success"] == 1)
    assert outbox.dead() == outbox.pending() == []


def test_nothing_runs_in_the_background_in_virtual_time(
    outbox: Outbox, virtual_time: VirtualTime
) -> None:
    """Tests are exact: they say when calls are made."""
    with pytest.raises(InvalidUse, match="drain"):
        outbox.start()


def test_a_drain_ends_after_its_time(make_outbox: MakeOutbox, virtual_time: VirtualTime) -> None:
    """What still waits then is counted."""
    outbox = make_outbox()

    @with_fallback(queued(outbox))
    def charge() -> None:
        raise ConnectionError

    charge()
    began = virtual_time.now()
    assert outbox.drain(timeout=5) == 1
    assert virtual_time.now() - began < 7


def test_a_replay_is_told_of_without_its_arguments(outbox: Outbox) -> None:
    """Name, number, attempts and how long it waited."""
    told: list[tuple[str, Any]] = []

    def listen(name: str, fields: Any) -> None:
        told.append((name, dict(fields)))

    answers = Scripted(ConnectionError, None)

    @with_fallback(queued(outbox))
    def charge(card: str) -> None:
        answers()

    signals.subscribe(listen)
    try:
        charge("4111")
        outbox.drain()
    finally:
        signals.unsubscribe(listen)
    (fields,) = [fields for name, fields in told if name == "resilient.call_replayed"]
    assert fields.pop("waited_seconds") >= 0
    assert fields.pop("function").endswith("charge")
    assert fields.pop("dependency").endswith("charge")
    assert fields == {"id": "1", "attempts": 1}
    assert "4111" not in str(told)


def test_an_outbox_starts_again_in_another_folder(tmp_path: Path) -> None:
    """A relative address is one of the working directory, and stays that."""
    outbox = Outbox(tmp_path / "elsewhere.db")
    assert outbox.path.is_absolute()
    outbox.close()


def test_nothing_keeps_an_outbox_that_nobody_has_any_more(
    tmp_path: Path, virtual_time: VirtualTime
) -> None:
    """A worker that has ended is told of nothing more, and holds nothing."""

    def used() -> weakref.ref[Outbox]:
        outbox = Outbox(tmp_path / "short-lived.db")
        answers = Scripted(ConnectionError, None)

        @with_fallback(queued(outbox))
        def charge() -> None:
            answers()

        charge()
        assert outbox.drain() == 0
        outbox.close()
        return weakref.ref(outbox)

    outbox = used()
    gc.collect()
    assert outbox() is None
