"""Strategies together: in which order they stand, and that they are one wrapper."""

from __future__ import annotations

import asyncio
import functools
import inspect
import operator
import traceback
from typing import Any

import pytest

from resilient import (
    BulkheadFull,
    CallTimeout,
    CircuitOpen,
    Dependency,
    InvalidUse,
    Pipeline,
    RateLimited,
    bulkhead,
    circuit_breaker,
    deadline,
    failover,
    pipeline_of,
    rate_limit,
    retry,
    subscribe,
    timeout,
    unsubscribe,
    with_fallback,
)
from resilient.testing import VirtualTime
from tests.doubles import Scripted, calls


def kinds(function: Any) -> list[str]:
    return [type(strategy).__name__ for strategy in pipeline_of(function).strategies]


def down() -> Any:
    raise ConnectionError("down")


# One wrapper


def test_stacked_decorators_are_one_pipeline(virtual_time: VirtualTime) -> None:
    """Four decorators on one function extend one pipeline, in the order in which they stand."""

    @with_fallback("instead")
    @circuit_breaker("stacked")
    @retry(on=ConnectionError)
    @timeout(2)
    def fetch() -> str:
        return "answer"

    assert kinds(fetch) == ["Fallback", "CircuitBreaker", "Retry", "Timeout"]
    assert pipeline_of(fetch).name == "stacked"
    assert fetch() == "answer"


def test_the_function_itself_is_one_step_away(virtual_time: VirtualTime) -> None:
    """`__wrapped__` is the original, however many decorators there are."""

    def fetch(user_id: str, limit: int = 3) -> str:
        """Fetch it."""
        return user_id

    guarded: Any = with_fallback(None)(retry(on=OSError)(timeout(2)(bulkhead(3)(fetch))))
    assert guarded.__wrapped__ is fetch
    assert inspect.unwrap(guarded) is fetch
    assert inspect.signature(guarded) == inspect.signature(fetch)
    assert (guarded.__name__, guarded.__doc__) == ("fetch", "Fetch it.")


def test_a_traceback_has_one_frame_of_the_library(virtual_time: VirtualTime) -> None:
    """Between the caller and the callee there is one frame of ours, in both lanes."""

    @circuit_breaker("one frame", fail_max=99)
    @retry(on=ConnectionError, attempts=2)
    @bulkhead(5)
    def fetch() -> None:
        raise ConnectionError

    for _ in range(3):
        with pytest.raises(ConnectionError) as caught:
            fetch()
        frames = traceback.extract_tb(caught.value.__traceback__)
        ours = [
            one for one in frames if "resilient" in one.filename and "tests" not in one.filename
        ]
        assert len(ours) == 1
        assert frames[-1].name == "fetch"


def test_a_traceback_of_a_coroutine_has_one_frame_of_the_library(
    virtual_time: VirtualTime,
) -> None:
    """The same holds for coroutine functions."""

    @circuit_breaker("one frame on asyncio", fail_max=99)
    @retry(on=ConnectionError, attempts=2)
    async def fetch() -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError) as caught:
        virtual_time.run(fetch())
    frames = traceback.extract_tb(caught.value.__traceback__)
    ours = [one for one in frames if "/resilient/engine/" in one.filename]
    assert len(ours) == 1


def test_another_decorator_in_between_is_not_skipped(virtual_time: VirtualTime) -> None:
    """A decorator of the user's between two of ours is called, once for each attempt around it."""
    seen: list[str] = []

    def logged(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            seen.append("logged")
            return function(*args, **kwargs)

        return wrapper

    ask = Scripted(ConnectionError)
    guarded = retry(on=ConnectionError)(logged(retry(on=ConnectionError, attempts=2)(ask)))
    with pytest.raises(ConnectionError):
        guarded()
    assert seen == ["logged"] * 3
    assert ask.calls == 6
    assert kinds(guarded) == ["Retry"]


def test_a_function_that_is_guarded_twice_has_two_pipelines(virtual_time: VirtualTime) -> None:
    """Guarding a guarded function leaves the first wrapper as it was."""

    def fetch() -> str:
        return "answer"

    inner = timeout(2)(fetch)
    outer = retry(on=OSError)(inner)
    assert kinds(inner) == ["Timeout"]
    assert kinds(outer) == ["Retry", "Timeout"]
    assert inner() == outer() == "answer"


def test_methods_are_guarded_as_they_are_called(virtual_time: VirtualTime) -> None:
    """Methods, class methods and static methods keep their kind, and can be looked into."""

    class Shop:
        @retry(on=OSError)
        def one(self) -> type:
            return type(self)

        @retry(on=OSError)
        @classmethod
        def two(cls) -> type:
            return cls

        @retry(on=OSError)
        @staticmethod
        def three() -> type:
            return Shop

    shop = Shop()
    assert shop.one() is shop.two() is shop.three() is Shop.two() is Shop
    assert kinds(shop.one) == kinds(Shop.one) == kinds(shop.two) == kinds(Shop.three) == ["Retry"]


@pytest.mark.parametrize(
    ("function", "arguments", "answer"),
    [
        (str.upper, ["a"], "A"),
        (operator.itemgetter(1), [[1, 2]], 2),
        (len, [[1, 2]], 2),
        ([1, 2].index, [2], 1),
        (functools.partial(int, base=2), ["11"], 3),
        (dict.fromkeys, [[1]], {1: None}),
    ],
    ids=["method", "object", "builtin", "bound", "partial", "class method"],
)
def test_callables_that_are_written_in_c_can_be_guarded(
    virtual_time: VirtualTime, function: Any, arguments: list[Any], answer: Any
) -> None:
    """What has no module, signature or name of its own is guarded like anything else."""
    guarded = with_fallback("instead")(retry(on=OSError)(function))
    assert guarded(*arguments) == answer
    assert pipeline_of(guarded).name


def test_what_is_not_guarded_has_no_pipeline() -> None:
    """`pipeline_of` says of a plain function that nothing guards it."""
    with pytest.raises(InvalidUse, match="not guarded"):
        pipeline_of(down)


# Order as written


def test_retry_around_breaker_shows_every_attempt_to_the_breaker(
    virtual_time: VirtualTime,
) -> None:
    """Three attempts are three failures."""
    breaker = circuit_breaker("retry around breaker", fail_max=9)
    with pytest.raises(ConnectionError):
        retry(on=ConnectionError)(breaker(down))()
    assert breaker.fail_counter == 3


def test_breaker_around_retry_shows_calls_to_the_breaker(virtual_time: VirtualTime) -> None:
    """Three attempts are one failure."""
    breaker = circuit_breaker("breaker around retry", fail_max=9)
    with pytest.raises(ConnectionError):
        breaker(retry(on=ConnectionError)(down))()
    assert breaker.fail_counter == 1


def test_fallback_around_retry_serves_once_and_retry_around_fallback_never_retries(
    virtual_time: VirtualTime,
) -> None:
    """What is served is a success for whatever is further out."""
    first, second = Scripted(ConnectionError), Scripted(ConnectionError)
    assert with_fallback("instead")(retry(on=ConnectionError)(first))() == "instead"
    assert retry(on=ConnectionError)(with_fallback("instead")(second))() == "instead"
    assert (first.calls, second.calls) == (3, 1)


def test_timeout_around_retry_is_one_limit_and_retry_around_timeout_is_three(
    virtual_time: VirtualTime,
) -> None:
    """A total limit of two seconds ends after two, limits of attempts after two each."""

    def took(guarded: Any) -> float:
        began = virtual_time.now()
        with pytest.raises(CallTimeout):
            guarded(60)
        return virtual_time.now() - began

    again = retry(on=TimeoutError, wait_initial=0)
    assert took(timeout(2)(again(virtual_time.sleep))) == 2
    assert took(again(timeout(2)(virtual_time.sleep))) == 6


def test_fallback_around_timeout_serves_after_it_and_timeout_around_fallback_ends_it(
    virtual_time: VirtualTime,
) -> None:
    """A limit outside of a fallback leaves no time for a tier, one inside of it does."""
    instead = with_fallback(failover(virtual_time.sleep))
    began = virtual_time.now()
    assert instead(timeout(2)(virtual_time.sleep))(3) is None
    assert virtual_time.now() - began == 5
    with pytest.raises(CallTimeout):
        timeout(2)(instead(virtual_time.sleep))(3)
    assert virtual_time.now() - began == 7


def test_bulkhead_around_retry_holds_one_permit_through_the_pauses(
    virtual_time: VirtualTime,
) -> None:
    """A bulkhead further out is held while a retry waits; further in it is free meanwhile."""
    for outside in (True, False):
        guard = bulkhead(1)
        seen: list[int] = []
        again = retry(
            on=ConnectionError,
            attempts=2,
            wait=lambda _: 1,
        )
        guarded = guard(again(down)) if outside else again(guard(down))
        virtual_time.later(0.5, lambda guard=guard, seen=seen: seen.append(guard.in_flight))
        with pytest.raises(ConnectionError):
            guarded()
        assert seen == [1 if outside else 0]


def test_breaker_around_bulkhead_does_not_count_rejections(virtual_time: VirtualTime) -> None:
    """A full bulkhead within a breaker is no failure; an open breaker takes no permit."""
    breaker, guard = circuit_breaker("breaker around bulkhead", fail_max=1), bulkhead(1)
    guarded = breaker(guard(Scripted("answer")))
    with guard, pytest.raises(BulkheadFull):
        guarded()
    assert breaker.current_state == "closed"
    breaker.force_open()
    with pytest.raises(CircuitOpen):
        guarded()
    assert guard.in_flight == 0


def test_rejections_in_a_group_are_rejections(virtual_time: VirtualTime) -> None:
    """A task group whose calls were all turned away says nothing against what is around it."""
    inner = circuit_breaker("within a task group", fail_max=1, reset_timeout=60)
    inner.open()
    outer = circuit_breaker("around a task group", fail_max=1)
    begun = 0

    @inner
    async def turned_away() -> None:
        raise AssertionError("not called")

    @with_fallback("instead", on=KeyError)
    @retry(on=Exception, budget=None)
    @outer
    async def gathers() -> None:
        nonlocal begun
        begun += 1
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(turned_away())

    assert virtual_time.run(gathers()) == "instead"
    assert (begun, outer.current_state) == (1, "closed")

    @circuit_breaker("around a failing task group", fail_max=1)
    async def fails_too() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(turned_away())
            raise ConnectionError

    with pytest.raises(ExceptionGroup):
        virtual_time.run(fails_too())
    assert calls("around a failing task group") == {"failure": 1}


def test_rate_limit_around_breaker_spends_tokens_on_rejections(virtual_time: VirtualTime) -> None:
    """A limit further out counts calls that an open circuit rejects; further in it does not."""
    for outside in (True, False):
        limit = rate_limit(2, per=60)
        breaker = circuit_breaker(f"limited outside: {outside}")
        ask = Scripted("answer")
        guarded = limit(breaker(ask)) if outside else breaker(limit(ask))
        breaker.force_open()
        for _ in range(2):
            with pytest.raises(CircuitOpen):
                guarded()
        breaker.reset()
        if outside:
            with pytest.raises(RateLimited):
                guarded()
        else:
            assert guarded() == "answer"


def test_deadline_around_timeout_clips_it(virtual_time: VirtualTime) -> None:
    """A cooperative limit further out shortens a hard one further in."""
    began = virtual_time.now()
    with pytest.raises(CallTimeout):
        deadline(2)(timeout(30)(virtual_time.sleep))(60)
    assert virtual_time.now() - began == 2


def test_fallback_around_fallback_serves_from_the_inner_one(virtual_time: VirtualTime) -> None:
    """The outer fallback is asked only for what the inner one does not serve."""
    guarded = with_fallback("outer")(
        with_fallback("inner", on=KeyError)(Scripted(KeyError, OSError))
    )
    assert [guarded(), guarded()] == ["inner", "outer"]


def test_retry_around_retry_shares_nothing(virtual_time: VirtualTime) -> None:
    """Two retries multiply their attempts, within the budgets of both."""
    ask = Scripted(ConnectionError)
    inner = retry(on=ConnectionError, attempts=2, budget=None)
    with pytest.raises(ConnectionError):
        retry(on=ConnectionError, attempts=3, budget=None)(inner(ask))()
    assert ask.calls == 6


# Pipelines


def test_a_pipeline_means_the_order_in_which_it_is_written(virtual_time: VirtualTime) -> None:
    """The first of its strategies is the outermost, as if they were stacked."""
    breaker = circuit_breaker("in a pipeline", fail_max=9)
    careful = Pipeline(with_fallback("instead"), retry(on=ConnectionError), breaker, timeout(2))
    guarded = careful(down)
    assert kinds(guarded) == ["Fallback", "Retry", "CircuitBreaker", "Timeout"]
    assert guarded() == "instead"
    assert breaker.fail_counter == 3


def test_a_pipeline_guards_many_functions(virtual_time: VirtualTime) -> None:
    """Each function has its own pipeline, and its own name, of the same strategies."""
    careful = Pipeline(retry(on=OSError), timeout(2))
    first, second = careful(Scripted("first")), careful(down)
    assert first() == "first"
    assert pipeline_of(first) is not pipeline_of(second)
    assert pipeline_of(first).strategies[0] is pipeline_of(second).strategies[0]


def test_a_strategy_cannot_be_twice_in_a_pipeline() -> None:
    """One object twice would count each call twice, and is refused."""
    breaker = circuit_breaker("twice")
    with pytest.raises(InvalidUse, match="twice"):
        breaker(breaker(down))
    with pytest.raises(InvalidUse, match="twice"):
        Pipeline(breaker, retry(on=OSError), breaker)


# The standard order


def test_a_dependency_has_the_standard_order(virtual_time: VirtualTime) -> None:
    """Fallback, total timeout, bulkhead, retry, breaker, rate limit, attempt timeout."""
    shop = Dependency(
        "in standard order",
        rate_limit=rate_limit(100),
        max_concurrent=5,
        breaker=circuit_breaker(),
        retry=retry(attempts=2),
        timeout=1,
        total_timeout=5,
    )
    order = ["Timeout", "Bulkhead", "Retry", "CircuitBreaker", "RateLimit", "Timeout"]
    assert kinds(shop(down)) == order
    guarded = shop.with_fallback("instead")(down)
    assert kinds(guarded) == ["Fallback", *order]
    limits = [one.seconds for one in pipeline_of(guarded).strategies if one.seconds is not None]
    assert limits == [5, 1]


def test_decorators_around_a_dependency_extend_it(virtual_time: VirtualTime) -> None:
    """A strategy on a function of a dependency is outside of it, under the dependency's name."""
    shop = Dependency("extended", retry=retry(attempts=2), timeout=1)
    guarded = with_fallback("instead")(shop(down))
    assert kinds(guarded) == ["Fallback", "Retry", "Timeout"]
    assert pipeline_of(guarded).name == "extended"
    assert guarded() == "instead"
    assert calls("extended") == {"degraded": 1}


# Calls that are turned away on the spot


@pytest.mark.parametrize(
    "around",
    [timeout(2), deadline(2), retry(on=ConnectionError)],
    ids=["timeout", "deadline", "retry"],
)
def test_what_an_open_circuit_turns_away_passes_what_has_no_part_in_it(
    virtual_time: VirtualTime, around: Any
) -> None:
    """Limits and retries around a circuit leave rejections quick: they are told of in sums."""
    heard: list[int] = []

    def listen(event: str, fields: Any) -> None:
        if event == "resilient.call_rejected" and fields["dependency"] == name:
            heard.append(fields.get("count", 1))

    name = f"passed by a {type(around).__name__}"
    breaker = circuit_breaker(name)
    guarded = around(breaker(Scripted("answer")))
    breaker.force_open()
    subscribe(listen)
    try:
        for _ in range(20):
            with pytest.raises(CircuitOpen):
                guarded()
        virtual_time.advance(0.25)
    finally:
        unsubscribe(listen)
    assert heard == [1, 19]


# Shared strategies


def test_functions_share_the_state_of_one_breaker(virtual_time: VirtualTime) -> None:
    """A circuit that one function opens is open for the other."""
    breaker = circuit_breaker("shared by two", fail_max=2, reset_timeout=60)
    bad, good = breaker(down), breaker(Scripted("answer"))
    assert good() == "answer"
    for _ in range(2):
        with pytest.raises(ConnectionError):
            bad()
    with pytest.raises(CircuitOpen):
        good()


def test_sharing_a_strategy_shares_nothing_else(virtual_time: VirtualTime) -> None:
    """Two functions with a common limit have journals and names of their own."""
    limit = timeout(2)
    first, second = limit(Scripted("first")), limit(down)
    assert first() == "first"
    with pytest.raises(ConnectionError):
        second()
    assert pipeline_of(first).name != pipeline_of(second).name


def test_two_dependencies_that_share_a_retry_each_retry_their_own_failures(
    virtual_time: VirtualTime,
) -> None:
    """A `retry(...)` without `on` takes the failures of each dependency that it is given to."""
    again = retry(attempts=2)
    first = Dependency("sharing a retry: first", failures=ConnectionError, retry=again)
    second = Dependency("sharing a retry: second", failures=KeyError, retry=again)
    for dependency, error, attempts in (
        (first, ConnectionError, 2),
        (first, KeyError, 1),
        (second, KeyError, 2),
        (second, ConnectionError, 1),
    ):
        ask = Scripted(error)
        with pytest.raises(error):
            dependency(ask)()
        assert ask.calls == attempts


# What a plain function hands out


def test_a_task_of_a_plain_function_is_not_looked_into(virtual_time: VirtualTime) -> None:
    """A call that returns a task is over, whatever becomes of the task; a coroutine is guarded."""
    breaker = circuit_breaker("handed out", fail_max=1)
    served = with_fallback("instead")

    async def lost() -> str:
        raise ConnectionError("lost")

    def plain() -> Any:
        return lost()

    async def main() -> None:
        task: Any = served(breaker(lambda: asyncio.ensure_future(lost())))()
        with pytest.raises(ConnectionError, match="lost"):
            await task
        assert breaker.current_state == "closed"
        assert await served(breaker(plain))() == "instead"
        assert breaker.current_state == "open"

    virtual_time.run(main())
