"""What is degraded is seen by whoever asked, over threads, tasks, generators and nested scopes."""

# What returns Any may be a coroutine, for all that a type checker knows.
# pyright: reportUnusedCoroutine=false, reportAttributeAccessIssue=false

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Iterator
from contextvars import copy_context
from typing import Any

import pytest

from resilient import (
    InvalidUse,
    cached,
    degradation_scope,
    degradations,
    gather_partial,
    marked,
    timeout,
    with_fallback,
)
from resilient.testing import VirtualTime
from tests.doubles import Scripted


@with_fallback("nobody")
def user_name() -> str:
    raise ConnectionError("down")


@with_fallback("nobody")
async def user_name_async() -> str:
    raise ConnectionError("down")


# Scopes


def test_without_a_scope_nothing_is_kept() -> None:
    """Degradations outside of a scope are served all the same, and kept by nobody."""
    assert user_name() == "nobody"
    assert degradations() == ()


def test_a_scope_within_another_tells_that_too() -> None:
    """A scope of the application's does not hide anything from that of the middleware around it."""
    with degradation_scope() as request:
        user_name()
        with degradation_scope() as part:
            user_name()
            assert degradations() == tuple(part)
        assert degradations() == tuple(request)
    assert (len(part), len(request)) == (1, 2)


def test_a_scope_that_is_left_by_an_error_is_over() -> None:
    """An error takes the scope along, and the one around it goes on."""
    with degradation_scope() as request:
        with pytest.raises(ZeroDivisionError), degradation_scope():
            raise ZeroDivisionError
        user_name()
    assert len(request) == 1


def test_what_runs_on_workers_is_in_the_scope() -> None:
    """A fallback within a call on a worker thread is seen by the caller's scope."""

    @timeout(5)
    def page() -> str:
        return user_name()

    with degradation_scope() as degraded:
        page()
        gather_partial(name=user_name, again=user_name)
    assert len(degraded) == 3


async def test_what_tasks_serve_is_in_the_scope_that_they_began_in() -> None:
    """Each request sees what its own tasks have degraded, and nothing of other requests."""

    async def request(count: int) -> int:
        with degradation_scope() as degraded:
            await asyncio.gather(*(user_name_async() for _ in range(count)))
        return len(degraded)

    assert await asyncio.gather(*map(request, range(5))) == [0, 1, 2, 3, 4]


async def test_a_task_that_outlives_its_scope_adds_nothing_to_it() -> None:
    """What happens in the background after the answer is not part of that answer."""
    answered = asyncio.Event()

    async def background() -> None:
        await answered.wait()
        await user_name_async()
        assert degradations() == tuple(whole)

    with degradation_scope() as whole:
        with degradation_scope() as request:
            task = asyncio.create_task(background())
            await asyncio.sleep(0)
        answered.set()
        await task
    assert (len(request), len(whole)) == (0, 1)


def test_a_thread_of_the_users_own_takes_the_scope_along_with_the_context() -> None:
    """A thread that runs in a copy of the context is in the scope; one that does not is not."""
    with degradation_scope() as degraded:
        for target in (user_name, lambda: None):
            thread = threading.Thread(target=copy_context().run, args=(target,))
            thread.start()
            thread.join()
        alone = threading.Thread(target=user_name)
        alone.start()
        alone.join()
    assert len(degraded) == 1


def test_a_scope_in_a_generator_does_not_take_that_of_its_consumer_away() -> None:
    """Scopes that are left in another order than they were opened in leave the right one open."""

    def pages() -> Iterator[str]:
        with degradation_scope():
            yield user_name()

    found = pages()
    next(found)
    with degradation_scope() as consumer:
        assert list(found) == []
        user_name()
        assert degradations() == tuple(consumer)
    assert len(consumer) == 1
    assert degradations() == ()


async def test_a_scope_in_an_asynchronous_generator_can_be_closed_by_another_task() -> None:
    """Closing a stream from another task raises nothing of the scope within it."""

    async def pages() -> AsyncGenerator[str, None]:
        with degradation_scope():
            yield await user_name_async()
            yield "never"

    found = pages()
    await anext(found)
    await asyncio.create_task(found.aclose())


def test_a_scope_is_bounded() -> None:
    """A request that degrades without end keeps a thousand, and the metrics count the rest."""
    with degradation_scope() as degraded:
        for _ in range(1200):
            user_name()
    assert len(degraded) == 1000


# Marked answers


def test_a_marked_answer_says_what_is_degraded_in_it(virtual_time: VirtualTime) -> None:
    """The value comes with whether it is the real one, and how old it is."""
    fetch = marked(
        with_fallback(cached(ttl=60, key=lambda: "one"))(Scripted(["book"], ConnectionError))
    )
    first = fetch()
    virtual_time.advance(42)
    second = fetch()
    assert (first.value, first.is_degraded, first.age) == (["book"], False, None)
    assert (second.value, second.is_degraded, second.age) == (["book"], True, 42)
    assert [one.tier for one in second.degradations] == ["cached"]


async def test_a_coroutine_function_is_marked_as_well() -> None:
    """An asynchronous function stays one, and its answer is marked."""
    answer = await marked(user_name_async)()
    assert (answer.value, answer.is_degraded) == ("nobody", True)


def test_a_marked_answer_is_seen_by_the_scope_around() -> None:
    """Whoever marks answers does not hide them from the response's header."""
    with degradation_scope() as degraded:
        marked(user_name)()
    assert len(degraded) == 1


def test_the_error_of_a_marked_function_comes_out() -> None:
    """What has no answer has no mark."""
    with pytest.raises(ConnectionError):
        marked(Scripted(ConnectionError))()


def test_a_generator_cannot_be_marked() -> None:
    """A stream's answer goes on after it has been returned, and that is told when decorating."""

    def stream() -> Iterator[Any]:
        yield 1

    with pytest.raises(InvalidUse, match="degradation_scope"):
        marked(stream)
