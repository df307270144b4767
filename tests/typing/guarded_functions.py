"""What type checkers must be able to tell of guarded functions; checked, never run."""

# mypy: disable-error-code="empty-body"

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from typing import Any, assert_type

import pybreaker
from tenacity import stop_after_attempt, stop_after_delay, wait_random_exponential

from resilient import (
    CircuitBreaker,
    CircuitOpen,
    Marked,
    Partial,
    Pipeline,
    bulkhead,
    cached,
    circuit_breaker,
    deadline,
    default,
    failover,
    gather_partial,
    marked,
    pipeline_of,
    rate_limit,
    remaining,
    retry,
    retrying,
    timeout,
    with_fallback,
)


class Item: ...


class User: ...


class Guest: ...


class ServiceError(Exception): ...


def popular_items() -> list[Item]: ...


# Signatures survive every strategy, on functions of any kind.


@circuit_breaker("a", failure_rate=0.5, min_calls=10, reset_timeout=30)
@retry(on=(ConnectionError, TimeoutError), attempts=3)
@timeout(2)
@bulkhead(20, max_waiting=100, max_wait=0.5)
@rate_limit(100, 1)
@deadline(2)
def plain(user_id: str, *, limit: int = 10) -> list[Item]: ...


assert_type(plain("u1"), list[Item])
assert_type(plain("u1", limit=5), list[Item])
plain(5)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
plain("u1", 5)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
plain()  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]


@circuit_breaker("b")
@retry(on=ConnectionError)
@timeout(1)
async def asynchronous(token: str) -> User: ...


@circuit_breaker("c")
def stream(pages: int) -> Iterator[Item]: ...


@circuit_breaker("d")
def talk(pages: int) -> Generator[Item, str, int]: ...


@circuit_breaker("e")
async def stream_async(pages: int) -> AsyncIterator[Item]:
    yield Item()


assert_type(stream(3), Iterator[Item])
assert_type(talk(3), Generator[Item, str, int])
assert_type(stream_async(3), AsyncIterator[Item])


async def awaits() -> None:
    """Await what is asynchronous."""
    assert_type(await asynchronous("t"), User)
    async with timeout(2):
        pass
    async for attempt in retrying(on=ConnectionError, attempts=3):
        with attempt:
            pass


class Client:
    """Methods of every kind."""

    @circuit_breaker("f")
    def method(self, order: str) -> Item: ...

    @retry(on=ConnectionError)
    async def async_method(self, order: str) -> Item: ...

    @classmethod
    @timeout(2)
    def of_the_class(cls, order: str) -> Client: ...

    @staticmethod
    @timeout(2)
    def of_nothing(order: str) -> Item: ...


assert_type(Client().method("o1"), Item)
assert_type(Client.of_the_class("o1"), Client)
assert_type(Client.of_nothing("o1"), Item)
Client().method(1)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


async def awaits_methods() -> None:
    """Await a method."""
    assert_type(await Client().async_method("o1"), Item)


assert_type(circuit_breaker("g")(functools.partial(popular_items))(), list[Item])
assert_type(pipeline_of(plain), Pipeline)
assert_type(remaining(), float | None)


# A keyed breaker is a decorator like any other.


@circuit_breaker.per_key("partners", "{host}", fail_max=3)
def fetch(host: str, path: str) -> bytes: ...


assert_type(fetch("a", "/"), bytes)


# What tenacity's users know.


@retry(
    on=ServiceError,
    stop=stop_after_attempt(5) | stop_after_delay(10),
    wait=wait_random_exponential(max=2),
)
def with_tenacity() -> int: ...


assert_type(with_tenacity(), int)

for attempt in retrying(on=ConnectionError, attempts=3):
    with attempt:
        pass


# What pybreaker's users know.


class MyListener(pybreaker.CircuitBreakerListener): ...


orders = CircuitBreaker(
    "orders", fail_max=5, reset_timeout=60, exclude=[ServiceError], listeners=[MyListener()]
)
theirs: pybreaker.CircuitBreaker = orders
try:
    orders.call(popular_items)
except CircuitOpen as rejected:
    assert_type(rejected.retry_after, float | None)
    their_error: pybreaker.CircuitBreakerError = rejected


# Time limits.

with deadline(2) as limit:
    assert_type(limit.remaining(), float | None)


@deadline(2, pass_as="timeout")
def hands_down(url: str, timeout: float = 60) -> bytes: ...


assert_type(hands_down("https://example.org"), bytes)


# A fallback adds its type to that of the function.


@with_fallback(cached(ttl=3600, key="rec:{user_id}"), popular_items)
@circuit_breaker("recommendations", failure_rate=0.5, min_calls=10, reset_timeout=30)
@retry(on=(ConnectionError, TimeoutError), attempts=3)
@timeout(2)
def recommendations_for(user_id: str) -> list[Item]: ...


assert_type(recommendations_for("u1"), list[Item])


@with_fallback(Guest)
@circuit_breaker("auth", failure_rate=0.5, reset_timeout=30)
@timeout(1)
async def user_for(token: str) -> User: ...


async def awaits_a_fallback() -> None:
    """Await what may come from a fallback."""
    assert_type(await user_for("t"), User | Guest)
    await user_for(5)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


async_function: Callable[[str], Coroutine[Any, Any, User | Guest]] = user_for


@with_fallback(Guest)
def by_a_class(token: str) -> User: ...


@with_fallback(Guest())
def by_a_value(token: str) -> User: ...


def guest_for(token: str) -> Guest: ...


async def guest_for_async(token: str) -> Guest: ...


@with_fallback(guest_for)
def by_a_function(token: str) -> User: ...


@with_fallback(guest_for_async)
async def by_an_async_function(token: str) -> User: ...


@with_fallback(guest_for)
async def by_a_plain_function(token: str) -> User: ...


@with_fallback(failover(guest_for))
def by_another_way(token: str) -> User: ...


@with_fallback(failover(guest_for_async))
async def by_another_async_way(token: str) -> User: ...


@with_fallback(default(Guest()))
def by_a_default(token: str) -> User: ...


@with_fallback(default(Guest))
def by_a_default_class(token: str) -> User: ...


@with_fallback(None)
def by_none(token: str) -> User: ...


@with_fallback("guest", on=ConnectionError, exclude=lambda error: False)
def with_settings(token: str) -> User: ...


assert_type(by_a_class("t"), User | Guest)
assert_type(by_a_value("t"), User | Guest)
assert_type(by_a_function("t"), User | Guest)
assert_type(by_another_way("t"), User | Guest)
assert_type(by_a_default("t"), User | Guest)
assert_type(by_a_default_class("t"), User | Guest)
assert_type(by_none("t"), User | None)
assert_type(with_settings("t"), User | str)


# Several tiers add the type of each.


class Stale: ...


def stale_for(token: str) -> Stale: ...


async def stale_for_async(token: str) -> Stale: ...


@with_fallback(cached(ttl=60, key="user:{token}"), Guest)
def cache_then_class(token: str) -> User: ...


@with_fallback(cached(ttl=60, key="user:{token}"))
def cache_alone(token: str) -> User: ...


@with_fallback(failover(stale_for), Guest)
def function_then_class(token: str) -> User: ...


@with_fallback(failover(stale_for), default(Guest()))
def two_tiers(token: str) -> User: ...


@with_fallback(cached(ttl=60, key="user:{token}"), failover(stale_for), Guest)
def three_tiers(token: str) -> User: ...


@with_fallback(cached(ttl=60, key="user:{token}"), failover(stale_for_async), Guest)
async def three_tiers_async(token: str) -> User: ...


assert_type(cache_then_class("t"), User | Guest)
assert_type(cache_alone("t"), User)
assert_type(function_then_class("t"), User | Stale | Guest)
assert_type(two_tiers("t"), User | Stale | Guest)
assert_type(three_tiers("t"), User | Stale | Guest)


async def awaits_tiers() -> None:
    """Await what may come from a tier."""
    assert_type(await by_an_async_function("t"), User | Guest)
    assert_type(await by_a_plain_function("t"), User | Guest)
    assert_type(await by_another_async_way("t"), User | Guest)
    assert_type(await three_tiers_async("t"), User | Stale | Guest)


class Accounts:
    """Methods with fallbacks."""

    @with_fallback(Guest)
    def user(self, token: str) -> User: ...

    @with_fallback(cached(ttl=60, key="user:{token}"), Guest)
    async def user_async(self, token: str) -> User: ...


assert_type(Accounts().user("t"), User | Guest)
Accounts().user(5)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


async def awaits_a_method() -> None:
    """Await a method that may have its answer from a fallback."""
    assert_type(await Accounts().user_async("t"), User | Guest)


# Partial and marked answers keep what is known of their parts.


async def name_of(user_id: str) -> str: ...


async def partial_answers() -> None:
    page = await gather_partial(name=name_of("u1"), nick=name_of("u2"), timeout=1)
    assert_type(page, Partial[str])
    assert_type(page["name"], str)
    assert_type(page.get("nick"), str | None)
    anything: Partial[Any] = await gather_partial(name=name_of("u1"), user=asynchronous("t"))
    assert_type(anything["user"], Any)
    on_threads = gather_partial(one=popular_items, other=popular_items)
    assert_type(on_threads["one"], list[Item])
    assert_type(await marked(name_of)("u1"), Marked[str])
    assert_type(marked(plain)("u1").value, list[Item])
