"""What is guarded is guarded for real, whatever kind of callable it is, and keeps its face."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, get_type_hints
from unittest.mock import AsyncMock, Mock

import pybreaker
import pytest
import tenacity

from resilient import (
    Bulkhead,
    BulkheadFull,
    CallTimeout,
    CircuitBreaker,
    CircuitOpen,
    InvalidUse,
    Pipeline,
    RateLimited,
    bulkhead,
    cached,
    circuit_breaker,
    deadline,
    failover,
    observe,
    pipeline_of,
    rate_limit,
    retry,
    timeout,
    unit_of_work,
    with_fallback,
)
from resilient.testing import VirtualTime
from tests.doubles import calls

FAIL_MAX = 3
CALLS = 20


class Reached:
    """How many calls came through to the callable."""

    def __init__(self) -> None:
        self.count = 0

    def fail(self) -> None:
        """Fail, as every callable here does."""
        self.count += 1
        raise ConnectionError("down")


def make_breaker(**settings: Any) -> CircuitBreaker:
    """Return a breaker that opens after three failures and stays so for a minute."""
    given: dict[str, Any] = {"fail_max": FAIL_MAX, "reset_timeout": 60, **settings}
    return CircuitBreaker(**given)


# 30. Every kind of callable


def function(reached: Reached, guard: Any) -> Any:
    @guard
    def call(x: int) -> None:
        reached.fail()

    return call


def async_function(reached: Reached, guard: Any) -> Any:
    @guard
    async def call(x: int) -> None:
        reached.fail()

    return call


def function_that_returns_a_coroutine(reached: Reached, guard: Any) -> Any:
    async def inner() -> None:
        reached.fail()

    @guard
    def call(x: int) -> Any:
        return inner()

    return call


def function_that_returns_a_coroutine_now_and_then(reached: Reached, guard: Any) -> Any:
    async def inner() -> None:
        reached.fail()

    @guard
    def call(x: int) -> Any:
        if reached.count % 2:
            reached.fail()
        return inner()

    return call


class Client:
    """Methods of every kind."""

    def __init__(self, reached: Reached) -> None:
        self.reached = reached

    def method(self, x: int) -> None:
        self.reached.fail()

    async def async_method(self, x: int) -> None:
        self.reached.fail()

    def __call__(self, x: int) -> None:
        self.reached.fail()


class AsyncClient:
    """A callable object whose calls are asynchronous."""

    def __init__(self, reached: Reached) -> None:
        self.reached = reached

    async def __call__(self, x: int) -> None:
        self.reached.fail()


def bound_method(reached: Reached, guard: Any) -> Any:
    return guard(Client(reached).method)


def async_bound_method(reached: Reached, guard: Any) -> Any:
    return guard(Client(reached).async_method)


def decorated_method(reached: Reached, guard: Any) -> Any:
    class Decorated:
        @guard
        def method(self, x: int) -> None:
            reached.fail()

    return Decorated().method


def async_decorated_method(reached: Reached, guard: Any) -> Any:
    class Decorated:
        @guard
        async def method(self, x: int) -> None:
            reached.fail()

    return Decorated().method


def partial_of_a_function(reached: Reached, guard: Any) -> Any:
    def call(y: int, x: int) -> None:
        reached.fail()

    return guard(functools.partial(call, 1))


def partial_of_an_async_function(reached: Reached, guard: Any) -> Any:
    async def call(y: int, x: int) -> None:
        reached.fail()

    return guard(functools.partial(functools.partial(call), 1))


def partial_of_an_async_method(reached: Reached, guard: Any) -> Any:
    return guard(functools.partial(Client(reached).async_method))


def callable_object(reached: Reached, guard: Any) -> Any:
    return guard(Client(reached))


def async_callable_object(reached: Reached, guard: Any) -> Any:
    return guard(AsyncClient(reached))


def partial_of_an_async_callable_object(reached: Reached, guard: Any) -> Any:
    return guard(functools.partial(AsyncClient(reached)))


def classmethod_below(reached: Reached, guard: Any) -> Any:
    class Decorated:
        @guard
        @classmethod
        def call(cls, x: int) -> None:
            assert cls is Decorated
            reached.fail()

    return Decorated.call


def classmethod_above(reached: Reached, guard: Any) -> Any:
    class Decorated:
        @classmethod
        @guard
        def call(cls, x: int) -> None:
            assert cls is Decorated
            reached.fail()

    return Decorated().call


def async_classmethod_below(reached: Reached, guard: Any) -> Any:
    class Decorated:
        @guard
        @classmethod
        async def call(cls, x: int) -> None:
            assert cls is Decorated
            reached.fail()

    return Decorated().call


def staticmethod_below(reached: Reached, guard: Any) -> Any:
    class Decorated:
        @guard
        @staticmethod
        def call(x: int) -> None:
            reached.fail()

    return Decorated().call


def staticmethod_above(reached: Reached, guard: Any) -> Any:
    class Decorated:
        @staticmethod
        @guard
        def call(x: int) -> None:
            reached.fail()

    return Decorated.call


def async_staticmethod_below(reached: Reached, guard: Any) -> Any:
    class Decorated:
        @guard
        @staticmethod
        async def call(x: int) -> None:
            reached.fail()

    return Decorated.call


def lambda_function(reached: Reached, guard: Any) -> Any:
    return guard(lambda x: reached.fail())


def lru_cached_function(reached: Reached, guard: Any) -> Any:
    @guard
    @functools.lru_cache
    def call(x: int) -> None:
        reached.fail()

    return call


def wrapped_by_another_decorator(reached: Reached, guard: Any) -> Any:
    def call(x: int) -> None:
        reached.fail()

    @functools.wraps(call)
    def other(*args: Any, **kwargs: Any) -> None:
        call(*args, **kwargs)

    return guard(other)


def beneath_another_decorator(reached: Reached, guard: Any) -> Any:
    @guard
    def call(x: int) -> None:
        reached.fail()

    @functools.wraps(call)
    def other(*args: Any, **kwargs: Any) -> None:
        call(*args, **kwargs)

    return other


def mock_object(reached: Reached, guard: Any) -> Any:
    return guard(Mock(side_effect=lambda x: reached.fail()))


def async_mock_object(reached: Reached, guard: Any) -> Any:
    return guard(AsyncMock(side_effect=lambda x: reached.fail()))


def generator(reached: Reached, guard: Any) -> Any:
    @guard
    def call(x: int) -> Iterator[int]:
        yield x
        reached.fail()

    return lambda x: list(call(x))


def async_generator(reached: Reached, guard: Any) -> Any:
    @guard
    async def call(x: int) -> AsyncIterator[int]:
        yield x
        reached.fail()

    async def collected(x: int) -> list[int]:
        return [item async for item in call(x)]

    return collected


KINDS = [
    function,
    async_function,
    function_that_returns_a_coroutine,
    function_that_returns_a_coroutine_now_and_then,
    bound_method,
    async_bound_method,
    decorated_method,
    async_decorated_method,
    partial_of_a_function,
    partial_of_an_async_function,
    partial_of_an_async_method,
    callable_object,
    async_callable_object,
    partial_of_an_async_callable_object,
    classmethod_below,
    classmethod_above,
    async_classmethod_below,
    staticmethod_below,
    staticmethod_above,
    async_staticmethod_below,
    lambda_function,
    lru_cached_function,
    wrapped_by_another_decorator,
    beneath_another_decorator,
    mock_object,
    async_mock_object,
    generator,
    async_generator,
]


def outcomes(call: Callable[[int], Any], times: int = CALLS) -> list[str]:
    """Make so many calls, on one event loop, and return what they came to."""

    async def main() -> list[str]:
        found = []
        for _ in range(times):
            try:
                value = call(1)
                if inspect.isawaitable(value):
                    value = await value
                found.append("answered")
            except Exception as error:
                found.append(type(error).__name__)
        return found

    return asyncio.run(main())


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_breaker_guards_it_for_real(kind: Any) -> None:
    """Of twenty failing calls fail_max get through, and the rest are rejected."""
    reached = Reached()
    call = kind(reached, make_breaker())

    assert outcomes(call) == ["ConnectionError"] * 3 + ["CircuitOpen"] * 17
    assert reached.count == FAIL_MAX


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_four_stacked_decorators_guard_it_for_real(kind: Any) -> None:
    """The stack of a real service: fallback, breaker, retry and timeout on any of them."""
    reached = Reached()
    breaker = make_breaker(fail_max=2)

    def guard(function: Any) -> Any:
        limited = timeout(5)(function)
        retried = retry(on=ConnectionError, attempts=2, wait_initial=0, budget=None)(limited)
        return with_fallback([])(breaker(retried))

    with VirtualTime():
        found = outcomes(kind(reached, guard), 5)

    if kind in (generator, async_generator):  # the caller has the first item already
        assert found == ["ConnectionError", "ConnectionError", "answered", "answered", "answered"]
        assert reached.count == 2
    else:
        assert found == ["answered"] * 5
        assert reached.count == 4


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_it_stays_asynchronous_where_it_was(kind: Any) -> None:
    """Frameworks ask inspect what a function is, and must be told the same as before."""
    before = kind(Reached(), lambda function: function)
    after = kind(Reached(), make_breaker())

    if inspect.iscoroutinefunction(before):
        assert inspect.iscoroutinefunction(after)
    if kind.__name__.startswith(("async", "partial_of_an_async")):
        assert inspect.iscoroutinefunction(after)


async def answer() -> str:
    return "answer"


@pytest.mark.parametrize(
    "outer",
    [lambda function: function, retry(on=KeyError), deadline(60)],
    ids=["alone", "retried", "in the slow lane"],
)
def test_a_function_that_turns_out_asynchronous_takes_one_token(
    virtual_time: VirtualTime, outer: Any
) -> None:
    """In the fast lane and in the slow one, four calls pass a limit of four, and no fewer."""
    guarded = outer(rate_limit(4, per=60)(lambda: answer()))  # noqa: PLW0108

    async def passed() -> int:
        calls = [guarded() for _ in range(4)]
        with pytest.raises(RateLimited):
            await guarded()
        return len(await asyncio.gather(*calls))

    assert virtual_time.run(passed()) == 4


def test_each_attempt_of_a_function_that_turns_out_asynchronous_takes_a_token(
    virtual_time: VirtualTime,
) -> None:
    """The first has taken its own when the function was called; the others take one each."""
    reached = Reached()

    async def failing() -> None:
        reached.fail()

    guarded = retry(on=ConnectionError, attempts=5, wait_initial=0)(
        rate_limit(3, per=60)(lambda: failing())  # noqa: PLW0108
    )

    async def main() -> None:
        with pytest.raises(ConnectionError):
            await guarded()

    virtual_time.run(main())
    assert reached.count == 3


def test_a_function_that_turns_out_asynchronous_is_one_call_for_its_breaker(
    virtual_time: VirtualTime,
) -> None:
    """A listener hears of it once, and the shadow of an open circuit falls on it once."""
    begun: list[object] = []

    class Listener(pybreaker.CircuitBreakerListener):
        def before_call(self, cb: Any, func: Any, *args: Any, **kwargs: Any) -> None:
            begun.append(func)

    breaker = make_breaker(mode="shadow", listeners=[Listener()])
    breaker.open()
    guarded = breaker(lambda: answer())  # noqa: PLW0108

    async def main() -> str:
        return await guarded()

    assert virtual_time.run(main()) == "answer"
    assert begun == [inspect.unwrap(guarded)]
    assert breaker.would_have_rejected == 1


async def test_callable_objects_without_async_in_sight_answer_as_before() -> None:
    """An answer that happens to be awaitable later is handed over as it is."""
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    future.set_result("answer")
    guarded = make_breaker()(lambda: future)

    assert await guarded() == "answer"


def test_a_guarded_function_keeps_its_face() -> None:
    """Name, docstring, module, signature, annotations and attributes are those of the function."""

    def charge(order: str, /, amount: int = 1, *, currency: str = "EUR") -> bool:
        """Charge it."""
        return True

    charge.version = 2  # type: ignore[attr-defined]
    guarded: Any = make_breaker()(retry(on=ConnectionError)(charge))

    assert guarded.__name__ == "charge"
    assert guarded.__doc__ == "Charge it."
    assert guarded.__module__ == __name__
    assert guarded.__qualname__ == charge.__qualname__
    assert guarded.version == 2
    assert inspect.signature(guarded) == inspect.signature(charge)
    assert guarded.__annotations__ == charge.__annotations__
    assert guarded.__wrapped__ is charge
    assert inspect.unwrap(guarded) is charge


def test_what_has_no_annotations_is_given_none() -> None:
    """Those who ask a guarded partial for its types are not told of the wrapper's."""

    def charge(order: str, amount: int) -> bool:
        return True

    callables: list[Any] = [functools.partial(charge, "o1"), Client(Reached()), len]
    for one in callables:
        assert get_type_hints(make_breaker()(one)) == {}


def test_cached_functions_have_names_of_their_own() -> None:
    """What `functools.lru_cache` makes is counted under the name of the function."""

    @functools.lru_cache
    def one(x: int) -> int:
        return x

    @functools.lru_cache
    def other(x: int) -> int:
        return x

    names = [pipeline_of(make_breaker()(function)).name for function in (one, other)]
    assert names == [f"{__name__}.{function.__qualname__}" for function in (one, other)]
    partly = functools.partial(one, 1)
    assert pipeline_of(retry(on=OSError)(partly)).name == names[0]


def test_a_guarded_generator_function_stays_one() -> None:
    """Of either kind."""

    def stream() -> Iterator[int]:
        yield 1

    async def stream_async() -> AsyncIterator[int]:
        yield 1

    breaker = make_breaker()
    assert inspect.isgeneratorfunction(breaker(stream))
    assert inspect.isasyncgenfunction(breaker(stream_async))


def test_stacked_decorators_make_one_wrapper() -> None:
    """One pipeline, and one frame of the library in a traceback."""

    def fail() -> None:
        raise ConnectionError("down")

    stacked: Any = with_fallback(ValueError)(make_breaker()(timeout(2)(bulkhead(3)(fail))))
    assert stacked.__wrapped__ is fail
    assert [type(one).__name__ for one in pipeline_of(stacked).strategies] == [
        "Fallback",
        "CircuitBreaker",
        "Timeout",
        "Bulkhead",
    ]

    guarded = retry(on=ValueError)(timeout(2)(bulkhead(3)(fail)))
    with pytest.raises(ConnectionError) as raised:
        guarded()
    ours = [entry for entry in raised.traceback if "/resilient/" in str(entry.path)]
    assert len(ours) == 1


def test_another_decorator_above_is_not_taken_for_ours() -> None:
    """functools.wraps copies attributes; a pipeline must not be extended past what it does."""
    noticed = []

    @make_breaker()
    def call() -> str:
        return "answer"

    @functools.wraps(call)
    def noticing() -> str:
        noticed.append("called")
        return call()

    guarded = bulkhead(3)(noticing)

    assert guarded() == "answer"
    assert noticed == ["called"]


@pytest.mark.parametrize("is_async", [False, True])
def test_an_object_that_guards_its_own_method_can_go(is_async: bool) -> None:
    """A client that wraps its methods when it is made is collected like any other object."""

    class Connection:
        def __init__(self) -> None:
            self.fetch = make_breaker()(self.ask_async if is_async else self.ask)

        def ask(self) -> None:
            raise ConnectionError

        async def ask_async(self) -> None:
            raise ConnectionError

    connection = Connection()
    gone = weakref.ref(connection)
    outcomes(lambda _, fetch=connection.fetch: fetch(), 2)
    del connection
    gc.collect()

    assert gone() is None


def test_every_instance_shares_the_circuit_of_a_decorated_method() -> None:
    """The method is guarded once, in its class."""
    reached = Reached()

    class Orders:
        @circuit_breaker(fail_max=2, reset_timeout=60)
        def place(self) -> None:
            reached.fail()

    for orders in (Orders(), Orders()):
        with pytest.raises(ConnectionError):
            orders.place()
    with pytest.raises(CircuitOpen):
        Orders().place()


# What cannot be guarded


@pytest.mark.parametrize(
    "thing",
    [
        Client,
        None,
        5,
        "a name",
        property(lambda self: 1),
        functools.cached_property(lambda self: 1),
        functools.partialmethod(print),
        (number for number in range(3)),
    ],
    ids=lambda thing: type(thing).__name__,
)
@pytest.mark.parametrize(
    "guard",
    [circuit_breaker(), retry(on=ValueError), timeout(1), bulkhead(1), with_fallback(1)],
    ids=lambda guard: type(guard).__name__,
)
def test_what_cannot_be_guarded_is_a_type_error_when_decorating(guard: Any, thing: Any) -> None:
    """Not at the first call, and never a guard that does nothing."""
    with pytest.raises(TypeError) as raised:
        guard(thing)

    assert isinstance(raised.value, InvalidUse)


@contextmanager
def connection() -> Generator[str]:
    yield "connection"


@asynccontextmanager
async def connection_async() -> AsyncGenerator[str]:
    yield "connection"


@pytest.mark.parametrize("make", [connection, connection_async, functools.partial(connection)])
@pytest.mark.parametrize(
    "guard",
    [circuit_breaker(), timeout(1), observe("a"), unit_of_work()],
    ids=lambda guard: type(guard).__name__,
)
def test_what_makes_a_context_manager_is_a_type_error_when_decorating(
    guard: Any, make: Any
) -> None:
    """It has done nothing when it is back, and would never fail; the message says what to do."""
    with pytest.raises(InvalidUse, match="makes a context manager"):
        guard(make)


def test_a_coroutine_cannot_be_guarded() -> None:
    """It has begun already; the function that makes it can."""

    async def fetch() -> None: ...

    coroutine = fetch()
    with pytest.raises(InvalidUse):
        make_breaker()(coroutine)  # type: ignore[arg-type]
    coroutine.close()


def test_a_stream_cannot_be_cached() -> None:
    """What is kept would be a stream that somebody has read already."""
    with pytest.raises(InvalidUse):

        @with_fallback(cached(ttl=60))
        def stream() -> Iterator[int]:
            yield 1


@pytest.mark.parametrize(
    "judging",
    [
        retry(on=ConnectionError, on_result=lambda value: value is None),
        retry(on=tenacity.retry_if_result(bool)),
    ],
    ids=["on_result", "tenacity"],
)
def test_what_judges_values_cannot_retry_a_stream(judging: Any) -> None:
    """There is no value; what stands for a stream within the library is nobody else's business."""

    async def stream_async() -> AsyncIterator[int]:
        yield 1

    def stream() -> Iterator[int]:
        yield 1

    for function in (stream, stream_async):
        with pytest.raises(InvalidUse, match="is a generator"):
            judging(function)
    assert list(Pipeline(judging).call(stream)) == [1], "one that nobody has decorated is let be"


def test_one_strategy_twice_is_an_error() -> None:
    """It would count each call twice."""
    breaker = make_breaker()
    with pytest.raises(InvalidUse):
        breaker(breaker(lambda: None))


# 31. Generators


class Source:
    """A stream that fails where it is told to, of either kind."""

    def __init__(self) -> None:
        self.begun = 0
        self.closed = 0
        self.fails_before_first = 0
        self.fails_after: int | None = None
        self.first_after = 0.0
        self.time: VirtualTime | None = None

    def items(self) -> Generator[int, Any, str]:
        self.begun += 1
        try:
            if self.begun <= self.fails_before_first:
                raise ConnectionError("no first item")
            if self.first_after and self.time is not None:
                self.time.sleep(self.first_after)
            for number in range(5):
                if number == self.fails_after:
                    raise ConnectionError("broke off")
                yield number
        finally:
            self.closed += 1
        return "the end"

    async def items_async(self) -> AsyncGenerator[int, Any]:
        self.begun += 1
        try:
            if self.begun <= self.fails_before_first:
                raise ConnectionError("no first item")
            if self.first_after:
                await asyncio.sleep(self.first_after)
            for number in range(5):
                if number == self.fails_after:
                    raise ConnectionError("broke off")
                yield number
        finally:
            self.closed += 1


class Streams:
    """A guarded stream of either kind, read from a test as if it were synchronous."""

    def __init__(self, is_async: bool, virtual_time: VirtualTime) -> None:
        self.is_async = is_async
        self.virtual_time = virtual_time
        self.source = Source()
        self.source.time = virtual_time

    def guarded(self, *strategies: Any) -> Any:
        """Guard the source, the first strategy outermost."""
        function: Any = self.source.items_async if self.is_async else self.source.items
        for strategy in reversed(strategies):
            function = strategy(function)
        return function

    def read(self, function: Any, at_most: int | None = None) -> list[Any]:
        """Read items, and leave the stream early after `at_most` of them."""
        read: list[Any] = []

        async def main() -> None:
            stream = function()
            async for item in stream:
                read.append(item)
                if len(read) == at_most:
                    break
            await stream.aclose()

        if self.is_async:
            self.virtual_time.run(main())
        else:
            stream = function()
            for item in stream:
                read.append(item)
                if len(read) == at_most:
                    break
            stream.close()
        return read


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def streams(request: pytest.FixtureRequest, virtual_time: VirtualTime) -> Streams:
    """A source of items, as a generator and as an asynchronous generator."""
    return Streams(request.param, virtual_time)


def test_a_stream_is_tried_again_until_its_first_item(streams: Streams) -> None:
    """Two streams that fail at once are replaced by a third, and the caller sees one stream."""
    streams.source.fails_before_first = 2
    read = streams.guarded(retry(on=ConnectionError, attempts=3))

    assert streams.read(read) == [0, 1, 2, 3, 4]
    assert streams.source.begun == 3


def test_a_stream_is_not_tried_again_after_its_first_item(streams: Streams) -> None:
    """The caller has a part of it; to begin again would give it twice."""
    streams.source.fails_after = 2
    read = streams.guarded(with_fallback([9]), retry(on=ConnectionError, attempts=3))

    with pytest.raises(ConnectionError, match="broke off"):
        streams.read(read)
    assert streams.source.begun == 1


def test_a_fallback_takes_the_place_of_a_stream_that_does_not_begin(streams: Streams) -> None:
    """What it serves is iterated like the stream."""
    streams.source.fails_before_first = 1
    read = streams.guarded(with_fallback(["instead", "of it"]))

    assert streams.read(read) == ["instead", "of it"]
    assert streams.read(read) == [0, 1, 2, 3, 4]


def test_another_stream_takes_the_place_of_one_that_does_not_begin(streams: Streams) -> None:
    """It is read to its end, as if it were the first one."""
    other = Source()
    other.time = streams.virtual_time
    replica = other.items_async if streams.is_async else other.items
    streams.source.fails_before_first = 1
    read = streams.guarded(with_fallback(failover(replica)))

    assert streams.read(read) == [0, 1, 2, 3, 4]
    assert (streams.source.begun, other.begun, other.closed) == (1, 1, 1)


def test_what_a_consumer_does_to_a_stream_reaches_the_one_that_took_its_place(
    streams: Streams,
) -> None:
    """What is sent into it or thrown into it arrives, and it is closed with the guarded one."""
    told: list[str] = []

    def replica() -> Generator[str, Any, None]:
        told.append((yield "first"))
        try:
            yield "second"
        except ValueError as thrown:
            told.append(f"caught {thrown}")
        try:
            yield "third"
        finally:
            told.append("closed")

    async def replica_async() -> AsyncGenerator[str, Any]:
        told.append((yield "first"))
        try:
            yield "second"
        except ValueError as thrown:
            told.append(f"caught {thrown}")
        try:
            yield "third"
        finally:
            told.append("closed")

    streams.source.fails_before_first = 1
    other: Any = replica_async if streams.is_async else replica
    stream = streams.guarded(with_fallback(failover(other)))()

    async def main() -> list[str]:
        items = [await anext(stream), await stream.asend("sent"), await stream.athrow(ValueError())]
        await stream.aclose()
        return items

    if streams.is_async:
        items = streams.virtual_time.run(main())
    else:
        items = [next(stream), stream.send("sent"), stream.throw(ValueError())]
        stream.close()
    assert items == ["first", "second", "third"]
    assert told == ["sent", "caught ", "closed"]


def test_what_is_sent_into_a_list_that_is_served_is_lost(streams: Streams) -> None:
    """Its items come all the same: a consumer need not know that it has no stream."""
    streams.source.fails_before_first = 1
    stream = streams.guarded(with_fallback(["instead", "of it"]))()

    async def main() -> list[str]:
        return [await anext(stream), await stream.asend("sent")]

    if streams.is_async:
        assert streams.virtual_time.run(main()) == ["instead", "of it"]
    else:
        assert [next(stream), stream.send("sent")] == ["instead", "of it"]


def test_a_time_limit_is_for_the_first_item(streams: Streams) -> None:
    """A stream that does not begin in time is given up; one that has begun may take its time."""
    read = streams.guarded(timeout(2))
    streams.source.first_after = 5.0
    with pytest.raises(CallTimeout):
        streams.read(read)

    streams.source.first_after = 1.0
    assert streams.read(read) == [0, 1, 2, 3, 4]


def test_streams_that_break_in_the_middle_open_the_circuit(streams: Streams) -> None:
    """Their first items are no successes: three broken streams in a row are three failures."""
    breaker = make_breaker()
    read = streams.guarded(breaker)
    streams.source.fails_after = 2
    for _ in range(FAIL_MAX):
        with pytest.raises(ConnectionError):
            streams.read(read)

    assert breaker.current_state == "open"
    with pytest.raises(CircuitOpen):
        streams.read(read)
    assert streams.source.begun == FAIL_MAX


def test_an_error_in_mid_stream_counts_once(streams: Streams) -> None:
    """As one failed call, not as a success and a failure."""
    breaker = make_breaker(fail_max=None, failure_rate=1.0, window=10)
    read = streams.guarded(breaker)
    streams.source.fails_after = 2
    with pytest.raises(ConnectionError):
        streams.read(read)

    assert breaker.failure_rate == 1.0
    streams.source.fails_after = None
    streams.read(read)
    assert breaker.failure_rate == 0.5


def test_an_early_break_counts_not_at_all(streams: Streams) -> None:
    """Neither as a failure nor as a success that would hide other failures."""
    breaker = make_breaker()
    read = streams.guarded(breaker)
    streams.source.fails_before_first = 2
    for _ in range(2):
        with pytest.raises(ConnectionError):
            streams.read(read)
    assert streams.read(read, at_most=2) == [0, 1]

    assert breaker.fail_counter == 2
    assert breaker.current_state == "closed"
    assert streams.source.closed == 3


def test_a_stream_that_ends_well_is_a_success(streams: Streams) -> None:
    """It starts the count of failures anew."""
    breaker = make_breaker()
    read = streams.guarded(breaker)
    streams.source.fails_before_first = 2
    for _ in range(2):
        with pytest.raises(ConnectionError):
            streams.read(read)
    streams.read(read)

    assert breaker.fail_counter == 0


def test_the_first_item_of_a_probe_closes_the_circuit(streams: Streams) -> None:
    """A stream may go on for hours; the circuit does not wait for its end."""
    breaker = make_breaker()
    read = streams.guarded(breaker)
    breaker.open()
    streams.virtual_time.advance(60)

    states: list[str] = []
    if streams.is_async:

        async def main() -> None:
            async for _ in read():
                states.append(breaker.current_state)

        streams.virtual_time.run(main())
    else:
        states += [breaker.current_state for _ in read()]

    assert states == ["closed"] * 5


def test_how_slowly_a_stream_is_read_is_not_the_dependency(streams: Streams) -> None:
    """A slow consumer does not make calls slow: they last until their first item."""
    breaker = make_breaker(slow_call_rate=0.5, slow_call_seconds=1, min_calls=2)
    read = streams.guarded(breaker)
    for _ in range(4):
        if streams.is_async:

            async def main() -> None:
                async for _ in read():
                    await asyncio.sleep(10)

            streams.virtual_time.run(main())
        else:
            for _ in read():
                streams.virtual_time.advance(10)

    assert breaker.slow_call_rate == 0.0
    assert breaker.current_state == "closed"


def test_a_stream_that_was_never_read_was_never_called(streams: Streams) -> None:
    """As with a plain generator, calling the function does nothing yet."""
    breaker, places = make_breaker(), Bulkhead(1)
    stream = streams.guarded(breaker, places)()

    assert (streams.source.begun, places.in_flight) == (0, 0)
    if not streams.is_async:
        stream.close()
    else:
        streams.virtual_time.run(stream.aclose())
    assert (streams.source.begun, places.in_flight) == (0, 0)


@pytest.mark.parametrize("ending", ["exhausted", "left early", "broken"])
def test_a_bulkhead_is_held_until_the_end_of_the_stream(streams: Streams, ending: str) -> None:
    """However it ends, its place is free then and not before."""
    places = Bulkhead(1)
    read = streams.guarded(places)
    streams.source.fails_after = 3 if ending == "broken" else None
    at_most = 2 if ending == "left early" else None
    during: list[int] = []
    rejected: list[type[Exception]] = []

    def look() -> None:
        during.append(places.in_flight)

    if streams.is_async:

        async def main() -> None:
            stream = read()
            try:
                async for item in stream:
                    look()
                    with pytest.raises(BulkheadFull) as raised:
                        await anext(read())
                    rejected.append(raised.type)
                    if item + 1 == at_most:
                        break
            finally:
                await stream.aclose()

        def run() -> None:
            streams.virtual_time.run(main())

    else:

        def run() -> None:
            stream = read()
            for item in stream:
                look()
                with pytest.raises(BulkheadFull) as raised:
                    next(read())
                rejected.append(raised.type)
                if item + 1 == at_most:
                    break
            stream.close()

    if ending == "broken":
        with pytest.raises(ConnectionError):
            run()
    else:
        run()

    assert set(during) == {1}
    assert len(rejected) == {"exhausted": 5, "left early": 2, "broken": 3}[ending]
    assert places.in_flight == 0


def test_a_generator_that_nobody_holds_any_more_gives_its_place_back() -> None:
    """Dropped half read, it is closed by Python, and with it the guard."""
    places, source = Bulkhead(1), Source()
    stream = places(source.items)()
    next(stream)
    assert places.in_flight == 1
    del stream
    gc.collect()

    assert places.in_flight == 0
    assert source.closed == 1


def test_the_return_value_of_a_generator_survives() -> None:
    """`yield from` a guarded generator gives what it returned."""
    breaker, source = make_breaker(), Source()
    guarded = breaker(source.items)

    def outer() -> Generator[int, Any, str]:
        returned = yield from guarded()
        return f"returned {returned}"

    stream = outer()
    assert [next(stream) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(StopIteration) as ended:
        next(stream)
    assert ended.value.value == "returned the end"


def test_a_generator_that_returns_without_an_item_is_a_success() -> None:
    """Its return value survives as well."""
    breaker = make_breaker()

    @breaker
    def empty() -> Generator[int, None, str]:
        if breaker is None:
            yield 1
        return "nothing to say"

    with pytest.raises(StopIteration) as ended:
        next(empty())
    assert ended.value.value == "nothing to say"


def test_an_asynchronous_generator_without_an_item_is_a_success(virtual_time: VirtualTime) -> None:
    """It is counted at its end, and its reader sees none."""
    places, noted = bulkhead(1), Pipeline(name="without an item")

    @places
    @noted
    async def empty() -> AsyncGenerator[int]:
        if places.in_flight > 1:
            yield 1

    async def main() -> list[int]:
        return [item async for item in empty()]

    assert virtual_time.run(main()) == []
    assert calls("without an item") == {"success": 1}
    assert places.in_flight == 0


def test_what_is_sent_into_a_generator_arrives() -> None:
    """Each value at its yield, and the answers come back in order."""

    @make_breaker()
    def echo() -> Generator[str, str, None]:
        heard = yield "ready"
        while True:
            heard = yield f"heard {heard}"

    stream = echo()
    assert [next(stream), stream.send("a"), stream.send("b")] == ["ready", "heard a", "heard b"]
    stream.close()


async def test_what_is_sent_into_an_asynchronous_generator_arrives() -> None:
    """As with a synchronous one."""

    @make_breaker()
    async def echo() -> AsyncGenerator[str, str]:
        heard = yield "ready"
        while True:
            heard = yield f"heard {heard}"

    stream = echo()
    assert [await anext(stream), await stream.asend("a")] == ["ready", "heard a"]
    await stream.aclose()


def test_what_is_thrown_into_a_generator_arrives() -> None:
    """It can be caught inside, and the stream goes on."""

    @make_breaker()
    def patient() -> Generator[str, None, None]:
        try:
            yield "first"
        except ValueError as error:
            yield f"caught {error}"

    stream = patient()
    next(stream)
    assert stream.throw(ValueError("this")) == "caught this"
    stream.close()


async def test_what_is_thrown_into_an_asynchronous_generator_arrives() -> None:
    """As with a synchronous one."""

    @make_breaker()
    async def patient() -> AsyncGenerator[str, None]:
        try:
            yield "first"
        except ValueError as error:
            yield f"caught {error}"

    stream = patient()
    await anext(stream)
    assert await stream.athrow(ValueError("this")) == "caught this"
    await stream.aclose()


def test_the_consumers_own_error_is_not_held_against_the_dependency() -> None:
    """A guarded generator as a context manager: an error in the block comes from the block."""
    breaker = make_breaker(fail_max=1)

    @contextmanager
    @breaker
    def connection() -> Generator[str]:
        yield "connection"

    for _ in range(3):
        with pytest.raises(ZeroDivisionError), connection():
            raise ZeroDivisionError
    assert breaker.current_state == "closed"


async def test_the_consumers_own_error_is_not_held_against_an_asynchronous_one() -> None:
    """As with a synchronous one."""
    breaker = make_breaker(fail_max=1)

    @asynccontextmanager
    @breaker
    async def connection() -> AsyncGenerator[str]:
        yield "connection"

    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            async with connection():
                raise ZeroDivisionError
    assert breaker.current_state == "closed"


async def test_a_cancelled_asynchronous_stream_counts_not_at_all() -> None:
    """Cancelled while it waits for its next item, it gives its place back and is no failure."""
    breaker, places = make_breaker(fail_max=1), Bulkhead(1)

    @breaker
    @places
    async def ticks() -> AsyncIterator[int]:
        yield 1
        await asyncio.Event().wait()

    async def read() -> None:
        async for _ in ticks():
            pass

    task = asyncio.ensure_future(read())
    await asyncio.sleep(0.01)
    assert places.in_flight == 1
    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled()
    assert places.in_flight == 0
    assert breaker.current_state == "closed"
