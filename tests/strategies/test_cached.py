"""Caches: what is kept, for how long, under which key, and who is served from it."""

# What returns Any may be a coroutine, for all that a type checker knows.
# pyright: reportUnusedCoroutine=false, reportIndexIssue=false, reportAttributeAccessIssue=false

from __future__ import annotations

import asyncio
import datetime as dt
import decimal
import enum
import inspect
import pathlib
import threading
import uuid
from collections.abc import Coroutine
from typing import Any

import pytest

from resilient import (
    CallTimeout,
    InvalidUse,
    MemoryStore,
    cached,
    circuit_breaker,
    default,
    degradation_scope,
    pipeline_of,
    retry,
    timeout,
    with_fallback,
)
from resilient.engine.call import Call
from resilient.engine.isolation import broken
from resilient.engine.outcome import Outcome
from resilient.testing import VirtualTime, fail
from tests.degrade.own_stores import Shelves
from tests.doubles import Scripted, calls, each


class Source:
    """A dependency that answers with what it was asked, and a running number, until it is down."""

    def __init__(self) -> None:
        self.calls = 0
        self.down = False

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        self.calls += 1
        if self.down:
            raise ConnectionError
        return (*args, self.calls)


# What is served, and for how long


def test_the_last_good_answer_is_served_when_a_call_fails(virtual_time: VirtualTime) -> None:
    """While the source answers it is asked each time; when it fails, the last answer is served."""
    source = Source()
    guarded = with_fallback(cached(ttl=60))(source)
    assert [guarded("u1"), guarded("u1")] == [("u1", 1), ("u1", 2)]
    source.down = True
    assert guarded("u1") == ("u1", 2)
    assert source.calls == 3


def test_an_answer_is_served_up_to_its_ttl(virtual_time: VirtualTime) -> None:
    """At exactly `ttl` seconds it is still served, after that no more."""
    source = Source()
    guarded = with_fallback(cached(ttl=60))(source)
    guarded()
    source.down = True
    virtual_time.advance(60)
    assert guarded() == (1,)
    virtual_time.advance(0.001)
    with pytest.raises(ConnectionError):
        guarded()


def test_its_age_is_recorded(virtual_time: VirtualTime) -> None:
    """What was served tells how old it is."""
    source = Source()
    guarded = with_fallback(cached(ttl=60))(source)
    guarded()
    source.down = True
    virtual_time.advance(42)
    with degradation_scope() as degraded:
        guarded()
    assert [(one.tier, one.age, one.reason) for one in degraded] == [
        ("cached", 42, "ConnectionError")
    ]


def test_a_failure_never_drops_a_good_answer(virtual_time: VirtualTime) -> None:
    """A hundred failures later the answer is still there, until its time is over."""
    guarded = with_fallback(cached(ttl=60))(Scripted("answer", ConnectionError))
    guarded()
    assert [guarded() for _ in range(100)] == ["answer"] * 100


@pytest.mark.parametrize("answer", [None, [], {}, 0, False, ""])
def test_an_empty_answer_is_an_answer(virtual_time: VirtualTime, answer: Any) -> None:
    """Only absence is a miss: what is empty, None included, is kept and served."""
    for fresh_for in (0, 10):
        ask = Scripted(answer, ConnectionError)
        guarded = with_fallback(cached(ttl=60, fresh_for=fresh_for), "instead")(ask)
        assert [guarded(), guarded()] == [answer, answer]


def test_what_was_never_asked_is_a_miss(virtual_time: VirtualTime) -> None:
    """Without a stored answer the next tier serves, and without one the error is raised."""
    source = Source()
    source.down = True
    assert with_fallback(cached(ttl=60), "instead")(source)("u1") == "instead"
    with pytest.raises(ConnectionError):
        with_fallback(cached(ttl=60))(source)("u1")


def test_answers_of_other_tiers_are_not_kept(virtual_time: VirtualTime) -> None:
    """What stood in for an answer is never stored as one."""
    store = MemoryStore()
    guarded = with_fallback(cached(ttl=60, store=store), "instead")(Scripted(ConnectionError))
    assert guarded() == "instead"
    assert len(store) == 0


def test_an_answer_of_a_later_attempt_is_kept(virtual_time: VirtualTime) -> None:
    """What a retry within comes to is stored as any answer."""
    ask = Scripted(ConnectionError, "answer", ConnectionError)
    guarded = with_fallback(cached(ttl=60))(retry(on=ConnectionError, attempts=2)(ask))
    assert [guarded(), guarded()] == ["answer", "answer"]


def test_a_new_answer_takes_the_place_of_the_old(virtual_time: VirtualTime) -> None:
    """What is kept is the newest answer, and its time starts anew."""
    guarded = with_fallback(cached(ttl=60))(Scripted("old", "new", ConnectionError))
    guarded()
    virtual_time.advance(50)
    guarded()
    virtual_time.advance(50)
    assert guarded() == "new"


def test_a_cache_serves_while_a_circuit_is_open(virtual_time: VirtualTime) -> None:
    """Rejections are served from the cache too."""
    source = Source()
    breaker = circuit_breaker("cached while open", fail_max=1, reset_timeout=60)
    guarded = with_fallback(cached(ttl=3600))(breaker(source))
    guarded()
    breaker.force_open()
    assert guarded() == (1,)
    assert source.calls == 1
    assert calls("cached while open") == {"success": 1, "degraded": 1}


def test_the_answer_of_an_abandoned_call_is_kept() -> None:
    """An answer that comes after its caller has given up is there for the next one."""
    release, answered = threading.Event(), threading.Event()

    def ask() -> str:
        release.wait(30)
        answered.set()
        return "late answer"

    guarded = with_fallback(cached(ttl=60))(timeout(0.02)(ask))
    with pytest.raises(CallTimeout):
        guarded()
    release.set()
    assert answered.wait(30)
    release.clear()
    assert_served(guarded, "late answer")
    release.set()


def test_the_answer_of_an_abandoned_call_is_kept_in_any_store() -> None:
    """Late answers reach a store of the user's own as well."""
    release, answered = threading.Event(), threading.Event()

    def ask() -> str:
        release.wait(30)
        answered.set()
        return "late answer"

    guarded = with_fallback(cached(ttl=60, store=Shelves()))(timeout(0.02)(ask))
    with pytest.raises(CallTimeout):
        guarded()
    release.set()
    assert answered.wait(30)
    release.clear()
    assert_served(guarded, "late answer")
    release.set()


def assert_served(guarded: Any, expected: Any) -> None:
    """Wait for the moment between an answer and its being stored, which is short."""
    for _ in range(100):
        try:
            assert guarded() == expected
            return
        except CallTimeout:
            continue
    pytest.fail("the late answer was not kept")


# Keys


class Colour(enum.Enum):
    RED = 1


class Point:
    """Equal by value, with a stable text."""

    def __init__(self, x: int) -> None:
        self.x = x

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and other.x == self.x

    def __hash__(self) -> int:
        return hash(self.x)

    def __repr__(self) -> str:
        return f"Point({self.x})"


class Region:
    """With a stable text, and equal to nothing but itself."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"Region({self.name})"


@each(
    "pair",
    {
        "numbers": (1, 2),
        "int and bool": (1, True),
        "int and float": (1, 1.0),
        "int and text": (1, "1"),
        "text and bytes": ("1", b"1"),
        "zeros": (0.0, -0.0),
        "zero and false": (0, False),
        "none and text": (None, "None"),
        "lists": ([1], [True]),
        "list and tuple": ([1], (1,)),
        "nested": ([[1, 2]], [[1, 2.0]]),
        "mappings": ({"a": 1}, {"a": 2}),
        "keys of mappings": ({1: "a"}, {True: "a"}),
        "sets": ({1}, {True}),
        "set and frozenset": ({1}, frozenset({1})),
        "dates": (dt.date(2026, 1, 1), dt.date(2026, 1, 2)),
        "decimals": (decimal.Decimal(1), decimal.Decimal(2)),
        "uuids": (uuid.UUID(int=1), uuid.UUID(int=2)),
        "paths": (pathlib.PurePosixPath("a"), pathlib.PurePosixPath("b")),
        "enum and value": (Colour.RED, 1),
        "objects": (Point(1), Point(2)),
        "objects by their text": (Region("eu"), Region("us")),
        "joined text": (("1:2", "3"), ("1", "2:3")),
    },
)
def test_arguments_that_differ_have_answers_of_their_own(
    virtual_time: VirtualTime, pair: tuple[Any, Any]
) -> None:
    """By default all arguments, with their types, are the key."""
    source = Source()
    guarded = with_fallback(cached(ttl=60))(source)
    expected = [guarded(one) for one in pair]
    source.down = True
    assert [guarded(one)[-1] for one in pair] == [one[-1] for one in expected] == [1, 2]


@each(
    "make",
    {
        "number": lambda: 1000,
        "text": lambda: str(b"ab", "ascii"),
        "list": lambda: [1, [2, 3]],
        "mapping": lambda: {"a": {"b": [1]}},
        "set": lambda: {3, 1, 2},
        "nan": lambda: float("nan"),
        "date": lambda: dt.date(2026, 1, 1),
        "time": lambda: dt.timedelta(days=1),
        "uuid": lambda: uuid.UUID(int=5),
        "enum": lambda: Colour.RED,
        "object with a stable text": lambda: Point(1),
        "object that is its text": lambda: Region("eu"),
        "path": lambda: pathlib.PurePosixPath("a/b"),
    },
)
def test_arguments_that_are_equal_share_an_answer(virtual_time: VirtualTime, make: Any) -> None:
    """Two equal arguments of one type are one key, whether or not they are one object."""
    source = Source()
    guarded = with_fallback(cached(ttl=60))(source)
    guarded(make())
    source.down = True
    assert guarded(make())[-1] == 1


def test_it_makes_no_difference_how_an_argument_is_given(virtual_time: VirtualTime) -> None:
    """By position, by name or by default: the same arguments are the same key."""
    source = Source()

    @with_fallback(cached(ttl=60))
    def ask(user: str, limit: int = 10) -> Any:
        return source(user, limit)

    ask("u1")
    source.down = True
    for answer in (ask("u1"), ask(user="u1"), ask("u1", 10), ask("u1", limit=10)):
        assert answer == ("u1", 10, 1)
    with pytest.raises(ConnectionError):
        ask("u1", 11)


def test_a_call_that_does_not_fit_its_function_fails_by_itself(virtual_time: VirtualTime) -> None:
    """It has no key: nothing is served in its place, and the error is the function's own."""

    @with_fallback(cached(ttl=60))
    def ask(user: str) -> str:
        return user

    before = broken["cache key"]
    ask("u1")
    with pytest.raises(TypeError, match="positional argument"):
        ask("u1", "u2")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    assert broken["cache key"] == before


def test_a_function_without_a_signature_is_cached_by_its_arguments(
    virtual_time: VirtualTime,
) -> None:
    """As some of those written in C; a template could name none of its parameters."""
    largest: Any = with_fallback(cached(ttl=60), default("none"))(max)
    assert (largest(1, 2), largest("a")) == (2, "a")
    with fail("builtins.max", ConnectionError):
        assert (largest(1, 2), largest(1, 3)) == (2, "none")
    with pytest.raises(InvalidUse, match=r"builtins\.max has no signature"):
        with_fallback(cached(ttl=60, key="{first}"))(max)


class Anonymous:
    """With the text of `object`, which has an address in it."""


@each(
    "argument",
    {
        "alone": Anonymous(),
        "in a list": [Anonymous()],
        "in a mapping": {"a": Anonymous()},
        "function": lambda: None,
    },
)
def test_an_argument_without_a_stable_text_is_refused(
    virtual_time: VirtualTime, argument: Any
) -> None:
    """Such a call works, and is neither stored nor served from the cache; it is counted."""
    source = Source()
    guarded = with_fallback(cached(ttl=60))(source)
    before = broken["cache key"]
    assert guarded(argument)[-1] == 1
    assert broken["cache key"] > before
    source.down = True
    with pytest.raises(ConnectionError):
        guarded(argument)


def test_a_late_coroutine_is_no_answer(virtual_time: VirtualTime) -> None:
    """What a plain function makes after its time, and nobody awaits, is closed and not kept."""
    made: list[Coroutine[Any, Any, str]] = []

    async def answer() -> str:
        return "answer"

    def late() -> Any:
        made.append(answer())
        return made[-1]

    guarded = with_fallback(cached(ttl=60, key="late"), "default")(timeout(1)(late))
    pipeline = pipeline_of(guarded)
    call = Call(pipeline, late, (), {}, is_async=False)
    now = virtual_time.now()
    pipeline.came_late(call, Outcome(late(), None, now, now))

    assert inspect.getcoroutinestate(made[0]) == inspect.CORO_CLOSED
    with fail(pipeline.name, ConnectionError):
        assert guarded() == "default"


def test_a_template_names_what_matters(virtual_time: VirtualTime) -> None:
    """With a template only the named parameters are the key."""
    source = Source()

    @with_fallback(cached(ttl=60, key="rec:{user_id}"))
    def ask(user_id: str, session: object) -> Any:
        return source(user_id)

    ask("u1", Anonymous())
    source.down = True
    assert ask("u1", session=Anonymous()) == ("u1", 1)
    assert ask(session=None, user_id="u1") == ("u1", 1)
    with pytest.raises(ConnectionError):
        ask("u2", None)


def test_the_fields_of_a_template_are_never_joined(virtual_time: VirtualTime) -> None:
    """`{a}:{b}` for ("1:2", "3") and for ("1", "2:3") are two keys."""
    source = Source()

    @with_fallback(cached(ttl=60, key="{a}:{b}"))
    def ask(a: str, b: str) -> Any:
        return source(a, b)

    ask("1:2", "3")
    source.down = True
    with pytest.raises(ConnectionError):
        ask("1", "2:3")


def test_a_template_reaches_into_an_argument(virtual_time: VirtualTime) -> None:
    """`{user.id}` and `{query[page]}` take a part of an argument that has no text of its own."""
    source = Source()

    class User:
        def __init__(self, number: int) -> None:
            self.id = number

    @with_fallback(cached(ttl=60, key="{user.id}/{query[page]}"))
    def ask(user: User, query: dict[str, int]) -> Any:
        return source()

    ask(User(1), {"page": 1, "noise": 5})
    source.down = True
    assert ask(User(1), {"page": 1}) == (1,)
    for other in ((User(2), {"page": 1}), (User(1), {"page": 2})):
        with pytest.raises(ConnectionError):
            ask(*other)


def test_a_template_works_on_methods(virtual_time: VirtualTime) -> None:
    """A method's key names its parameters, and attributes of its object if it needs to."""
    source = Source()

    class Shop:
        def __init__(self, tenant: str) -> None:
            self.tenant = tenant

        @with_fallback(cached(ttl=60, key="{self.tenant}/{item}"))
        def price(self, item: str) -> Any:
            return source(self.tenant, item)

    assert Shop("a").price("book") == ("a", "book", 1)
    source.down = True
    assert Shop("a").price("book") == ("a", "book", 1)
    with pytest.raises(ConnectionError):
        Shop("b").price("book")


def test_the_form_that_a_template_asks_for_is_part_of_the_key(virtual_time: VirtualTime) -> None:
    """`{number!r}` keeps 1 and "1" apart, and `{price:.0f}` puts prices together."""
    source = Source()

    @with_fallback(cached(ttl=60, key="{number!r}"))
    def ask(number: Any) -> Any:
        return source(number)

    @with_fallback(cached(ttl=60, key="{price:.0f}"))
    def ask_price(price: float) -> Any:
        return source(price)

    ask(1)
    ask_price(1.01)
    source.down = True
    with pytest.raises(ConnectionError):
        ask("1")
    assert ask_price(0.99) == (1.01, 2)


def test_a_field_of_a_template_without_a_stable_text_is_refused(
    virtual_time: VirtualTime,
) -> None:
    """An object whose text is its address is not used as a key by a template either."""
    source = Source()

    @with_fallback(cached(ttl=60, key="{user}"))
    def ask(user: object) -> Any:
        return source()

    user = Anonymous()
    ask(user)
    source.down = True
    with pytest.raises(ConnectionError):
        ask(user)


def test_a_template_takes_a_parameter_that_is_given_by_name_only(
    virtual_time: VirtualTime,
) -> None:
    """Whatever is given by position before it."""
    source = Source()

    @with_fallback(cached(ttl=60, key="{page}"))
    def ask(*words: str, page: int) -> Any:
        return source()

    ask("a", "b", page=1)
    source.down = True
    assert ask("c", "d", page=1) == (1,)
    with pytest.raises(ConnectionError):
        ask("a", "b", page=2)


def test_a_function_makes_the_key(virtual_time: VirtualTime) -> None:
    """A function of the arguments says what calls have in common."""
    source = Source()
    guarded = with_fallback(cached(ttl=60, key=lambda user, **_: user.lower()))(source)
    guarded("U1", page=1)
    source.down = True
    assert guarded("u1", page=2) == ("U1", 1)


def explode(*_: Any) -> Any:
    raise RuntimeError("a broken key function")


@each("key", {"raises": explode, "list": lambda *_: ["unhashable"], "none": lambda *_: None})
@pytest.mark.parametrize("fresh_for", [0, 10])
def test_a_key_function_that_gives_no_key_means_no_cache(
    virtual_time: VirtualTime, key: Any, fresh_for: float
) -> None:
    """A call without a key is made, and its answer is neither kept nor served."""
    source = Source()
    guarded = with_fallback(cached(ttl=60, key=key, fresh_for=fresh_for))(source)
    assert [guarded("u1"), guarded("u1")] == [("u1", 1), ("u1", 2)]
    source.down = True
    with pytest.raises(ConnectionError):
        guarded("u1")


def test_two_functions_with_one_cache_do_not_share_answers(virtual_time: VirtualTime) -> None:
    """The same arguments of two functions are two keys, unless a template says otherwise."""
    tier = cached(ttl=60)

    @with_fallback(tier)
    def first(name: str) -> str:
        return f"first {name}"

    second_source = Source()
    second_source.down = True

    @with_fallback(tier)
    def second(name: str) -> Any:
        return second_source(name)

    first("a")
    with pytest.raises(ConnectionError):
        second("a")


def test_two_functions_share_answers_under_one_template(virtual_time: VirtualTime) -> None:
    """A sync and an async function of the same data can share what is kept."""
    tier = cached(ttl=60, key="user:{user_id}")

    @with_fallback(tier)
    def load(user_id: str) -> str:
        return f"user {user_id}"

    @with_fallback(tier)
    async def load_async(user_id: str) -> str:
        raise ConnectionError

    load("u1")
    assert virtual_time.run(load_async("u1")) == "user u1"


# Fresh answers, and one call for all


def test_a_fresh_answer_is_served_without_a_call(virtual_time: VirtualTime) -> None:
    """Up to `fresh_for` seconds the source is not asked; then it is, and the time starts anew."""
    source = Source()
    guarded = with_fallback(cached(ttl=60, fresh_for=10, jitter=0))(source)
    guarded()
    virtual_time.advance(10)
    assert guarded() == (1,)
    virtual_time.advance(0.001)
    assert guarded() == (2,)
    virtual_time.advance(10)
    assert guarded() == (2,)
    assert source.calls == 2


def test_a_fresh_answer_is_no_degradation(virtual_time: VirtualTime) -> None:
    """An answer that is young enough counts as success."""
    breaker = circuit_breaker("fresh", fail_max=9)
    guarded = with_fallback(cached(ttl=60, fresh_for=10))(breaker(Source()))
    with degradation_scope() as degraded:
        guarded()
        guarded()
    assert degraded == []
    assert calls("fresh") == {"success": 2}


def test_a_stale_answer_is_served_when_the_renewal_fails(virtual_time: VirtualTime) -> None:
    """Between `fresh_for` and `ttl` an answer is served only if there is no new one."""
    source = Source()
    guarded = with_fallback(cached(ttl=60, fresh_for=10))(source)
    guarded()
    source.down = True
    virtual_time.advance(30)
    with degradation_scope() as degraded:
        assert guarded() == (1,)
    assert [one.age for one in degraded] == [30]


def test_concurrent_misses_make_one_call(virtual_time: VirtualTime) -> None:
    """Those who miss at the same time share one call, each key its own."""
    asked: list[str] = []

    @with_fallback(cached(ttl=60, fresh_for=10))
    async def ask(name: str) -> str:
        asked.append(name)
        await asyncio.sleep(1)
        return name

    async def main() -> list[str]:
        return await asyncio.gather(*(ask(name) for name in "abab" * 10))

    assert virtual_time.run(main()) == list("abab" * 10)
    assert sorted(asked) == ["a", "b"]


def test_a_function_that_calls_itself_does_not_wait_for_itself(
    virtual_time: VirtualTime,
) -> None:
    """A recursive call for the same key is made, instead of waiting for ever."""

    @with_fallback(cached(ttl=60, fresh_for=10, key="one key for all {_}"))
    def ask(_: int, depth: int = 0) -> int:
        return ask(_, depth + 1) if depth < 2 else depth

    assert ask(1) == 2


# Stores


def test_the_memory_store_is_bounded_and_drops_the_oldest(virtual_time: VirtualTime) -> None:
    """With room for ten, the ten answers that were stored last are there."""
    store = MemoryStore(max_entries=10)
    source = Source()
    guarded = with_fallback(cached(ttl=60, store=store))(source)
    for number in range(100):
        guarded(number)
    assert len(store) == 10
    source.down = True
    assert [guarded(number)[0] for number in range(90, 100)] == list(range(90, 100))
    with pytest.raises(ConnectionError):
        guarded(89)
