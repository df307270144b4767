"""A store of one's own: what it is asked, and what it can do wrong."""

# What returns Any may be a coroutine, for all that a type checker knows.
# pyright: reportUnusedCoroutine=false, reportIndexIssue=false, reportAttributeAccessIssue=false

from __future__ import annotations

import asyncio
import json
import pickle
import random
import time
from typing import Any

import pytest
from structlog.testing import capture_logs

from resilient import InvalidUse, cached, deadline, degradation_scope, timeout, with_fallback
from resilient.degrade.stores import guarded
from resilient.degrade.stores.counts import Counts
from resilient.engine.isolation import broken
from resilient.engine.reported import all_conditions
from resilient.testing import VirtualTime
from tests.degrade.own_stores import AsyncShelves, Shelves, Unwell, refuse
from tests.doubles import Scripted, each


def test_it_keeps_bytes_and_the_age_is_known(virtual_time: VirtualTime) -> None:
    """A store keeps bytes under names; what is served from it tells how old it is."""
    store = Shelves()
    guarded = with_fallback(cached(ttl=60, store=store))(Scripted(["answer"], ConnectionError))
    guarded("u1")
    assert [type(data) for data in store.kept.values()] == [bytes]
    virtual_time.advance(42)
    with degradation_scope() as degraded:
        assert guarded("u1") == ["answer"]
    assert [one.age for one in degraded] == pytest.approx([42], abs=0.2)


def test_what_is_older_than_its_ttl_is_not_served(virtual_time: VirtualTime) -> None:
    """A store that forgets nothing changes nothing about the time for which answers are served."""
    guarded = with_fallback(cached(ttl=60, store=Shelves()), "instead")(
        Scripted("answer", ConnectionError)
    )
    guarded()
    virtual_time.advance(61)
    assert guarded() == "instead"


def test_a_store_that_is_not_asked_in_time_is_not_to_blame(virtual_time: VirtualTime) -> None:
    """Where the caller's own time is over before that, nothing is said of the store."""

    @with_fallback(cached(ttl=60, store=Shelves()))
    def load() -> str:
        virtual_time.sleep(2)
        raise ConnectionError

    before = broken["cache store"]
    with capture_logs() as logs, deadline(1), pytest.raises(ConnectionError):
        load()
    assert [line for line in logs if line["event"] == "resilient.hook_failed"] == []
    assert broken["cache store"] == before


def test_an_asynchronous_store_serves_asynchronous_functions(virtual_time: VirtualTime) -> None:
    """The methods of a store may be coroutine functions."""
    ask = Scripted("answer", ConnectionError)

    @with_fallback(cached(ttl=60, store=AsyncShelves(lambda: asyncio.sleep(0.01))))
    async def load() -> Any:
        return ask()

    async def main() -> list[Any]:
        first = await load()
        await asyncio.sleep(1)
        return [first, await load()]

    assert virtual_time.run(main()) == ["answer", "answer"]


def test_an_asynchronous_store_is_refused_for_a_synchronous_function() -> None:
    """What could never be awaited is told when decorating."""
    store = AsyncShelves(lambda: asyncio.sleep(0))
    with pytest.raises(InvalidUse, match="asynchronous store"):
        with_fallback(cached(ttl=60, store=store))(Scripted("answer"))


def test_a_success_does_not_wait_for_an_asynchronous_store(virtual_time: VirtualTime) -> None:
    """Its writes are tasks that nobody waits for."""
    store = AsyncShelves(lambda: asyncio.sleep(0.09))

    @with_fallback(cached(ttl=60, store=store))
    async def load() -> str:
        return "answer"

    async def main() -> float:
        began = virtual_time.now()
        await load()
        took = virtual_time.now() - began
        await asyncio.sleep(1)
        return took

    assert virtual_time.run(main()) == 0
    assert store.asked["put"] == 1


@pytest.mark.parametrize("fresh_for", [0, 10])
def test_a_store_that_does_not_work_changes_nothing(
    virtual_time: VirtualTime, fresh_for: float
) -> None:
    """Calls go on without the store, and failures go to the next tier."""
    ask = Scripted(1, 2, 3, ConnectionError)
    guarded = with_fallback(cached(ttl=60, store=Unwell(refuse), fresh_for=fresh_for), "instead")(
        lambda number: ask()
    )
    assert [guarded(number) for number in (1, 2, 3)] == [1, 2, 3]
    assert guarded(4) == "instead"


def test_health_says_why_a_store_is_left_alone_since_when_and_when_it_is_asked_again(
    virtual_time: VirtualTime,
) -> None:
    """As of a circuit; without the text of the error, which may hold anything."""
    store = Unwell(refuse, name="explained")
    guarded = with_fallback(cached(ttl=600, store=store))(Scripted("answer"))
    guarded()
    virtual_time.advance(10)
    for _ in range(3):
        guarded()
    virtual_time.advance(0.2)
    [told] = [one.details for one in all_conditions() if one.name == "explained:cache"]
    assert told == {
        "componentType": "datastore",
        "output": "left alone until it is well again: writing",
        "lastFailure": "ConnectionRefusedError",
        "failingForSeconds": 10.2,
        "retryInSeconds": 0.3,
    }


def test_a_store_that_fails_is_left_alone_and_used_again_when_it_is_well(
    virtual_time: VirtualTime,
) -> None:
    """Three failures in a row are enough; a probe in the background finds it well within 1 s."""
    store = Unwell(refuse, name="recovering")
    ask = Scripted(*["answer"] * 20, ConnectionError)
    guarded = with_fallback(cached(ttl=600, store=store), "instead")(lambda number: ask())
    for number in range(20):
        guarded(number)
    assert store.asked["put"] == 3
    conditions = {one.name: one.status for one in all_conditions()}
    assert conditions["recovering:cache"] == "warn"
    store.unwell = False
    virtual_time.advance(1)
    assert {one.name: one.status for one in all_conditions()}["recovering:cache"] == "pass"
    # What has waited for it is there: all but the three that failed.
    assert [guarded(number) for number in range(20)] == ["instead"] * 3 + ["answer"] * 17
    assert len([name for name in store.kept if name != "resilient:probe"]) == 17


def test_an_asynchronous_store_is_used_again_when_it_is_well(virtual_time: VirtualTime) -> None:
    """It is asked whether it is well as it is asked for answers, by awaiting it."""

    async def unwell() -> None:
        if is_down:
            raise ConnectionRefusedError

    is_down = True
    store = AsyncShelves(unwell)

    @with_fallback(cached(ttl=600, key="{number}", store=store), "instead")
    async def ask(number: int) -> int:
        return number

    def written() -> int:
        return len([name for name in store.inner.kept if name != "resilient:probe"])

    for number in range(5):
        virtual_time.run(ask(number))
    virtual_time.advance(2)
    assert written() == 3
    is_down = False
    virtual_time.advance(1)
    assert written() == 5


def test_only_so_many_answers_wait_for_a_store_that_is_down(
    virtual_time: VirtualTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are the newest; of the others it is counted that they were dropped."""
    monkeypatch.setattr(guarded, "MOST_WAITING", 3)
    store = Unwell(refuse, name="waited for")
    before = Counts.of(store.name)["dropped"]
    source = Scripted(*range(10), ConnectionError)
    ask = with_fallback(cached(ttl=600, key="{number}", store=store), "instead")(
        lambda number: source()
    )
    for number in range(10):
        ask(number)
    assert Counts.of(store.name)["dropped"] - before == 4  # the first three were tried
    assert [ask(number) for number in range(10)] == ["instead"] * 7 + [7, 8, 9]
    store.unwell = False
    virtual_time.advance(2)
    assert len([name for name in store.kept if name != "resilient:probe"]) == 3


def test_a_key_that_has_no_text_leaves_the_store_alone(virtual_time: VirtualTime) -> None:
    """What a key function returns may be good for memory only; calls are made all the same."""

    class Token:
        """Is equal to nothing but itself, and has no text that says which one it is."""

    class Claimed(Shelves):
        def claim(self, name: str, token: str, seconds: float) -> str:
            self.asked["claim"] += 1
            return token

        def release(self, name: str, token: str) -> None:
            self.asked["release"] += 1

    token, store = Token(), Claimed("of texts")
    tier = cached(ttl=60, fresh_for=10, key=lambda token: token, store=store)
    ask = Scripted(1, 2, ConnectionError)
    guarded = with_fallback(tier, "instead")(lambda token: ask())
    assert [guarded(token), guarded(token), guarded(token)] == [1, 2, "instead"]
    assert not store.asked


def test_a_store_may_say_only_whether_the_call_is_ours(virtual_time: VirtualTime) -> None:
    """Who has the call otherwise is not known; it is waited for, and made when it is ours."""
    claims = iter([False, False, True])
    claimed: list[str] = []
    released: list[str] = []

    class Leased(Shelves):
        def claim(self, name: str, token: str, seconds: float) -> bool:
            claimed.append(token)
            return next(claims)

        def release(self, name: str, token: str) -> None:
            released.append(token)

    ask = Scripted("answer")
    guarded = with_fallback(cached(ttl=60, fresh_for=10, key="one", store=Leased()))(ask)
    began = virtual_time.now()
    assert guarded() == "answer"
    assert 0.02 < virtual_time.now() - began < 0.1
    assert len(claimed) == 3
    assert released == claimed[-1:]
    assert ask.calls == 1


@pytest.mark.parametrize("fresh_for", [0, 10])
def test_a_store_that_cancels_itself_cancels_nobody(
    virtual_time: VirtualTime, fresh_for: float
) -> None:
    """A cancellation that is raised by its client is a failure of the store, and no caller's."""

    async def cancelled() -> None:
        raise asyncio.CancelledError

    store = AsyncShelves(cancelled)
    source = Scripted("answer", ConnectionError)

    @with_fallback(cached(ttl=60, fresh_for=fresh_for, store=store), "instead")
    async def ask() -> Any:
        return source()

    async def main() -> list[Any]:
        return [await ask(), await ask()]

    assert virtual_time.run(main()) == ["answer", "instead"]
    assert store.asked["get"] >= 1


@pytest.mark.parametrize("kind", [SystemExit, asyncio.CancelledError])
def test_a_write_that_ends_by_what_is_no_exception_is_lost_and_the_next_is_made(
    virtual_time: VirtualTime, kind: type[BaseException]
) -> None:
    """On a thread that nobody waits for it interrupts nobody, and the writing goes on."""
    store = Shelves()
    put = store.put

    def put_or_exit(name: str, data: bytes, ttl: float) -> None:
        put(name, data, ttl)
        if store.asked["put"] == 1:
            raise kind

    store.put = put_or_exit  # type: ignore[method-assign]
    guarded = with_fallback(cached(ttl=60, store=store, key="{number}"))(lambda number: number)
    for number in range(3):
        assert guarded(number) == number
        virtual_time.advance(1)
    assert store.asked["put"] == 3


def test_an_interruption_of_the_main_thread_comes_out_of_a_write(virtual_time: VirtualTime) -> None:
    """Ctrl-C is somebody's: where a test has the main thread write, that test ends."""
    store = Shelves()

    def interrupted(name: str, data: bytes, ttl: float) -> None:
        raise KeyboardInterrupt

    store.put = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        with_fallback(cached(ttl=60, store=store))(Scripted("answer"))()


def test_what_is_written_behind_a_call_leaves_the_random_numbers_of_a_program_alone(
    virtual_time: VirtualTime,
) -> None:
    """A simulation that has set a seed draws the same, whatever is stored meanwhile."""
    store = Shelves()
    guarded = with_fallback(cached(ttl=60, store=store, key="one key"))(lambda: "answer")
    random.seed(7)
    first = random.random()
    random.seed(7)
    assert guarded() == "answer"
    virtual_time.advance(1)
    assert store.asked["put"] == 1
    assert random.random() == first


def test_what_waits_for_a_store_is_served(virtual_time: VirtualTime) -> None:
    """An answer that the store has not taken yet is not lost to this process."""
    store = Unwell(refuse)
    guarded = with_fallback(cached(ttl=600, store=store), "instead")(
        Scripted(*range(10), ConnectionError)
    )
    for _ in range(10):
        guarded()
    assert guarded() == 9


def test_a_slow_lookup_costs_its_limit_once(virtual_time: VirtualTime) -> None:
    """Looking for an answer, claiming the call and storing it cost no more than one limit."""

    class Slow(Shelves):
        def get(self, name: str) -> Any:
            virtual_time.sleep(0.3)

        def claim(self, name: str, token: str, seconds: float) -> bool:
            virtual_time.sleep(0.3)
            return True

        def release(self, name: str, token: str) -> None:
            pass

    guarded = with_fallback(cached(ttl=60, fresh_for=10, store=Slow(), store_timeout=0.5))(
        Scripted("answer")
    )
    began = virtual_time.now()
    assert guarded() == "answer"
    assert virtual_time.now() - began == pytest.approx(0.5)


def test_a_store_that_hangs_costs_a_call_that_fails_its_limit_once(
    virtual_time: VirtualTime,
) -> None:
    """What was looked for in vain before the call is not looked for again after it."""
    store = Unwell(lambda: virtual_time.sleep(30), "looked into once")
    guarded = with_fallback(cached(ttl=60, fresh_for=10, store=store, store_timeout=0.5), "instead")
    ask = guarded(Scripted(*[ConnectionError] * 5))
    took: list[float] = []
    for _ in range(5):
        began = virtual_time.now()
        assert ask() == "instead"
        took.append(round(virtual_time.now() - began, 3))
    assert took == [0.5, 0.5, 0.5, 0.0, 0.0]
    assert Counts.of("looked into once")["unavailable"] == 10


def test_a_store_that_cannot_be_read_is_not_asked_who_makes_the_call(
    virtual_time: VirtualTime,
) -> None:
    """Three lookups find out that it hangs, and not three claims in addition."""

    class Hanging(Unwell):
        def claim(self, name: str, token: str, seconds: float) -> bool:
            self._begin("claim")
            return True

        def release(self, name: str, token: str) -> None:
            """Nothing was taken."""

        def put(self, name: str, data: bytes, ttl: float) -> None:
            """Writing is well."""

    store = Hanging(lambda: virtual_time.sleep(30), "asked for nothing")
    guarded = with_fallback(cached(ttl=60, fresh_for=10, store=store, store_timeout=0.5))
    ask = guarded(Scripted(*range(9)))
    began = virtual_time.now()
    assert [ask(number) for number in range(9)] == list(range(9))
    assert virtual_time.now() - began == pytest.approx(1.5)
    assert store.asked["claim"] == 0


def test_processes_whose_calls_fail_do_not_fail_one_after_the_other(
    virtual_time: VirtualTime,
) -> None:
    """Each waits for the first at most; not for all who try after that has failed."""
    leases: dict[str, str] = {}

    class Shared(Shelves):
        def claim(self, name: str, token: str, seconds: float) -> str:
            return leases.setdefault(name, token)

        def release(self, name: str, token: str) -> None:
            if leases.get(name) == token:
                del leases[name]

    async def process(number: int) -> float:
        tier = cached(ttl=60, fresh_for=10, key="one", store=Shared(f"of process {number}"))

        @with_fallback(tier)
        async def load() -> None:
            await asyncio.sleep(2)
            raise ConnectionError

        began = virtual_time.now()
        with pytest.raises(ConnectionError):
            await load()
        return virtual_time.now() - began

    async def main() -> list[float]:
        return await asyncio.gather(*map(process, range(8)))

    took = sorted(virtual_time.run(main()))
    assert took[0] == pytest.approx(2, abs=0.1)
    assert took[1] > 4
    assert took[-1] < 4.5


# What never reaches a caller


def answered(store: Shelves, key: str, down: bool = False, **settings: Any) -> Any:
    """Ask a function anew, as another process would, which fails if it is `down`."""

    @with_fallback(cached(ttl=60, key="user:{user_id}", store=store, **settings), "instead")
    def load(user_id: str) -> Any:
        if down:
            raise ConnectionError
        return {"user": user_id}

    return load(key)


@each(
    "spoil",
    {
        "a pickle": lambda kept: {name: pickle.dumps({"user": "u1"}) for name in kept},
        "plain JSON": lambda kept: {name: json.dumps({"user": "u1"}).encode() for name in kept},
        "cut off": lambda kept: {name: data[:-1] for name, data in kept.items()},
        "cut off in its head": lambda kept: {name: data[:10] for name, data in kept.items()},
        "empty": lambda kept: dict.fromkeys(kept, b""),
        "a bit turned": lambda kept: {
            name: data[:-2] + bytes([data[-2] ^ 1]) + data[-1:] for name, data in kept.items()
        },
        "text": lambda kept: dict.fromkeys(kept, "text"),
    },
)
def test_what_is_not_what_was_stored_is_not_served(virtual_time: VirtualTime, spoil: Any) -> None:
    """What is planted or damaged is a miss, and is counted."""
    store = Shelves("spoilt")
    answered(store, "u1")
    assert answered(store, "u1", down=True) == {"user": "u1"}
    store.kept = spoil(store.kept)
    before, reported = Counts.of("spoilt")["rubbish"], broken["cache store"]
    assert answered(store, "u1", down=True) == "instead"
    assert Counts.of("spoilt")["rubbish"] == before + 1
    assert broken["cache store"] == reported + 1


def test_another_users_answer_is_not_served(virtual_time: VirtualTime) -> None:
    """The bytes of one key under the name of another do not open."""
    store = Shelves()
    answered(store, "u1")
    (mine,) = store.kept.values()
    answered(store, "u2")
    store.kept = dict.fromkeys(store.kept, mine)
    assert answered(store, "u2", down=True) == "instead"
    assert answered(store, "u1", down=True) == {"user": "u1"}


def test_an_answer_is_not_fresh_for_as_long_as_the_wall_clock_was_set_back(
    virtual_time: VirtualTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What seems to come from the future is called for again, and serves while calls fail."""
    source = Scripted("first", "second", ConnectionError)
    tier = cached(ttl=86_400, fresh_for=30, store=Shelves(), key="one key")
    guarded = with_fallback(tier)(source)
    assert guarded() == "first"
    virtual_time.advance(1)
    an_hour_ago = time.time() - 3600
    monkeypatch.setattr(time, "time", lambda: an_hour_ago)

    assert guarded() == "second"
    virtual_time.advance(1)
    monkeypatch.setattr(time, "time", lambda: an_hour_ago - 3600)
    with degradation_scope() as degraded:
        assert guarded() == "second"
    assert [one.tier for one in degraded] == ["cached"]
    assert source.calls == 3


def test_an_answer_of_another_version_is_not_served(virtual_time: VirtualTime) -> None:
    """A new version begins with no answers, and leaves the old ones to the old version."""
    store = Shelves()
    answered(store, "u1", version=1)
    assert answered(store, "u1", down=True, version=2) == "instead"
    assert answered(store, "u1", down=True, version=1) == {"user": "u1"}


def test_an_empty_list_is_a_hit(virtual_time: VirtualTime) -> None:
    """Only absence is a miss, in a store too."""
    for answer in ([], None, 0, False, "", {}):
        guarded = with_fallback(cached(ttl=60, store=Shelves()), "instead")(
            Scripted(answer, ConnectionError)
        )
        assert [guarded(), guarded()] == [answer, answer]


def test_what_the_caller_does_to_an_answer_is_not_stored(virtual_time: VirtualTime) -> None:
    """What is written behind the call is the answer as it was."""
    store = Unwell(refuse)
    guarded = with_fallback(cached(ttl=60, store=store))(
        Scripted(["a"], ["a"], ["a"], ["a"], ConnectionError)
    )
    for _ in range(4):
        guarded().append("mine")
    guarded().append("mine")
    assert guarded() == ["a"]


def test_a_value_that_json_would_change_is_not_kept(virtual_time: VirtualTime) -> None:
    """A tuple would come back as a list: it is refused, and the refusal is counted."""
    store, before = Shelves(), broken["cache store"]
    for answer in ((1, 2), {1: "a"}, {"a": {1, 2}}, float("nan")):
        guarded = with_fallback(cached(ttl=60, store=store))(Scripted(answer))
        guarded()
    assert store.kept == {}
    assert broken["cache store"] == before + 4


def test_the_answer_of_an_abandoned_call_reaches_the_store(virtual_time: VirtualTime) -> None:
    """An answer within the time limit is stored through every strategy further in."""
    store = Shelves()
    guarded = with_fallback(cached(ttl=60, store=store))(timeout(1)(Scripted("answer")))
    guarded()
    assert len(store.kept) == 1
