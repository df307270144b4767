"""Fallbacks: which tier serves, for which errors, and what is said about it."""

# What returns Any may be a coroutine, for all that a type checker knows.
# pyright: reportUnusedCoroutine=false, reportIndexIssue=false, reportAttributeAccessIssue=false

from __future__ import annotations

import asyncio
import inspect
import threading
from typing import Any

import pytest
from structlog.testing import capture_logs

from resilient import (
    BulkheadFull,
    CallRejected,
    CallTimeout,
    CircuitOpen,
    Degradation,
    MemoryStore,
    Pipeline,
    bulkhead,
    cached,
    circuit_breaker,
    deadline,
    default,
    degradation_scope,
    degradations,
    failover,
    pipeline_of,
    rate_limit,
    retry,
    timeout,
    with_fallback,
)
from resilient.degrade.tier import Tier
from resilient.engine.isolation import broken
from resilient.testing import VirtualTime
from tests.doubles import Scripted, calls, each, series


def down(*_: Any, **__: Any) -> Any:
    raise ConnectionError("down")


class Guest:
    name = "guest"


# What serves


def test_a_call_that_succeeds_is_left_alone(virtual_time: VirtualTime) -> None:
    """No tier is asked, and nothing is degraded, while the call answers."""
    tier = Scripted("instead")
    guarded = with_fallback(tier)(Scripted("answer"))
    with degradation_scope() as degraded:
        assert guarded() == "answer"
    assert (tier.calls, degraded) == (0, [])


@pytest.mark.parametrize("value", [None, 0, False, "", [], {}, "guest", 4.5, (1, 2)])
def test_a_plain_value_is_served(virtual_time: VirtualTime, value: Any) -> None:
    """Any value is a tier, those that are false included."""
    served = with_fallback(value)(down)()
    assert served == value
    assert type(served) is type(value)


def test_a_function_is_called(virtual_time: VirtualTime) -> None:
    """A function without parameters is called for each caller."""
    made = iter(["first", "second"])
    guarded = with_fallback(lambda: next(made))(down)
    assert [guarded(), guarded()] == ["first", "second"]


def test_a_class_is_created_for_each_caller(virtual_time: VirtualTime) -> None:
    """`with_fallback(Guest)` serves a new instance, never more rights than it has."""
    guarded = with_fallback(Guest)(down)
    first, second = guarded("token"), guarded("token")
    assert isinstance(first, Guest)
    assert first is not second


def test_a_function_that_needs_them_is_given_the_arguments(virtual_time: VirtualTime) -> None:
    """A default with parameters is called with those of the call."""

    @with_fallback(lambda user_id, limit=3: f"popular for {user_id}, {limit}")
    def recommend(user_id: str, limit: int = 10) -> str:
        raise ConnectionError

    assert recommend("u1") == "popular for u1, 3"
    assert recommend("u1", limit=5) == "popular for u1, 5"


def test_tiers_are_tried_in_order(virtual_time: VirtualTime) -> None:
    """The first tier that has an answer serves; those after it are not asked."""
    first, second, third = Scripted(KeyError), Scripted("second"), Scripted("third")
    guarded = with_fallback(first, second, third)(down)
    assert guarded() == "second"
    assert (first.calls, second.calls, third.calls) == (1, 1, 0)


def test_the_first_of_several_plain_values_is_served_on_the_spot(
    virtual_time: VirtualTime,
) -> None:
    """While a circuit is open, which nobody looks at twice, the order of the tiers holds too."""
    breaker = circuit_breaker("two plain values")
    guarded = with_fallback("first", "second")(breaker(down))
    breaker.force_open()
    assert [guarded() for _ in range(3)] == ["first"] * 3


def test_each_of_two_caches_keeps_each_answer(virtual_time: VirtualTime) -> None:
    """A second cache behind the first holds what the first one has lost, of every call."""
    near, far = MemoryStore(), MemoryStore()
    guarded = with_fallback(
        cached(60, key="{one}", store=near),
        cached(60, key="{one}", store=far),
    )(lambda one: one)
    for one in ("a", "b"):
        guarded(one)
    assert len(near) == len(far) == 2


class Told(Tier[str]):
    """A tier that notes what it is told."""

    name = "told"

    def __init__(self) -> None:
        super().__init__()
        self.joins: list[tuple[Pipeline, Any]] = []

    def joined(self, pipeline: Pipeline, fallback: Any) -> None:
        self.joins.append((pipeline, fallback))

    def answer(self, call: Any, failed: Any) -> Any:
        raise NotImplementedError


def test_a_tier_is_told_what_it_is_part_of(virtual_time: VirtualTime) -> None:
    """The pipeline of each function that it may answer for, and the fallback in there."""
    tier = Told()
    fallback = with_fallback(tier)
    pipelines = [pipeline_of(fallback(function)) for function in (down, Scripted("answer"))]
    assert tier.joins == [(one, one.strategies[0]) for one in pipelines]


def test_a_call_through_a_pipeline_has_a_fallback_for_its_function(
    virtual_time: VirtualTime,
) -> None:
    """`Pipeline.call` finds out what the tiers need to know of a function, as a decorator does."""
    pipeline = Pipeline(with_fallback(cached(60, key="{one}")))
    ask = Scripted("answer", ConnectionError)

    def asking(one: str) -> Any:
        return ask()

    assert [pipeline.call(asking, "a") for _ in range(2)] == ["answer"] * 2


def test_a_fallback_brings_the_counts_of_its_own_function_up_to_date(
    virtual_time: VirtualTime,
) -> None:
    """One object that guards two functions is one fallback for each of them."""
    fallback = with_fallback("instead")
    first, second = fallback(Scripted("answer")), fallback(Scripted("answer"))
    first()
    pipeline_of(first).strategies[0].settle()
    assert len(pipeline_of(first).journal) == 0
    for function in (first, second):
        pipeline = pipeline_of(function)
        assert list(pipeline.strategies[0]._pipelines) == [pipeline]


def test_a_tier_can_be_asynchronous_where_the_function_is(virtual_time: VirtualTime) -> None:
    """Coroutine functions serve coroutine functions, and plain ones do too."""

    async def ask() -> str:
        raise ConnectionError

    async def instead() -> str:
        await asyncio.sleep(1)
        return "instead"

    assert virtual_time.run(with_fallback(instead)(ask)()) == "instead"
    assert virtual_time.run(with_fallback(lambda: "plain")(ask)()) == "plain"
    assert virtual_time.run(with_fallback([])(ask)()) == []


def test_the_tiers_of_one_object_serve_many_functions(virtual_time: VirtualTime) -> None:
    """One `with_fallback(...)` can decorate any number of functions."""
    guard = with_fallback("instead")
    assert [guard(down)(), guard(Scripted(KeyError))()] == ["instead", "instead"]


# Copies


@each(
    "value",
    {
        "list": [],
        "nested": {"items": [], "total": {"cents": 0}},
        "list in a tuple": ([],),
        "set": {1},
        "object": Guest(),
        "bytearray": bytearray(b"abc"),
    },
)
def test_no_two_callers_share_a_mutable_default(virtual_time: VirtualTime, value: Any) -> None:
    """Each caller has a copy of its own, down to what is nested in it."""
    guarded = with_fallback(value)(down)
    first, second = guarded(), guarded()
    assert first is not second
    assert first is not value


def test_what_one_caller_does_to_a_default_is_not_seen_by_the_next(
    virtual_time: VirtualTime,
) -> None:
    """Changes deep inside of a served value stay with the caller that made them."""
    guarded = with_fallback({"items": [["book"]]})(down)
    guarded()["items"][0].append("changed")
    assert guarded() == {"items": [["book"]]}


def test_a_default_is_what_it_was_when_it_was_given(virtual_time: VirtualTime) -> None:
    """The module's own list cannot be changed through what a caller gets."""
    popular = ["book"]
    guarded = with_fallback(popular)(down)
    guarded().append("changed")
    assert popular == ["book"]


# For which errors


def test_every_error_is_for_the_tiers_unless_said_otherwise(virtual_time: VirtualTime) -> None:
    """`on` is `Exception` unless given."""
    for error in (ValueError, ConnectionError, TimeoutError, ExceptionGroup("two", [KeyError()])):
        assert with_fallback("instead")(Scripted(error))() == "instead"


@each(
    "on",
    {
        "type": ConnectionError,
        "types": (ConnectionError, TimeoutError),
        "predicate": lambda error: isinstance(error, OSError),
    },
)
def test_only_what_is_named_is_for_the_tiers(virtual_time: VirtualTime, on: Any) -> None:
    """`on` says which errors are served instead of raised."""
    assert with_fallback("instead", on=on)(Scripted(ConnectionError))() == "instead"
    with pytest.raises(KeyError):
        with_fallback("instead", on=on)(Scripted(KeyError))()


@each(
    "exclude",
    {
        "type": KeyError,
        "types": (KeyError, ValueError),
        "predicate": lambda error: isinstance(error, KeyError),
    },
)
def test_what_is_excluded_is_not_for_the_tiers(virtual_time: VirtualTime, exclude: Any) -> None:
    """`exclude` wins over `on`."""
    tier = Scripted("instead")
    guarded = with_fallback(tier, exclude=exclude)(Scripted(KeyError))
    with pytest.raises(KeyError):
        guarded()
    assert tier.calls == 0


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_is_no_exception_is_never_for_the_tiers(
    virtual_time: VirtualTime, error: type[BaseException]
) -> None:
    """Ctrl-C and its kind leave, even where `on` names them."""
    for on in (Exception, BaseException):
        with pytest.raises(error):
            with_fallback("instead", on=on)(Scripted(error))()


async def test_a_cancelled_caller_is_served_nothing() -> None:
    """Cancellation is not answered by a tier."""
    task = asyncio.create_task(with_fallback("instead", on=BaseException)(asyncio.sleep)(60))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def rejected_by(kind: str) -> Any:
    if kind == "circuit":
        breaker = circuit_breaker()
        guarded = breaker(Scripted("answer"))
        breaker.force_open()
        return guarded
    if kind == "bulkhead":
        return bulkhead(1)(lambda depth=0: guard_of(kind)(depth))
    limited = rate_limit(1, per=60)(Scripted("answer"))
    limited()
    return limited


def guard_of(kind: str) -> Any:
    raise BulkheadFull(kind, 1, 0)


@pytest.mark.parametrize("kind", ["circuit", "bulkhead", "rate limit"])
@pytest.mark.parametrize("on", [Exception, KeyError])
def test_a_rejection_is_for_the_tiers_whatever_on_names(
    virtual_time: VirtualTime, kind: str, on: type[Exception]
) -> None:
    """Open circuits, full bulkheads and rate limits are operational errors."""
    assert with_fallback("instead", on=on)(rejected_by(kind))() == "instead"


@pytest.mark.parametrize("kind", ["circuit", "bulkhead", "rate limit"])
def test_a_rejection_that_is_excluded_is_raised(virtual_time: VirtualTime, kind: str) -> None:
    """`exclude=CallRejected` lets rejections through to the caller."""
    with pytest.raises(CallRejected):
        with_fallback("instead", exclude=CallRejected)(rejected_by(kind))()


def test_a_predicate_that_raises_is_taken_for_a_yes(virtual_time: VirtualTime) -> None:
    """A broken `on` serves, a broken `exclude` excludes nothing, and both are counted."""
    before = broken["on"] + broken["exclude"]

    def explode(_: object) -> bool:
        raise RuntimeError("a broken predicate")

    assert with_fallback("instead", on=explode)(down)() == "instead"
    assert with_fallback("instead", exclude=explode)(down)() == "instead"
    assert broken["on"] + broken["exclude"] == before + 2


# When tiers fail


def test_a_tier_that_fails_falls_to_the_next(virtual_time: VirtualTime) -> None:
    """Errors of tiers are not the caller's as long as another tier answers."""
    assert with_fallback(failover(Scripted(KeyError)), "last")(down)() == "last"


def test_when_all_fail_the_calls_own_error_is_raised(virtual_time: VirtualTime) -> None:
    """The original error comes with a note on each tier, and the last one's as its cause."""
    own, last = ConnectionError("down"), ValueError("replica is broken")
    guarded = circuit_breaker("all tiers fail", fail_max=99)(
        with_fallback(failover(Scripted(KeyError("a"))), failover(Scripted(last)))(Scripted(own))
    )
    for _ in range(3):  # the same error object each time
        with pytest.raises(ConnectionError) as caught:
            guarded()
        assert caught.value is own
        assert own.__cause__ is last
        assert own.__notes__ == [
            "resilient: all tiers fail: tier failover failed as well: KeyError",
            "resilient: all tiers fail: tier failover failed as well: ValueError",
        ]


def test_a_cause_that_an_error_has_already_is_kept(virtual_time: VirtualTime) -> None:
    """What the callee has chained stays chained."""
    reason = OSError("disk full")

    def ask() -> None:
        raise ConnectionError("down") from reason

    with pytest.raises(ConnectionError) as caught:
        with_fallback(failover(Scripted(KeyError)))(ask)()
    assert caught.value.__cause__ is reason


def test_a_tier_that_raises_the_calls_own_error_is_not_its_cause(
    virtual_time: VirtualTime,
) -> None:
    """No error is ever its own cause."""
    own = ConnectionError("down")
    with pytest.raises(ConnectionError) as caught:
        with_fallback(failover(Scripted(own)))(Scripted(own))()
    assert caught.value is own
    assert own.__cause__ is None


def test_the_errors_of_tiers_and_call_never_form_a_circle(virtual_time: VirtualTime) -> None:
    """A tier whose error has the call's own as its cause does not make a loop of the two."""
    own = ConnectionError("down")

    def instead() -> None:
        raise KeyError from own

    with pytest.raises(ConnectionError):
        with_fallback(failover(instead))(Scripted(own))()
    seen: list[BaseException] = []
    error: BaseException | None = own
    while error is not None:
        assert error not in seen
        seen.append(error)
        error = error.__cause__


def test_ctrl_c_in_a_tier_leaves(virtual_time: VirtualTime) -> None:
    """A tier that is interrupted does not fall to the next."""
    with pytest.raises(KeyboardInterrupt):
        with_fallback(failover(Scripted(KeyboardInterrupt)), "last")(down)()


def test_a_retry_within_counts_before_any_tier_serves(virtual_time: VirtualTime) -> None:
    """The tiers see what the retry comes to, not each attempt."""
    ask = Scripted(ConnectionError)
    tier = Scripted("instead")
    guarded = with_fallback(tier)(retry(on=ConnectionError)(ask))
    assert guarded() == "instead"
    assert (ask.calls, tier.calls) == (3, 1)


def test_a_fallback_never_hides_a_failure_from_the_breaker(virtual_time: VirtualTime) -> None:
    """The breaker within trips on calls that were served all the same."""
    breaker = circuit_breaker("seen through a fallback", fail_max=3, reset_timeout=60)
    ask = Scripted(ConnectionError)
    guarded = with_fallback("instead")(breaker(ask))
    for _ in range(10):
        assert guarded() == "instead"
    assert breaker.current_state == "open"
    assert ask.calls == 3


# Limits of tiers


def test_a_tier_has_a_limit_of_its_own(virtual_time: VirtualTime) -> None:
    """A tier that hangs is left at its limit, and the next one serves."""

    def hang() -> str:
        virtual_time.sleep(60)
        return "never"

    began = virtual_time.now()
    assert (
        with_fallback(default(hang, timeout=2), failover(hang, timeout=1), "last")(down)() == "last"
    )
    assert virtual_time.now() - began == 3


def test_an_asynchronous_tier_is_cancelled_at_its_limit(virtual_time: VirtualTime) -> None:
    """The same holds for coroutine functions."""

    async def ask() -> str:
        raise ConnectionError

    async def hang() -> str:
        await asyncio.sleep(60)
        return "never"

    began = virtual_time.now()
    guarded = with_fallback(default(hang, timeout=2), failover(hang, timeout=1), "last")(ask)
    assert virtual_time.run(guarded()) == "last"
    assert virtual_time.now() - began == 3


def test_a_tier_that_turns_out_asynchronous_falls_to_the_next(virtual_time: VirtualTime) -> None:
    """A synchronous call cannot wait for the coroutine that it returns, which is closed."""
    returned: list[Any] = []

    async def ask() -> str:
        return "never"

    def hand_over() -> Any:
        returned.append(ask())
        return returned[-1]

    assert with_fallback(hand_over, "last")(down)() == "last"
    with pytest.raises(ConnectionError) as failed:
        with_fallback(default(hand_over))(down)()
    assert [inspect.getcoroutinestate(one) for one in returned] == [inspect.CORO_CLOSED] * 2
    assert "is asynchronous and cannot serve a synchronous call" in str(failed.value.__cause__)


def test_a_tier_that_hangs_on_a_thread_is_left_at_its_limit() -> None:
    """With real threads the caller is served by the next tier in time."""
    release = threading.Event()
    try:
        guarded = with_fallback(default(lambda: release.wait(30), timeout=0.02), "last")(down)
        assert guarded() == "last"
    finally:
        release.set()


def test_a_tier_keeps_to_the_time_of_the_call(virtual_time: VirtualTime) -> None:
    """A limit around the fallback ends tiers as well."""
    began = virtual_time.now()

    async def ask() -> str:
        raise ConnectionError

    async def hang() -> str:
        await asyncio.sleep(60)
        return "never"

    with pytest.raises((CallTimeout, ConnectionError)):
        virtual_time.run(timeout(2)(with_fallback(default(hang, timeout=30))(ask))())
    assert virtual_time.now() - began == 2


def test_a_limit_within_leaves_the_tiers_their_time(virtual_time: VirtualTime) -> None:
    """A call that took all of its own limit is still served by a tier that takes time."""

    def instead(*_: object) -> str:
        virtual_time.sleep(1)
        return "instead"

    guarded = with_fallback(failover(instead))(timeout(2)(virtual_time.sleep))
    began = virtual_time.now()
    assert guarded(60) == "instead"
    assert virtual_time.now() - began == 3


# What is said about it


def test_what_was_served_is_recorded(virtual_time: VirtualTime) -> None:
    """Tier, age and reason are there for the caller of the service, in order."""
    guarded = circuit_breaker("recorded", fail_max=99)(with_fallback("instead")(down))
    with degradation_scope() as degraded:
        guarded()
        assert degradations() == tuple(degraded)
        guarded()
    expected = Degradation("recorded", tier="default", age=None, reason="ConnectionError")
    assert degraded == [expected, expected]
    assert degradations() == ()


def test_the_reason_is_the_error_of_the_call(virtual_time: VirtualTime) -> None:
    """A rejection by an open circuit is named as what it is."""
    with degradation_scope() as degraded:
        with_fallback("instead")(rejected_by("circuit"))()
    assert [one.reason for one in degraded] == [CircuitOpen.__name__]


def test_without_a_scope_nothing_is_kept(virtual_time: VirtualTime) -> None:
    """Outside of any scope there are no degradations to see."""
    with_fallback("instead")(down)()
    assert degradations() == ()


def test_a_scope_does_not_grow_without_bound(virtual_time: VirtualTime) -> None:
    """A request that degrades ten thousand times keeps a bounded number of them."""
    guarded = with_fallback("instead")(down)
    with degradation_scope() as degraded:
        for _ in range(10_000):
            guarded()
    assert 0 < len(degraded) <= 1000


def test_tasks_and_workers_of_a_request_report_to_its_scope(virtual_time: VirtualTime) -> None:
    """Calls in tasks, and under a limit on another thread, belong to the scope around them."""

    async def ask() -> str:
        raise ConnectionError

    guarded = with_fallback("instead")(ask)

    async def main() -> int:
        with degradation_scope() as degraded:
            await asyncio.gather(guarded(), guarded(), guarded())
        return len(degraded)

    assert virtual_time.run(main()) == 3


def test_a_guarded_call_on_a_worker_reports_to_the_scope_of_its_caller() -> None:
    """The scope is found from a worker thread too."""
    inner = with_fallback("instead")(down)
    with degradation_scope() as degraded:
        timeout(5)(lambda: [inner()])()
    assert len(degraded) == 1


def test_two_tasks_have_scopes_of_their_own(virtual_time: VirtualTime) -> None:
    """One request never sees what was degraded in another."""

    async def ask() -> str:
        raise ConnectionError

    guarded = with_fallback("instead")(ask)

    async def request(times: int) -> int:
        with degradation_scope() as degraded:
            for _ in range(times):
                await asyncio.sleep(0.1)
                await guarded()
        return len(degraded)

    async def main() -> list[int]:
        return await asyncio.gather(*(request(times) for times in (1, 2, 3)))

    assert virtual_time.run(main()) == [1, 2, 3]


def test_degraded_is_never_counted_as_success(virtual_time: VirtualTime) -> None:
    """Outcome, tier and event tell that something else was served."""
    ask = Scripted("answer", ConnectionError)
    guarded = circuit_breaker("degraded", fail_max=99)(with_fallback("instead")(ask))
    with capture_logs() as logs:
        for _ in range(3):
            guarded()
    assert calls("degraded") == {"success": 1, "degraded": 2}
    assert series("degraded")["resilient_fallbacks_total{default}"] == 2
    assert logs[0] == {
        "event": "resilient.fallback_served",
        "log_level": "warning",
        "dependency": "degraded",
        "tier": "default",
        "reason": "ConnectionError",
    }
    assert len(logs) == 1  # the second one is left to a summary


def test_a_tier_of_none_is_an_answer(virtual_time: VirtualTime) -> None:
    """`with_fallback(None)` serves None, and records that it did."""
    with degradation_scope() as degraded, deadline(5):
        assert with_fallback(None)(down)() is None
    assert len(degraded) == 1
