"""A dependency: named once, used as a decorator, as a block, and for single calls."""

from __future__ import annotations

import asyncio
import functools
import gc
import weakref
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import Context, copy_context
from typing import Any

import pybreaker
import pytest
from pybreaker import CircuitBreakerListener

from resilient import (
    BulkheadFull,
    CallTimeout,
    CircuitOpen,
    Dependency,
    DuplicateName,
    InvalidSetting,
    Pipeline,
    bulkhead,
    cached,
    circuit_breaker,
    pipeline_of,
    rate_limit,
    remaining,
    retry,
)
from resilient.dependency import all_dependencies
from resilient.testing import VirtualTime
from tests.doubles import Scripted, calls


def down(*_: Any, **__: Any) -> Any:
    raise ConnectionError("down")


# As a decorator


def test_a_function_of_a_dependency_has_all_that_guards_it(virtual_time: VirtualTime) -> None:
    """Retries, limit and breaker of the dependency are those of its functions."""
    shop = Dependency(
        "decorating", retry=retry(attempts=2), breaker=circuit_breaker(fail_max=4), timeout=1
    )
    ask = Scripted(ConnectionError)
    guarded = shop(ask)
    for _ in range(2):
        with pytest.raises(ConnectionError):
            guarded()
    assert ask.calls == 4
    with pytest.raises(CircuitOpen):
        guarded()


def test_a_dependency_without_anything_still_counts(virtual_time: VirtualTime) -> None:
    """A name alone guards nothing, and is seen in the metrics."""
    plain = Dependency("only a name")
    guarded = plain(Scripted("answer", ConnectionError))
    assert guarded() == "answer"
    with pytest.raises(ConnectionError):
        guarded()
    assert calls("only a name") == {"success": 1, "failure": 1}


def test_coroutine_functions_and_methods_can_be_decorated(virtual_time: VirtualTime) -> None:
    """Any kind of function can belong to a dependency."""
    shop = Dependency("of all kinds", retry=retry(attempts=2, wait_initial=0))

    class Client:
        tried = 0

        @shop
        async def load(self, order_id: str) -> str:
            self.tried += 1
            if self.tried == 1:
                raise ConnectionError
            return order_id

    assert virtual_time.run(Client().load("o1")) == "o1"


def test_all_functions_share_circuit_bulkhead_and_names(virtual_time: VirtualTime) -> None:
    """What one function does to the circuit, the others feel."""
    shop = Dependency("shared", breaker=circuit_breaker(fail_max=2, reset_timeout=60))
    bad, good = shop(down), shop(Scripted("answer"))
    for _ in range(2):
        with pytest.raises(ConnectionError):
            bad()
    with pytest.raises(CircuitOpen) as caught:
        good()
    assert caught.value.name == "shared"
    assert pipeline_of(bad).name == pipeline_of(good).name == "shared"


def test_a_fallback_stands_outside_of_everything(virtual_time: VirtualTime) -> None:
    """`dependency.with_fallback(...)` serves what its own strategies reject."""
    shop = Dependency(
        "with a fallback", retry=retry(attempts=2), breaker=circuit_breaker(fail_max=2)
    )
    ask = Scripted(ConnectionError)
    guarded = shop.with_fallback(cached(ttl=60), "instead")(ask)
    assert [guarded() for _ in range(5)] == ["instead"] * 5
    assert ask.calls == 2
    assert calls("with a fallback") == {"degraded": 5}


def test_each_function_can_have_a_fallback_of_its_own(virtual_time: VirtualTime) -> None:
    """Fallbacks belong to functions, the rest to the dependency."""
    shop = Dependency("with two fallbacks", breaker=circuit_breaker(fail_max=9))
    first, second = shop.with_fallback(1)(down), shop.with_fallback(2)(down)
    assert [first(), second()] == [1, 2]
    with pytest.raises(ConnectionError):
        shop(down)()


# As a block


def test_a_block_is_guarded(virtual_time: VirtualTime) -> None:
    """Errors of `with` blocks count, and an open circuit does not run them."""
    shop = Dependency(
        "a shop around a block", breaker=circuit_breaker(fail_max=2, reset_timeout=60)
    )

    def refund() -> None:
        with shop:
            raise ConnectionError

    for _ in range(2):
        with pytest.raises(ConnectionError):
            refund()
    with pytest.raises(CircuitOpen):
        refund()
    assert calls("a shop around a block") == {"failure": 2, "rejected": 1}


def test_a_block_counts_successes(virtual_time: VirtualTime) -> None:
    """A block that ends without an error is a success of the dependency."""
    shop = Dependency("a good block", breaker=circuit_breaker(fail_max=2))
    with pytest.raises(ConnectionError), shop:
        raise ConnectionError
    with shop:
        pass
    with pytest.raises(ConnectionError), shop:
        raise ConnectionError
    assert shop.breaker is not None
    assert shop.breaker.current_state == "closed"
    assert calls("a good block") == {"failure": 2, "success": 1}


def test_a_block_sees_the_time_that_it_has(virtual_time: VirtualTime) -> None:
    """In a synchronous block the tighter of both limits is cooperative."""
    shop = Dependency("a block with limits", timeout=2, total_timeout=5)
    with shop as block:
        assert remaining() == block.remaining() == 2
        virtual_time.advance(1)
        assert remaining() == 1
    assert remaining() is None


def test_an_asynchronous_block_is_cut_at_the_limit(virtual_time: VirtualTime) -> None:
    """`async with` is cancelled when its time is over, which counts as a timeout."""
    shop = Dependency("an asynchronous block", timeout=2, breaker=circuit_breaker(fail_max=1))

    async def main() -> None:
        async with shop:
            await asyncio.sleep(60)

    began = virtual_time.now()
    with pytest.raises(CallTimeout):
        virtual_time.run(main())
    assert virtual_time.now() - began == 2
    assert calls("an asynchronous block") == {"timeout": 1}
    with pytest.raises(CircuitOpen):
        virtual_time.run(main())


def test_a_block_holds_a_place_of_the_bulkhead(virtual_time: VirtualTime) -> None:
    """Blocks and functions share the limit on calls at the same time."""
    shop = Dependency("a block in a bulkhead", max_concurrent=1)
    guarded = shop(Scripted("answer"))
    with shop, pytest.raises(BulkheadFull):
        guarded()
    assert guarded() == "answer"


def test_blocks_of_many_tasks_do_not_mix(virtual_time: VirtualTime) -> None:
    """One dependency can be entered from many tasks at once, and nested."""
    shop = Dependency("blocks of tasks", timeout=10, max_concurrent=20)

    async def use(seconds: float) -> float | None:
        async with shop:
            await asyncio.sleep(seconds)
            async with shop:
                return remaining()

    async def main() -> list[float | None]:
        return await asyncio.gather(*(use(seconds) for seconds in (1, 2, 3)))

    assert virtual_time.run(main()) == [9, 8, 7]
    assert shop.bulkhead is not None
    assert shop.bulkhead.in_flight == 0


def elsewhere(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function in a copy of the context, as frameworks do on threads of theirs."""
    return copy_context().run(function, *args)


def test_a_block_can_be_left_in_another_context(virtual_time: VirtualTime) -> None:
    """As by a framework that enters and leaves a generator of its user's on two threads."""
    shop = Dependency(
        "left elsewhere", breaker=circuit_breaker(fail_max=2), max_concurrent=1, total_timeout=5
    )
    assert shop.bulkhead is not None
    assert shop.breaker is not None

    @contextmanager
    def session() -> Generator[None]:
        with shop:
            yield

    for _ in range(2):
        block = session()
        elsewhere(block.__enter__)
        gc.collect()
        assert shop.bulkhead.in_flight == 1
        error = ConnectionError("reset")
        assert not elsewhere(block.__exit__, ConnectionError, error, error.__traceback__)
        assert shop.bulkhead.in_flight == 0
    assert calls("left elsewhere") == {"failure": 2}
    assert shop.breaker.current_state == "open"
    assert remaining() is None


def test_blocks_that_are_left_in_other_contexts_are_each_left_once(
    virtual_time: VirtualTime,
) -> None:
    """Also if one takes another's, which was entered before it or is within the same context."""
    shop = Dependency("left in disorder", max_concurrent=9, total_timeout=5)
    permits = shop.bulkhead
    assert permits is not None

    def enter_and_leave() -> None:
        shop.__enter__()
        for _ in range(3):
            elsewhere(shop.__enter__)
        assert permits.in_flight == 4
        for _ in range(3):
            elsewhere(shop.__exit__, None, None, None)
        assert permits.in_flight == 1
        shop.__exit__(None, None, None)
        assert permits.in_flight == 0
        with pytest.raises(RuntimeError, match="without having been entered"):
            shop.__exit__(None, None, None)
        assert remaining() is None

    elsewhere(enter_and_leave)  # whose context keeps a limit that has ended
    assert calls("left in disorder") == {"success": 4}


def test_blocks_need_not_be_left_in_the_order_in_which_they_were_entered(
    virtual_time: VirtualTime,
) -> None:
    """Each is found among the others, also where all were entered in another context."""
    shop, mail = (
        Dependency(name, breaker=circuit_breaker(fail_max=1)) for name in ("crossing", "crossed")
    )
    for through in (lambda enter: enter(), elsewhere):
        through(shop.__enter__)
        through(mail.__enter__)
        shop.__exit__(ConnectionError, ConnectionError("reset"), None)
        mail.__exit__(None, None, None)
        assert shop.breaker is not None
        assert shop.breaker.current_state == "open"
        shop.breaker.reset()
    assert (calls("crossing"), calls("crossed")) == ({"failure": 2}, {"success": 2})


@pytest.mark.parametrize("is_async", [False, True])
def test_ctrl_c_as_a_block_is_left_leaves_it(virtual_time: VirtualTime, is_async: bool) -> None:
    """In a listener, as at any other moment: it is not lost, and permits are given back."""

    class Interrupting(CircuitBreakerListener):
        def success(self, cb: Any) -> None:
            raise KeyboardInterrupt

    guard = circuit_breaker(fail_max=1, listeners=[Interrupting()])
    shop = Dependency(f"interrupted: {is_async}", breaker=guard, max_concurrent=1)

    async def use_async() -> None:
        async with shop:
            pass

    def use() -> None:
        with shop:
            pass

    with pytest.raises(KeyboardInterrupt):
        virtual_time.run(use_async()) if is_async else use()
    assert shop.bulkhead is not None
    assert shop.bulkhead.in_flight == 0
    assert calls(shop.name) == {"cancelled": 1}


def test_a_thread_keeps_no_blocks_that_others_have_left(virtual_time: VirtualTime) -> None:
    """However many it enters, in a context that lasts, and leaves to somebody else."""
    shop = Dependency("left to others", max_concurrent=1)
    gone: list[weakref.ref[Any]] = []
    for _ in range(3):
        block = shop.__enter__()
        gone.append(weakref.ref(block))
        del block
        Context().run(shop.__exit__, None, None, None)
    with shop:
        gc.collect()
        assert [one() for one in gone] == [None] * 3


# Single calls


def test_a_function_can_be_called_through_a_dependency(virtual_time: VirtualTime) -> None:
    """`call` guards one call, with its arguments, retries included."""
    shop = Dependency("calling", retry=retry(attempts=2), breaker=circuit_breaker(fail_max=9))
    ask = Scripted(ConnectionError, "answer")
    assert shop.call(ask, "o1", lines=True) == "answer"
    assert shop.call(functools.partial(int, base=2), "11") == 3
    assert calls("calling") == {"success": 2}


def test_a_coroutine_function_can_be_called_through_a_dependency(
    virtual_time: VirtualTime,
) -> None:
    """Of a coroutine function `call` returns what is to be awaited."""
    shop = Dependency("calling asynchronously", timeout=2)

    async def refund(order_id: str, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return order_id

    async def main() -> str:
        with pytest.raises(CallTimeout):
            await shop.call(refund, "o1", 60)
        return await shop.call(refund, "o1", seconds=1)

    assert virtual_time.run(main()) == "o1"
    assert calls("calling asynchronously") == {"success": 1, "timeout": 1}


@pytest.mark.parametrize("name", ["function", "self", "args", "kwargs", "call"])
def test_a_single_call_takes_arguments_of_any_name(name: str) -> None:
    """The callee's own, whatever they are called, also through a pipeline."""

    def names(**given: int) -> list[str]:
        return list(given)

    given: Any = {name: 1}
    assert Dependency("any name").call(names, **given) == [name]
    assert Pipeline(retry(on=OSError)).call(names, **given) == [name]


def test_an_error_of_a_single_call_is_the_callees_own(virtual_time: VirtualTime) -> None:
    """`call` raises what the function raises."""
    error = KeyError("no such order")
    with pytest.raises(KeyError) as caught:
        Dependency("calling what fails", timeout=2).call(Scripted(error))
    assert caught.value is error


# What counts as a failure


def test_only_what_is_named_counts_and_is_tried_again(virtual_time: VirtualTime) -> None:
    """An error that is no failure of the dependency neither opens the circuit nor is retried."""
    shop = Dependency(
        "own failures",
        failures=(ConnectionError, TimeoutError),
        retry=retry(attempts=2),
        breaker=circuit_breaker(fail_max=1),
    )
    ask = Scripted(KeyError("no such order"))
    guarded = shop(ask)
    for _ in range(5):
        with pytest.raises(KeyError):
            guarded()
    assert ask.calls == 5
    assert shop.breaker is not None
    assert shop.breaker.current_state == "closed"
    assert "failure" not in calls("own failures")


def test_failures_can_be_told_by_a_predicate(virtual_time: VirtualTime) -> None:
    """A function of the error says what counts."""
    shop = Dependency(
        "told by a predicate",
        failures=lambda error: "5" in str(error),
        retry=retry(attempts=2),
        breaker=circuit_breaker(fail_max=2, reset_timeout=60),
    )
    teapot, broken = Scripted(ValueError("418")), Scripted(ValueError("503"))
    with pytest.raises(ValueError, match="418"):
        shop(teapot)()
    with pytest.raises(ValueError, match="503"):
        shop(broken)()
    assert (teapot.calls, broken.calls) == (1, 2)
    with pytest.raises(CircuitOpen):
        shop(teapot)()


def test_our_own_timeout_always_counts(virtual_time: VirtualTime) -> None:
    """A call that was cut is a failure, though its error is not named."""
    shop = Dependency(
        "too slow",
        failures=ConnectionError,
        timeout=1,
        retry=retry(attempts=2, wait_initial=0),
        breaker=circuit_breaker(fail_max=2, reset_timeout=60),
    )
    guarded = shop(virtual_time.sleep)
    with pytest.raises(CallTimeout):
        guarded(60)
    with pytest.raises(CircuitOpen):
        guarded(0)


def test_what_a_retry_says_itself_wins(virtual_time: VirtualTime) -> None:
    """A `retry(on=...)` is not widened to the failures of its dependency."""
    shop = Dependency(
        "a retry of its own mind", failures=OSError, retry=retry(on=ConnectionError, attempts=2)
    )
    ask = Scripted(PermissionError)
    with pytest.raises(PermissionError):
        shop(ask)()
    assert ask.calls == 1


def test_a_rejection_is_never_a_failure(virtual_time: VirtualTime) -> None:
    """Rejections by the dependency's own strategies do not count against it."""
    shop = Dependency(
        "rejecting",
        breaker=circuit_breaker(fail_max=1),
        rate_limit=rate_limit(1, per=60),
    )
    guarded = shop(Scripted("answer"))
    guarded()
    for _ in range(5):
        with pytest.raises(Exception, match="more than 1 calls"):
            guarded()
    assert shop.breaker is not None
    assert shop.breaker.current_state == "closed"


# Names


def test_two_dependencies_cannot_have_one_name() -> None:
    """The second is refused while the first is there, and accepted afterwards."""
    first = Dependency("a taken name")
    with pytest.raises(DuplicateName, match="a taken name"):
        Dependency("a taken name")
    del first
    gc.collect()
    assert Dependency("a taken name").name == "a taken name"


def test_a_name_that_was_refused_for_another_reason_is_free() -> None:
    """A dependency whose settings are wrong takes no name."""
    with pytest.raises(InvalidSetting):
        Dependency("a free name", timeout=-1)
    assert Dependency("a free name").name == "a free name"


def test_a_breaker_takes_the_name_of_its_dependency() -> None:
    """A breaker without a name is called like what it protects; one with a name keeps it."""
    breaker = circuit_breaker()
    shop = Dependency("naming its breaker", breaker=breaker)
    assert breaker.name == shop.name
    named = circuit_breaker("a breaker with a name")
    Dependency("with a named breaker", breaker=named)
    assert named.name == "a breaker with a name"


def test_the_registry_knows_all_that_are_alive(virtual_time: VirtualTime) -> None:
    """Dependencies are found by name order, and not kept alive by being found."""
    kept = [Dependency(f"registered {letter}") for letter in "bac"]
    names = [one.name for one in all_dependencies() if one.name.startswith("registered ")]
    assert names == ["registered a", "registered b", "registered c"]
    del kept
    gc.collect()
    assert not any(one.name.startswith("registered ") for one in all_dependencies())


def test_what_people_on_call_need_can_be_read() -> None:
    """Critical or not, recovery time, owner and runbook are attributes."""
    shop = Dependency(
        "for people", critical=True, rto=300, owner="payments team", runbook="https://example.org"
    )
    assert (shop.critical, shop.rto, shop.owner, shop.runbook) == (
        True,
        300,
        "payments team",
        "https://example.org",
    )
    assert "for people" in repr(shop)


# Wrong settings


@pytest.mark.parametrize(
    ("settings", "parameter"),
    [
        ({"timeout": 5, "total_timeout": 2}, "timeout"),
        ({"max_waiting": 5}, "max_waiting"),
        ({"retry": 3}, "retry"),
        ({"retry": bulkhead(3)}, "retry"),
        ({"breaker": retry(on=OSError)}, "breaker"),
        ({"rate_limit": 10}, "rate_limit"),
        ({"failures": []}, "failures"),
        ({"failures": "ConnectionError"}, "failures"),
        ({"failures": (ConnectionError, 5)}, "failures"),
        ({"rto": 0}, "rto"),
        ({"timeout": 0}, "timeout"),
        ({"total_timeout": float("nan")}, "total_timeout"),
        ({"max_concurrent": 0}, "max_concurrent"),
        ({"max_concurrent": 1, "max_waiting": -1}, "max_waiting"),
    ],
    ids=str,
)
def test_a_wrong_setting_is_told_when_the_dependency_is_made(
    settings: dict[str, Any], parameter: str
) -> None:
    """What cannot be is refused at once, by the name of the parameter."""
    with pytest.raises(InvalidSetting) as caught:
        Dependency("with a wrong setting", **settings)
    assert caught.value.parameter == parameter


def test_a_breaker_of_pybreakers_is_refused_by_what_would_do() -> None:
    """Which is called a CircuitBreaker as well."""
    theirs: Any = pybreaker.CircuitBreaker()
    with pytest.raises(InvalidSetting, match=r"breaker must be a resilient\.CircuitBreaker"):
        Dependency("moved half way", breaker=theirs)


@pytest.mark.parametrize("name", ["", "  ", None, 5, b"payments"])
def test_a_name_is_a_text_that_is_not_empty(name: Any) -> None:
    """A dependency without a proper name is refused."""
    with pytest.raises(InvalidSetting, match="name"):
        Dependency(name)
