"""Partial answers: which parts there are, why others are missing, and that nothing is left over."""

# Parts are of any kind here, wrong ones included.
# pyright: reportUnusedCoroutine=false, reportCallIssue=false, reportArgumentType=false

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from typing import Any

import pytest
from structlog.testing import capture_logs

from resilient import (
    CallTimeout,
    Degradation,
    InvalidSetting,
    InvalidUse,
    Partial,
    WorkersSaturated,
    cached,
    deadline,
    degradation_scope,
    gather_partial,
    remaining,
    timeout,
    with_fallback,
)
from resilient.degrade import gather
from resilient.degrade import partial as partials
from resilient.degrade.partial import _Missed, note_missing
from resilient.engine.measures import MOST_LABELS
from resilient.engine.outcome import Outcome
from resilient.engine.reported import all_readings
from resilient.testing import VirtualTime
from tests.doubles import Interrupted, each

lights: ContextVar[str] = ContextVar("lights", default="off")


async def after(seconds: float, value: Any = "answer") -> Any:
    await asyncio.sleep(seconds)
    if isinstance(value, BaseException):
        raise value
    return value


def down() -> Any:
    raise ConnectionError("down")


async def down_async() -> Any:
    return down()


def missed(part: str) -> float | None:
    found = [one.value for one in all_readings() if one.labels.get("part") == part]
    return found[0] if found else None  # type: ignore[return-value]


# What there is, and what is missing; the same for tasks and threads


def on_tasks(virtual: VirtualTime, **settings: Any) -> Partial[Any]:
    """Gather plain functions as if they were asynchronous."""

    async def called(function: Callable[[], Any]) -> Any:
        return function()

    async def main() -> Any:
        parts = {
            name: called(value) if callable(value) else value for name, value in settings.items()
        }
        return await gather_partial(**parts)

    return virtual.run(main())


def on_threads(virtual: VirtualTime, **settings: Any) -> Partial[Any]:
    return gather_partial(**settings)


both_ways = each("gathered", {"tasks": on_tasks, "threads": on_threads})


@both_ways
def test_all_parts_are_there_when_all_is_well(virtual_time: VirtualTime, gathered: Any) -> None:
    """The answer is a mapping of the parts by name, in the order in which they were asked for."""
    page = gathered(virtual_time, b=lambda: 1, a=lambda: None, required={"a"})
    assert dict(page) == {"b": 1, "a": None}
    assert [*page] == ["b", "a"]
    assert page.missing == {}


@both_ways
def test_a_part_that_fails_is_missing_with_its_error(
    virtual_time: VirtualTime, gathered: Any
) -> None:
    """An optional part that fails is absent, and its own error says why."""
    page = gathered(virtual_time, product=lambda: "lamp", reviews=down, required={"product"})
    assert "reviews" not in page
    assert page.get("reviews", []) == []
    assert isinstance(page.missing["reviews"], ConnectionError)
    assert repr(page) == "<Partial: product; missing: reviews (ConnectionError)>"


@both_ways
def test_a_required_part_raises_its_own_error(virtual_time: VirtualTime, gathered: Any) -> None:
    """There is no answer without a required part, and its error comes out as it was."""
    error = ConnectionError("product is down")

    def product() -> Any:
        raise error

    with pytest.raises(ConnectionError) as caught:
        gathered(virtual_time, product=product, reviews=lambda: 1, required={"product"})
    assert caught.value is error


@both_ways
def test_a_missing_part_is_seen_by_everybody(virtual_time: VirtualTime, gathered: Any) -> None:
    """What is missing is a degradation of the scope, an event, and a count that starts at zero."""
    part = f"reviews_{gathered.__name__}"
    gathered(virtual_time, **{part: lambda: 1})
    assert missed(part) == 0
    with degradation_scope() as degraded, capture_logs() as logs:
        gathered(virtual_time, **{part: down})
    assert degraded == [Degradation(part, "missing", None, "ConnectionError")]
    assert missed(part) == 1
    [event] = [one for one in logs if one["event"] == "resilient.part_missed"]
    assert (event["part"], event["reason"]) == (part, "ConnectionError")


@both_ways
def test_nothing_is_noted_when_there_is_no_answer(virtual_time: VirtualTime, gathered: Any) -> None:
    """An answer that is not given is not a degraded one."""
    with degradation_scope() as degraded, pytest.raises(ConnectionError):
        gathered(virtual_time, product=down, reviews=down, required={"product"})
    assert degraded == []


@both_ways
def test_what_is_degraded_within_a_part_is_seen_in_the_scope(
    virtual_time: VirtualTime, gathered: Any
) -> None:
    """A part that is served by a fallback is there, and the scope around says so."""
    with degradation_scope() as degraded:
        page = gathered(virtual_time, reviews=with_fallback("none today")(down))
    assert page["reviews"] == "none today"
    assert [one.tier for one in degraded] == ["default"]


@both_ways
def test_parts_see_the_callers_context_and_keep_theirs(
    virtual_time: VirtualTime, gathered: Any
) -> None:
    """Parts have the caller's context variables; what they set is theirs."""

    def part() -> str:
        seen = lights.get()
        lights.set("red")
        return seen

    token = lights.set("green")
    try:
        page = gathered(virtual_time, one=part, other=part)
        assert dict(page) == {"one": "green", "other": "green"}
        assert lights.get() == "green"
    finally:
        lights.reset(token)


@both_ways
def test_parts_know_what_time_they_have(virtual_time: VirtualTime, gathered: Any) -> None:
    """A part is under the limit of the whole, a little sooner, and nothing outlives it."""
    page = gathered(virtual_time, part=remaining, timeout=2)
    assert 1.98 < page["part"] < 2
    assert remaining() is None
    assert gathered(virtual_time, part=remaining)["part"] is None


# Time


def test_parts_that_are_late_are_missing(virtual_time: VirtualTime) -> None:
    """At the limit there is an answer with what has come until then, and no task goes on."""
    ended: list[str] = []

    async def slow() -> str:
        try:
            return await after(5)
        finally:
            ended.append("slow")

    async def main() -> Partial[Any]:
        page = await gather_partial(quick=after(0.1), slow=slow(), timeout=0.5)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return page

    began = virtual_time.now()
    page = virtual_time.run(main())
    assert virtual_time.now() - began == pytest.approx(0.5)
    assert dict(page) == {"quick": "answer"}
    late = page.missing["slow"]
    assert isinstance(late, CallTimeout)
    assert str(late) == "slow: not back within 0.5 s"
    assert ended == ["slow"]


def test_a_required_part_that_is_late_is_a_timeout(virtual_time: VirtualTime) -> None:
    """A required part that is not back in time raises a CallTimeout with its name."""
    with pytest.raises(CallTimeout, match=r"product: not back within 0\.5 s"):
        virtual_time.run(
            gather_partial(product=after(5), also=after(0), required={"product"}, timeout=0.5)
        )


def test_a_required_part_that_fails_ends_the_others_at_once(virtual_time: VirtualTime) -> None:
    """Nobody waits for the other parts of an answer that there will not be."""
    began = virtual_time.now()
    with pytest.raises(OSError, match="gone"):
        virtual_time.run(
            gather_partial(
                product=after(0.1, OSError("gone")), reviews=after(5), required={"product"}
            )
        )
    assert virtual_time.now() - began == pytest.approx(0.1)


def test_the_limit_around_is_kept(virtual_time: VirtualTime) -> None:
    """A limit of the caller's that is tighter holds for the whole."""

    async def main() -> Partial[Any]:
        with deadline(0.3):
            return await gather_partial(quick=after(0.1), slow=after(5), timeout=60)

    page = virtual_time.run(main())
    assert [*page] == ["quick"]
    assert str(page.missing["slow"]) == "slow: not back within 0.3 s"


def test_nothing_begins_after_the_limit(virtual_time: VirtualTime) -> None:
    """When the caller's time is over, no part is begun, and no coroutine is left unawaited."""
    begun: list[int] = []

    async def part() -> None:
        begun.append(1)

    async def main() -> Partial[Any]:
        with deadline(0.3):
            await asyncio.sleep(1)
            return await gather_partial(one=part(), other=part())

    page = virtual_time.run(main())
    assert (begun, [*page], [*page.missing]) == ([], [], ["one", "other"])


def test_the_fallback_of_a_part_that_is_cut_comes_in_time(virtual_time: VirtualTime) -> None:
    """A part that hangs serves its last good answer instead of being missing."""
    hangs = False

    @with_fallback(cached(ttl=60))
    @timeout(30)
    async def reviews() -> list[str]:
        if hangs:
            await asyncio.sleep(20)
        return ["good"]

    async def main() -> Partial[list[str]]:
        nonlocal hangs
        await reviews()
        hangs = True
        return await gather_partial(reviews=reviews(), timeout=1)

    began = virtual_time.now()
    with degradation_scope() as degraded:
        page = virtual_time.run(main())
    assert page["reviews"] == ["good"]
    assert [one.tier for one in degraded] == ["cached"]
    assert virtual_time.now() - began <= 1


@pytest.mark.real_time
def test_threads_that_are_late_are_left_behind() -> None:
    """The caller of plain functions is back at the limit, whatever hangs, with what there is."""
    release = threading.Event()
    began = time.monotonic()
    page = gather_partial(
        quick=lambda: "answer", slow=lambda: release.wait(10), required={"quick"}, timeout=0.1
    )
    took = time.monotonic() - began
    release.set()
    assert (dict(page), [*page.missing]) == ({"quick": "answer"}, ["slow"])
    assert isinstance(page.missing["slow"], CallTimeout)
    assert 0.09 < took < 1


def test_parts_on_threads_take_turns_in_virtual_time(virtual_time: VirtualTime) -> None:
    """Times add up in virtual time, required parts come first, and the limit holds exactly."""
    began = virtual_time.now()
    page = gather_partial(
        hangs=lambda: virtual_time.sleep(60),
        product=lambda: virtual_time.sleep(0.3),
        required={"product"},
        timeout=1,
    )
    assert ([*page], [*page.missing]) == (["product"], ["hangs"])
    assert 0.98 < virtual_time.now() - began <= 1


def test_threads_run_side_by_side() -> None:
    """Three plain functions that wait for each other all come back."""
    meet = threading.Barrier(3, timeout=5)
    page = gather_partial(a=meet.wait, b=meet.wait, c=meet.wait)
    assert sorted(page.values()) == [0, 1, 2]


def test_a_required_part_that_fails_does_not_wait_for_other_threads() -> None:
    """The error of a required part is raised while others are still running."""
    release = threading.Event()
    began = time.monotonic()
    with pytest.raises(ConnectionError):
        gather_partial(waits=lambda: release.wait(10), fails=down, required={"fails"})
    took = time.monotonic() - began
    release.set()
    assert took < 1


def test_what_a_part_has_come_to_does_not_change(virtual_time: VirtualTime) -> None:
    """A thread that ends in the moment in which it is left behind changes nothing any more."""
    gathering = gather._Threads({"one": down, "other": down}, frozenset({"one"}), None)
    gathering._ended("one", Outcome("answer", None, 0.0, 1.0))
    gathering._ended("one", Outcome(None, OSError(), 0.0, 1.0))
    assert not gathering._decided.woken
    gathering._ended("other", Outcome("answer", None, 0.0, 1.0))
    assert gathering._decided.woken
    assert dict(gathering.answer()) == {"one": "answer", "other": "answer"}


def test_a_part_that_hangs_takes_no_worker_from_others() -> None:
    """Hung calls of one part are bounded, it is missing from then on, and others are there."""
    release = threading.Event()
    pages = [
        gather_partial(well=lambda: 1, hangs_here=lambda: release.wait(10), timeout=0.02)
        for _ in range(10)
    ]
    release.set()
    assert all(page["well"] == 1 for page in pages)
    reasons = [type(page.missing["hangs_here"]) for page in pages]
    assert reasons == [CallTimeout] * 8 + [WorkersSaturated] * 2


def test_a_thread_that_is_left_behind_begins_nothing_any_more() -> None:
    """Guarded calls of an abandoned part are rejected: nobody waits for them."""
    left, went_on = threading.Event(), threading.Event()
    reached: list[str] = []

    @deadline(5)
    def further() -> None:
        reached.append("further")

    def slow() -> None:
        left.wait(10)
        with suppress(CallTimeout):
            further()
        went_on.set()

    gather_partial(slow=slow, timeout=0.05)
    left.set()
    assert went_on.wait(5)
    assert reached == []


def test_any_number_of_names_is_counted_under_a_number_of_labels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Names that are made of what users type do not make metrics without end."""
    missed = _Missed()
    monkeypatch.setattr(partials, "_missed", missed)
    note_missing({f"part {number}": OSError() for number in range(MOST_LABELS + 7)})
    counts = {reading.labels["part"]: reading.value for reading in missed.readings()}
    assert len(counts) == MOST_LABELS + 1
    assert counts["other"] == 7


# Cancellation, and what is never lost or left over


def test_a_caller_that_is_cancelled_takes_its_parts_along(virtual_time: VirtualTime) -> None:
    """Parts are cancelled with their caller, and have ended when it has."""
    ended: list[str] = []

    async def part(name: str) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.1)
            ended.append(name)

    async def main() -> None:
        task = asyncio.create_task(gather_partial(a=part("a"), b=part("b")))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert sorted(ended) == ["a", "b"]
        assert task.cancelled()

    virtual_time.run(main())


def test_a_caller_that_is_closed_ends_its_parts(virtual_time: VirtualTime) -> None:
    """Where nobody drives the caller any more, its parts are cancelled all the same."""
    ended: list[str] = []

    async def part() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("part")

    async def main() -> None:
        gathering = gather_partial(one=part())
        gathering.send(None)  # as far as its first wait
        await asyncio.sleep(1)
        gathering.close()
        await asyncio.sleep(1)
        assert ended == ["part"]

    virtual_time.run(main())


async def cancelled_before_it_begins(part: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    task = asyncio.create_task(gather_partial(one=part(), other=part()))
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def closed(part: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    gather_partial(one=part(), other=part()).close()


async def refused(part: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    with suppress(InvalidSetting):
        gather_partial(one=part(), other=part(), required={"neither"})
    with suppress(InvalidUse):
        gather_partial(one=part(), other=part)


async def failed(part: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    with suppress(ConnectionError):
        await gather_partial(one=part(), other=down_async(), required={"other"})


async def every_one_fails(part: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    with suppress(ConnectionError):
        await gather_partial(
            one=down_async(), other=down_async(), last=part(), required={"one", "other"}
        )


@each(
    "path",
    {
        path.__name__: path
        for path in (cancelled_before_it_begins, closed, refused, failed, every_one_fails)
    },
)
def test_no_coroutine_and_no_error_is_left_over(
    recwarn: pytest.WarningsRecorder, path: Callable[..., Coroutine[Any, Any, None]]
) -> None:
    """However it ends, Python has nothing to say of coroutines never awaited or errors unseen."""
    complaints: list[dict[str, Any]] = []

    async def part() -> str:
        await asyncio.sleep(0.001)
        return "answer"

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: complaints.append(context)
        )
        await path(part)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())
    gc.collect()
    assert [str(one.message) for one in recwarn] == []
    assert complaints == []


def test_a_part_that_somebody_else_cancels_is_missing(virtual_time: VirtualTime) -> None:
    """A task among the parts that is cancelled from elsewhere does not cancel the caller."""

    async def main() -> Partial[Any]:
        task = asyncio.create_task(after(60))
        asyncio.get_running_loop().call_later(1, task.cancel)
        return await gather_partial(task=task, other=after(2))

    page = virtual_time.run(main())
    assert [*page] == ["other"]
    assert str(page.missing["task"]) == "task: cancelled"


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
def test_an_interruption_within_a_part_comes_out(interruption: type[BaseException]) -> None:
    """What is no Exception is nobody's missing part: it leaves through the caller."""

    def interrupted() -> None:
        raise interruption

    with pytest.raises(interruption):
        gather_partial(one=interrupted, other=lambda: 1)


def test_an_interruption_within_a_task_comes_out(virtual_time: VirtualTime) -> None:
    """On tasks as well, and at once: the other parts are cancelled."""

    async def interrupted() -> None:
        await asyncio.sleep(1)
        raise Interrupted

    async def main() -> float:
        with pytest.raises(Interrupted):
            await gather_partial(one=interrupted(), other=after(60))
        return virtual_time.now()

    began = virtual_time.now()
    assert virtual_time.run(main()) == began + 1


def test_a_limit_around_ends_it_as_it_ends_other_calls(virtual_time: VirtualTime) -> None:
    """`async with timeout` around it cancels the parts and is what the caller sees."""

    async def main() -> None:
        async with timeout(0.5):
            await gather_partial(slow=after(60))

    with pytest.raises(CallTimeout):
        virtual_time.run(main())


# Wrong use


@each(
    "parts",
    {
        "none": {},
        "a value": {"one": 1},
        "a coroutine function": {"one": down_async},
        "a limit of zero": {"one": down, "timeout": 0},
        "a name as required": {"one": down, "required": "one"},
        "a name that is none": {"one": down, "required": {"two"}},
    },
)
def test_wrong_use_is_told_at_once(parts: dict[str, Any]) -> None:
    """Nothing is called when what was asked for makes no sense."""
    with pytest.raises((InvalidUse, InvalidSetting)):
        gather_partial(**parts)


def test_a_function_that_turns_out_asynchronous_is_told(virtual_time: VirtualTime) -> None:
    """A plain function that returns a coroutine has no part on threads, and none is left over."""
    page: Partial[Any] = gather_partial(part=lambda: after(1))
    assert "asynchronous" in str(page.missing["part"])


def test_any_number_of_names_shares_a_number_of_workers(
    virtual_time: VirtualTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names that are made of what users type do not make workers without end."""
    monkeypatch.setattr(gather, "_pools", {})
    page: Partial[int] = gather_partial(**{f"part {n}": partial(int, n) for n in range(60)})
    assert dict(page) == {f"part {n}": n for n in range(60)}
    assert len(gather._pools) == gather.MOST_POOLS


async def test_any_awaitable_can_be_a_part() -> None:
    """Futures and objects with `__await__` are parts like coroutines."""

    class Ready:
        def __await__(self) -> Any:
            return after(0).__await__()

    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    future.set_result("future")
    assert dict(await gather_partial(a=Ready(), b=future)) == {"a": "answer", "b": "future"}
