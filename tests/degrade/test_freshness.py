"""Answers that need no call: refreshed ahead, not all at once, and forgotten when told to."""

# What returns Any may be a coroutine, for all that a type checker knows.
# pyright: reportUnusedCoroutine=false, reportIndexIssue=false, reportAttributeAccessIssue=false

from __future__ import annotations

import asyncio
import datetime as dt
import gc
import sys
import threading
import weakref
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

import pytest

from resilient import (
    Cache,
    CallTimeout,
    InvalidUse,
    MsgspecCodec,
    cache_of,
    cached,
    deadline,
    default,
    degradation_scope,
    pipeline_of,
    retry,
    with_fallback,
)
from resilient.degrade.flights import Flights
from resilient.degrade.stores.counts import Counts
from resilient.engine.isolation import broken
from resilient.testing import VirtualTime, fail
from tests.degrade.own_stores import AsyncShelves, Shelves, Unwell, refuse
from tests.doubles import Scripted, calls, each
from tests.waiting import eventually


class Claimed(Shelves):
    """A store that several processes share, one of which makes the call for a key."""

    by: str | None = None

    def claim(self, name: str, token: str, seconds: float) -> str:
        return self.by or token

    def release(self, name: str, token: str) -> None:
        """Nothing was taken."""


def test_an_answer_is_called_for_again_before_its_time_is_over(virtual_time: VirtualTime) -> None:
    """In the last seconds of its freshness an answer is served, and renewed behind the call."""
    ask = Scripted(1, 2, 3)
    guarded = with_fallback(cached(ttl=60, fresh_for=10, refresh_ahead=4, jitter=0))(ask)
    assert guarded() == 1
    virtual_time.advance(5)
    assert (guarded(), ask.calls) == (1, 1)
    virtual_time.advance(2)
    assert (guarded(), ask.calls) == (1, 2)
    assert (guarded(), ask.calls) == (2, 2)
    virtual_time.advance(8)
    assert (guarded(), ask.calls) == (2, 3)


def test_nobody_waits_for_a_refresh_and_it_is_made_once() -> None:
    """While one refresh hangs, callers are served what is fresh, and begin no further one."""
    release, begun = threading.Event(), threading.Event()
    made: list[int] = []

    def ask() -> int:
        made.append(1)
        if len(made) > 1:
            begun.set()
            release.wait(20)
        return len(made)

    guarded = with_fallback(cached(ttl=60, fresh_for=30, refresh_ahead=30, jitter=0))(ask)
    try:
        assert guarded() == 1
        assert [guarded() for _ in range(100)] == [1] * 100
        assert begun.wait(5)
        assert len(made) == 2
    finally:
        release.set()
    assert eventually(lambda: guarded() >= 2)


def test_only_so_many_refreshes_are_made_at_once() -> None:
    """Further ones are left for the next who asks; all are served meanwhile."""
    release = threading.Event()
    made: list[int] = []

    @with_fallback(cached(ttl=60, fresh_for=30, refresh_ahead=30, jitter=0))
    def ask(number: int) -> int:
        made.append(number)
        if len(made) > 12:
            release.wait(20)
        return number

    numbers = range(12)
    try:
        assert [ask(number) for number in numbers] == [*numbers]
        assert [ask(number) for number in numbers] == [*numbers]
        assert eventually(lambda: len(made) == 12 + 8)
        assert [ask(number) for number in numbers] == [*numbers]
        assert sorted(made[12:]) == [*range(8)]
    finally:
        release.set()
    assert eventually(lambda: ask(11) == 11 and made.count(11) > 1)


def test_processes_that_share_a_store_refresh_an_answer_once(virtual_time: VirtualTime) -> None:
    """What another process is calling for, or has called for, is served and not called for."""
    store = Claimed()
    ask, elsewhere = Scripted(1, 2), Scripted(1, 3)

    def process(source: Scripted) -> Any:
        tier = cached(ttl=60, fresh_for=10, refresh_ahead=4, jitter=0, key="one", store=store)
        return with_fallback(tier)(source)

    one, other = process(ask), process(elsewhere)
    assert [one(), other()] == [1, 1]
    virtual_time.advance(7)
    store.by = "another process"
    assert [one(), one(), ask.calls] == [1, 1, 1]
    store.by = None
    assert [one(), one(), ask.calls] == [1, 2, 2]
    assert [other(), elsewhere.calls] == [2, 0]
    virtual_time.advance(7)
    assert [other(), other(), elsewhere.calls] == [2, 1, 1]


def test_who_waits_for_another_process_keeps_its_own_limit(virtual_time: VirtualTime) -> None:
    """A caller on a thread is back at its deadline, without a call or another look after that."""
    store = Claimed("claimed elsewhere")
    before = Counts.of(store.name)["unavailable"]
    store.by = "another process"
    ask = Scripted("answer")
    guarded = with_fallback(cached(ttl=60, fresh_for=10, key="one", store=store))(ask)
    began = virtual_time.now()
    with pytest.raises(CallTimeout), deadline(0.7):
        guarded()
    assert virtual_time.now() - began == pytest.approx(0.7)
    assert ask.calls == 0
    assert Counts.of(store.name)["unavailable"] == before + 1  # the one for a stale answer


@pytest.mark.parametrize("store", [None, "shelves"])
def test_a_refresh_is_a_task_of_its_own(virtual_time: VirtualTime, store: str | None) -> None:
    """On asyncio too the one who was served does not wait; a refresh that fails changes nothing."""
    ask = Scripted(1, 2, ConnectionError)
    tier = cached(
        ttl=60,
        fresh_for=10,
        refresh_ahead=4,
        jitter=0,
        store=None if store is None else Shelves(),
    )

    @with_fallback(tier)
    async def load() -> Any:
        await asyncio.sleep(1)
        return ask()

    async def main() -> None:
        async def took(expected: int) -> float:
            began = virtual_time.now()
            assert await load() == expected
            return virtual_time.now() - began

        assert await took(1) == 1
        await asyncio.sleep(7)
        assert await took(1) == 0
        await asyncio.sleep(1.5)
        assert await took(2) == 0
        await asyncio.sleep(7)
        assert await took(2) == 0
        await asyncio.sleep(1.5)
        assert await took(2) == 0

    virtual_time.run(main())


def test_what_was_stored_at_one_time_is_not_called_for_at_one_time(
    virtual_time: VirtualTime,
) -> None:
    """A tenth of the time before a hundred keys end, some have, and at the end all have."""
    made: list[int] = []

    @with_fallback(cached(ttl=600, fresh_for=100, key="{number}"))
    def load(number: int) -> int:
        made.append(number)
        return number

    def asked_again() -> int:
        before = len(made)
        for number in range(100):
            load(number)
        return len(made) - before

    assert asked_again() == 100
    virtual_time.advance(89)
    assert asked_again() == 0
    virtual_time.advance(6)
    assert 10 < asked_again() < 90


def test_what_a_fallback_has_served_is_not_stored(virtual_time: VirtualTime) -> None:
    """A default further in is no answer of the dependency, for a cache around it."""
    inner = with_fallback(default("instead"))(Scripted(ConnectionError, "answer"))
    guarded = with_fallback(cached(ttl=60, fresh_for=10))(inner)
    assert [guarded(), guarded(), guarded()] == ["instead", "answer", "answer"]


# Errors that are answers


class NotFound(LookupError):
    """There is no such thing."""


def test_errors_are_not_remembered_unless_asked_for(virtual_time: VirtualTime) -> None:
    """By default each call finds out by itself."""
    ask = Scripted(NotFound)
    guarded = with_fallback(cached(ttl=60, fresh_for=10))(ask)
    for _ in range(3):
        with pytest.raises(NotFound):
            guarded()
    assert ask.calls == 3


@pytest.mark.parametrize("fresh_for", [0, 10])
def test_an_error_that_is_an_answer_is_remembered_for_its_time(
    virtual_time: VirtualTime, fresh_for: float
) -> None:
    """It is raised without a call, for that key only, until its time is over."""
    made: list[str] = []

    @with_fallback(cached(ttl=60, fresh_for=fresh_for, negative=NotFound, negative_for=5))
    def load(user: str) -> str:
        made.append(user)
        raise NotFound(user) if user == "nobody" else ConnectionError

    lengths: set[int] = set()
    for _ in range(3):
        with pytest.raises(NotFound) as caught:
            load("nobody")
        lengths.add(len(caught.traceback))
        with pytest.raises(ConnectionError):
            load("u1")
    assert made == ["nobody", "u1", "u1", "u1"]
    assert max(lengths) <= 4
    virtual_time.advance(5.1)
    with pytest.raises(NotFound):
        load("nobody")
    assert made.count("nobody") == 2


class Held:
    """Something large that a function works with."""


class Worded(Exception):
    """An error that is made of something else than its message."""

    def __init__(self, name: str, *, code: int) -> None:
        super().__init__(f"no {name}")
        self.code = code


class Doubling(Exception):
    """An error whose copy has another message, as what makes it is not what it says."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no {name}")


class Unique(Exception):
    """An error that cannot be copied."""

    def __new__(cls, *args: object) -> Self:
        if not args:
            raise TypeError
        return super().__new__(cls)

    def __init__(self, *args: object) -> None:
        super().__init__()


def test_an_error_that_is_remembered_keeps_nothing_of_what_it_was_raised_in(
    virtual_time: VirtualTime,
) -> None:
    """The variables of the function and of its caller are gone with those, not with the error."""
    held: list[weakref.ref[Held]] = []

    @with_fallback(cached(ttl=60, fresh_for=10, negative=NotFound, negative_for=5))
    def load() -> None:
        large = Held()
        held.append(weakref.ref(large))
        try:
            raise KeyError("u1")
        except KeyError as error:
            raise NotFound from error

    def caller() -> None:
        large = Held()
        held.append(weakref.ref(large))
        load()

    for _ in range(2):
        with suppress(NotFound):
            caller()
    gc.collect()
    assert [one() for one in held] == [None] * 3


@each(
    "error",
    {
        "plain": lambda: NotFound("u1", 2),
        "worded": lambda: Worded("u1", code=404),
        "doubling": lambda: Doubling("u1"),
        "of a system call": lambda: FileNotFoundError(2, "No such file", "u1"),
        "of another language": lambda: UnicodeDecodeError("utf-8", b"u1", 0, 1, "why"),
        "of the library": lambda: CallTimeout("u1", 2),
        "unique": lambda: Unique("u1"),
    },
)
def test_an_error_that_is_remembered_is_what_it_was(virtual_time: VirtualTime, error: Any) -> None:
    """With its type, its message, its attributes, its cause and its notes, which do not add up."""
    made = error()
    made.add_note("of the call")
    made.__cause__ = KeyError("u1")
    ask = Scripted(made)
    guarded = with_fallback(cached(60, fresh_for=10, negative=type(made), negative_for=5))(ask)
    for _ in range(3):
        with pytest.raises(type(made)) as caught:
            guarded()
        again = caught.value
        assert (again.args, str(again)) == (made.args, str(made))
        assert getattr(again, "code", None) == getattr(made, "code", None)
        assert getattr(again, "filename", None) == getattr(made, "filename", None)
        assert repr(again.__cause__) == "KeyError('u1')"
        assert again.__notes__[0] == "of the call"
        assert "of its caller" not in again.__notes__ or type(made) is Unique
        again.add_note("of its caller")
    assert ask.calls == 1


# By hand


@each("store", {"memory": lambda: None, "own": Shelves, "down": lambda: Unwell(refuse)})
def test_an_invalidated_answer_is_served_no_more(virtual_time: VirtualTime, store: Any) -> None:
    """Neither as fresh nor as stale, whether or not the store can be reached."""
    ask = Scripted("old", "new", ConnectionError)
    tier = cached(ttl=60, fresh_for=10, key="{user}", store=store())
    guarded = with_fallback(tier, "instead")(lambda user: ask() if user == "u1" else user)
    for number in range(5):  # the first three find out that the store is down
        guarded(f"other {number}")
    assert [guarded("u1"), guarded("u1")] == ["old", "old"]
    cache_of(guarded).invalidate("u1")
    assert guarded("u1") == "new"
    cache_of(guarded).invalidate(user="u1")
    assert guarded("u1") == "instead"


def test_an_invalidation_is_made_up_for_when_the_store_is_back(virtual_time: VirtualTime) -> None:
    """What could not be deleted is deleted later: another process does not serve it for ever."""
    store = Unwell(refuse)
    store.unwell = False
    guarded = with_fallback(cached(ttl=600, key="{user}", store=store))(lambda user: user)
    guarded("u1")
    assert [name for name in store.kept if "u1" in name]
    store.unwell = True
    cache_of(guarded).invalidate("u1")
    virtual_time.advance(20)
    store.unwell = False
    virtual_time.advance(2)
    assert not [name for name in store.kept if "u1" in name]


async def test_an_asynchronous_store_forgets_too() -> None:
    """An answer in an asynchronous store is deleted, in a task of the loop."""
    store = AsyncShelves(lambda: asyncio.sleep(0))

    @with_fallback(cached(ttl=60, key="{user}", store=store))
    async def load(user: str) -> str:
        return user

    await load("u1")
    await asyncio.sleep(0.05)
    assert [name for name in store.inner.kept if "u1" in name]
    cache_of(load).invalidate("u1")
    await asyncio.sleep(0.05)
    assert not [name for name in store.inner.kept if "u1" in name]


def test_a_method_is_invalidated_through_its_object(virtual_time: VirtualTime) -> None:
    """`cache_of(shop.price)` knows the shop."""

    class Shop:
        def __init__(self, tenant: str) -> None:
            self.tenant = tenant
            self.asked = 0

        @with_fallback(cached(ttl=60, fresh_for=10, key="{self.tenant}/{item}"))
        def price(self, item: str) -> int:
            self.asked += 1
            return self.asked

    shop, other = Shop("a"), Shop("b")
    assert [shop.price("book"), other.price("book")] == [1, 1]
    cache_of(shop.price).invalidate("book")
    assert [shop.price("book"), other.price("book")] == [2, 1]


def test_warming_makes_the_calls_that_are_needed(virtual_time: VirtualTime) -> None:
    """What is fresh is not called for; what fails is not counted, and ends nothing."""

    @with_fallback(cached(ttl=60, fresh_for=10, key="{user}"), default("instead"))
    def load(user: str) -> str:
        made.append(user)
        if user == "bad":
            raise ConnectionError
        return user

    made: list[str] = []
    load("u1")
    assert cache_of(load).warm([("u1",), {"user": "u2"}, ("bad",), ("u3",)]) == 3
    assert made == ["u1", "u2", "bad", "u3"]
    with fail(pipeline_of(load).name, ConnectionError), degradation_scope() as degraded:
        assert [load("u2"), load("u3")] == ["u2", "u3"]
    assert degraded == []


@each("is_async", {"plain": False, "asynchronous": True})
def test_a_call_that_fails_while_warming_is_not_counted_and_ends_nothing(
    virtual_time: VirtualTime, is_async: bool
) -> None:
    """Where no tier has an answer either, the error is not that of whoever warms."""

    def load(user: str) -> str:
        made.append(user)
        if user == "bad":
            raise ConnectionError
        return user

    async def load_async(user: str) -> str:
        return load(user)

    made: list[str] = []
    guarded = with_fallback(cached(ttl=60, key="{user}"))(load_async if is_async else load)
    warmed: Any = cache_of(guarded).warm([("u1",), ("bad",), ("u2",)], at_once=1)
    if is_async:
        warmed = virtual_time.run(warmed)
    assert (warmed, made) == (2, ["u1", "bad", "u2"])


async def test_warming_an_asynchronous_function_keeps_to_its_width() -> None:
    """So many calls at once, and no more."""
    now = most = 0

    @with_fallback(cached(ttl=60, key="{user}"))
    async def load(user: int) -> int:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.001)
        now -= 1
        return user

    warmed: Any = cache_of(load).warm([(number,) for number in range(20)], at_once=3)
    assert await warmed == 20
    assert most == 3


def test_a_function_without_a_cache_has_nothing_to_invalidate() -> None:
    """What is not cached, not guarded or has no key is told at once."""
    with pytest.raises(InvalidUse, match="no cached"):
        cache_of(retry(on=OSError)(len))
    with pytest.raises(InvalidUse, match="not guarded"):
        cache_of(len)
    guarded = with_fallback(cached(ttl=60))(Scripted("answer"))
    with pytest.raises(InvalidUse, match="no stable key"):
        cache_of(guarded).invalidate(object())
    with pytest.raises(InvalidUse, match="tuple"):
        cache_of(guarded).warm(["u1"])  # type: ignore[list-item]
    assert isinstance(cache_of(guarded), Cache)


# Typed values


@dataclass
class Item:
    """Something to sell."""

    name: str
    since: dt.date
    sizes: tuple[int, ...] = ()


def test_typed_values_come_back_as_what_they_are(virtual_time: VirtualTime) -> None:
    """With msgspec the type of the function's answers is that of what is served."""
    item = Item("book", dt.date(2026, 1, 1), (1, 2))
    down = False

    @with_fallback(cached(ttl=60, store=Shelves(), codec=MsgspecCodec()))
    def load() -> list[Item]:
        if down:
            raise ConnectionError
        return [item]

    load()
    down = True
    assert load() == [item]


def test_a_value_of_an_older_shape_is_not_served(virtual_time: VirtualTime) -> None:
    """What does not fit the type is a miss, whatever wrote it."""
    store = Shelves()
    old = MsgspecCodec(dict[str, int])
    old.name = MsgspecCodec(Item).name
    with_fallback(cached(ttl=60, key="one", store=store, codec=old))(Scripted({"a": 1}))()
    guarded = with_fallback(
        cached(ttl=60, key="one", store=store, codec=MsgspecCodec(Item)), "instead"
    )(Scripted(ConnectionError))
    before = broken["cache store"]
    assert guarded() == "instead"
    assert broken["cache store"] == before + 1


def test_without_the_library_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has not installed msgspec is told what to install."""
    monkeypatch.setitem(sys.modules, "msgspec", None)
    with pytest.raises(InvalidUse, match=r"resilient-calls\[msgspec\]"):
        MsgspecCodec(int)


def test_the_type_must_be_known(virtual_time: VirtualTime) -> None:
    """Without an annotation, or with one that cannot be read, it is told when decorating."""

    def untyped(user):
        return user

    for function in (untyped, Scripted("answer")):
        with pytest.raises(InvalidUse, match="what it returns"):
            with_fallback(cached(ttl=60, store=Shelves(), codec=MsgspecCodec()))(function)


def test_who_leaves_a_call_of_the_parent_process_ends_none_of_the_childs() -> None:
    """A forked child begins with no shared calls; what it has inherited is no part of them."""
    flights = Flights()
    inherited, place, _ = flights.join("key")
    flights.forget()
    _, _, begins = flights.join("key")
    assert begins
    flights.leave("key", inherited, place)
    _, _, begins = flights.join("key")
    assert not begins


def test_calls_that_are_shared_are_counted_for_each_caller(virtual_time: VirtualTime) -> None:
    """Fresh answers are successes, and errors that are remembered are failures."""
    guarded = with_fallback(cached(ttl=60, fresh_for=10))(retry(on=OSError)(Scripted("answer")))
    for _ in range(5):
        guarded()
    assert calls(pipeline_of(guarded).name)["success"] >= 5
