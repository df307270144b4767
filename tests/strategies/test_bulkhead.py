"""Bulkheads: how many calls there are at once, who waits for how long, and who gets in next."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from resilient import BulkheadFull, ResilientError, bulkhead, circuit_breaker, deadline, timeout
from resilient.testing import VirtualTime
from tests.doubles import Scripted, calls, series


class Crowd:
    """A dependency that takes a second, and sees how many call it at once."""

    def __init__(self) -> None:
        self.now = self.most = self.calls = 0
        self.order: list[Any] = []

    async def ask(self, name: Any = None) -> Any:
        self.now += 1
        self.calls += 1
        self.order.append(name)
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(1)
        finally:
            self.now -= 1
        return name


async def all_of(call: Callable[..., Any], number: int) -> list[Any]:
    return await asyncio.gather(*(call(name) for name in range(number)), return_exceptions=True)


def test_there_are_never_more_calls_at_once_than_allowed(virtual_time: VirtualTime) -> None:
    """Of ten calls at once through a bulkhead of three, three run and seven are rejected."""
    crowd = Crowd()
    results = virtual_time.run(all_of(bulkhead(3)(crowd.ask), 10))
    assert crowd.most == crowd.calls == 3
    assert results[:3] == [0, 1, 2]
    assert all(isinstance(one, BulkheadFull) for one in results[3:])


def test_as_many_wait_as_allowed(virtual_time: VirtualTime) -> None:
    """Of ten calls, three run, four wait their turn, and three are rejected at once."""
    crowd = Crowd()
    began = virtual_time.now()
    results = virtual_time.run(all_of(bulkhead(3, max_waiting=4)(crowd.ask), 10))
    assert crowd.most == 3
    assert results[:7] == list(range(7))
    assert all(isinstance(one, BulkheadFull) for one in results[7:])
    assert virtual_time.now() - began == 3  # three, three, one


def test_those_who_wait_are_served_in_the_order_in_which_they_came(
    virtual_time: VirtualTime,
) -> None:
    """First come, first served."""
    crowd = Crowd()
    virtual_time.run(all_of(bulkhead(2, max_waiting=98)(crowd.ask), 100))
    assert crowd.order == list(range(100))
    assert crowd.most == 2


def test_nobody_waits_longer_than_allowed(virtual_time: VirtualTime) -> None:
    """A queued caller is rejected after `max_wait`, and leaves its place to another."""
    crowd = Crowd()
    guard = bulkhead(1, max_waiting=1, max_wait=0.25)
    guarded = guard(crowd.ask)

    async def main() -> None:
        running = asyncio.create_task(guarded("runs"))
        await asyncio.sleep(0)
        began = virtual_time.now()
        with pytest.raises(BulkheadFull):
            await guarded("waits")
        assert virtual_time.now() - began == 0.25
        assert (guard.in_flight, guard.waiting) == (1, 0)
        await asyncio.sleep(0.5)
        assert await guarded("waits as well") == "waits as well"
        await running

    virtual_time.run(main())
    assert crowd.order == ["runs", "waits as well"]


def test_a_wait_of_zero_is_no_wait(virtual_time: VirtualTime) -> None:
    """A deliberate `max_wait=0` rejects at once, though there is a place in the queue."""
    crowd = Crowd()
    began = virtual_time.now()
    results = virtual_time.run(all_of(bulkhead(1, max_waiting=5, max_wait=0)(crowd.ask), 3))
    assert [type(one) for one in results] == [int, BulkheadFull, BulkheadFull]
    assert virtual_time.now() - began == 1


def test_waiting_ends_with_the_time_that_the_call_has(virtual_time: VirtualTime) -> None:
    """The total limit covers waiting in the queue."""
    crowd = Crowd()
    guarded = timeout(0.5)(bulkhead(1, max_waiting=5)(crowd.ask))
    began = virtual_time.now()

    async def main() -> None:
        running = asyncio.create_task(bulkhead_only())
        await asyncio.sleep(0)
        with pytest.raises(ResilientError):
            await guarded("waits")
        assert virtual_time.now() - began == 0.5
        await running

    async def bulkhead_only() -> None:
        with pytest.raises(TimeoutError):
            await guarded("runs")

    virtual_time.run(main())
    assert crowd.order == ["runs"]


def test_a_queued_caller_that_is_cancelled_gives_its_place_back(
    virtual_time: VirtualTime,
) -> None:
    """Cancelling one who waits frees the place in the queue, and loses no permit."""
    crowd = Crowd()
    guard = bulkhead(1, max_waiting=1)
    guarded = guard(crowd.ask)

    async def main() -> None:
        running = asyncio.create_task(guarded("runs"))
        await asyncio.sleep(0)
        cancelled = asyncio.create_task(guarded("cancelled"))
        await asyncio.sleep(0)
        assert guard.waiting == 1
        cancelled.cancel()
        await asyncio.wait([cancelled])
        assert guard.waiting == 0
        assert await guarded("next") == "next"
        await running

    virtual_time.run(main())
    assert crowd.order == ["runs", "next"]
    assert guard.in_flight == 0


def test_a_caller_cancelled_as_it_is_let_in_hands_its_permit_on(
    virtual_time: VirtualTime,
) -> None:
    """A permit that was handed to a task which is cancelled in that moment is not lost."""
    crowd = Crowd()
    guard = bulkhead(1, max_waiting=2)
    guarded = guard(crowd.ask)

    async def main() -> None:
        running = asyncio.create_task(guarded("runs"))
        await asyncio.sleep(0)
        waiting = asyncio.create_task(guarded("cancelled"))
        last = asyncio.create_task(guarded("last"))
        await asyncio.sleep(0)
        running.add_done_callback(lambda _: waiting.cancel())
        assert await last == "last"

    virtual_time.run(main())
    assert guard.in_flight == 0


@pytest.mark.parametrize("answer", [ConnectionError, KeyboardInterrupt, "answer"])
def test_a_permit_comes_back_whatever_the_call_comes_to(
    virtual_time: VirtualTime, answer: Any
) -> None:
    """Success, failure and Ctrl-C all give the permit back."""
    guard = bulkhead(1)
    guarded = guard(Scripted(answer))
    for _ in range(3):
        if answer == "answer":
            assert guarded() == "answer"
        else:
            with pytest.raises(answer):
                guarded()
        assert guard.in_flight == 0


def test_a_cancelled_call_gives_its_permit_back(virtual_time: VirtualTime) -> None:
    """A task that is cancelled in the middle of its call frees its place."""
    guard = bulkhead(1)
    guarded = guard(Crowd().ask)

    async def main() -> None:
        task = asyncio.create_task(guarded("cancelled"))
        await asyncio.sleep(0.5)
        assert guard.in_flight == 1
        task.cancel()
        await asyncio.wait([task])
        assert guard.in_flight == 0
        assert await guarded("next") == "next"

    virtual_time.run(main())


def test_a_rejection_says_what_is_full(virtual_time: VirtualTime) -> None:
    """The error has the name and the limits."""
    guarded = circuit_breaker("a full bulkhead", fail_max=1)(bulkhead(1)(Crowd().ask))
    results = virtual_time.run(all_of(guarded, 2))
    full = results[1]
    assert isinstance(full, BulkheadFull)
    assert (full.name, full.max_concurrent, full.max_waiting) == ("a full bulkhead", 1, 0)
    assert "max_concurrent=1" in str(full)


def test_a_rejection_is_no_evidence_about_the_dependency(virtual_time: VirtualTime) -> None:
    """A breaker around a full bulkhead stays closed, and the outcome is `rejected`."""
    breaker = circuit_breaker("not overloaded", fail_max=1)
    guarded = breaker(bulkhead(1)(Crowd().ask))
    virtual_time.run(all_of(guarded, 10))
    assert breaker.current_state == "closed"
    assert calls("not overloaded") == {"success": 1, "rejected": 9}
    assert series("not overloaded")["resilient_rejections_total{bulkhead_full}"] == 9


def test_functions_share_the_limit_of_one_bulkhead(virtual_time: VirtualTime) -> None:
    """One object around two functions is one limit, of plain and asynchronous calls alike."""
    guard = bulkhead(1)
    first, second = guard(Crowd().ask), guard(Scripted("answer"))

    async def main() -> None:
        task = asyncio.create_task(first())
        await asyncio.sleep(0)
        with pytest.raises(BulkheadFull):
            second()
        await task
        assert second() == "answer"

    virtual_time.run(main())


def test_a_block_holds_a_permit(virtual_time: VirtualTime) -> None:
    """`with` and `async with` hold one permit each, and give it back whatever happens."""
    guard = bulkhead(1)
    with guard:
        assert guard.in_flight == 1
        with pytest.raises(BulkheadFull):
            guard.__enter__()
    assert guard.in_flight == 0

    async def main() -> None:
        async with guard:
            assert guard.in_flight == 1
            raise KeyError

    with pytest.raises(KeyError):
        virtual_time.run(main())
    assert guard.in_flight == 0


def test_a_block_that_has_waited_in_vain_does_not_run(virtual_time: VirtualTime) -> None:
    """Its place in the queue ends with `max_wait`, in a thread and in a task."""
    guard = bulkhead(1, max_waiting=1, max_wait=2)
    waited: list[float] = []

    async def main() -> None:
        begun = virtual_time.now()
        with pytest.raises(BulkheadFull):
            await guard.__aenter__()
        waited.append(virtual_time.now() - begun)

    with guard:
        begun = virtual_time.now()
        with pytest.raises(BulkheadFull):
            guard.__enter__()
        waited.append(virtual_time.now() - begun)
        virtual_time.run(main())
    assert waited == [2, 2]
    assert (guard.in_flight, guard.waiting) == (0, 0)


def test_a_coroutine_that_a_plain_function_returns_holds_the_permit(
    virtual_time: VirtualTime,
) -> None:
    """One permit, from the time that it is awaited until it has ended."""
    guard = bulkhead(2)

    async def answer() -> int:
        return guard.in_flight

    @guard
    def ask() -> Any:
        return answer()

    async def main() -> list[int]:
        return [guard.in_flight, await ask(), await ask(), guard.in_flight]

    assert virtual_time.run(main()) == [0, 1, 1, 0]


def test_calls_in_flight_can_be_seen(virtual_time: VirtualTime) -> None:
    """The gauge is there at zero, and shows the calls that have been let in."""
    guarded = circuit_breaker("seen in flight", fail_max=9)(bulkhead(5)(Crowd().ask))
    assert series("seen in flight")["resilient_in_flight"] == 0

    async def main() -> None:
        tasks = [asyncio.create_task(guarded()) for _ in range(3)]
        await asyncio.sleep(0.5)
        assert series("seen in flight")["resilient_in_flight"] == 3
        await asyncio.gather(*tasks)

    virtual_time.run(main())
    assert series("seen in flight")["resilient_in_flight"] == 0


def test_a_deadline_that_is_over_takes_no_permit(virtual_time: VirtualTime) -> None:
    """A call without time left gives back what it took on its way."""
    guard = bulkhead(1)
    guarded = guard(timeout(5)(Scripted("answer")))
    with deadline(1):
        virtual_time.advance(2)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                guarded()
    assert guard.in_flight == 0
