"""Answers in a real Redis, which is killed, frozen and started again under load."""

# What returns Any may be a coroutine, for all that a type checker knows.
# pyright: reportUnusedCoroutine=false, reportIndexIssue=false, reportAttributeAccessIssue=false

from __future__ import annotations

import asyncio
import pickle
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self

import pytest
import redis as redis_py

from resilient import (
    CallTimeout,
    InvalidSetting,
    InvalidUse,
    RedisStore,
    cache_of,
    cached,
    deadline,
    timeout,
    with_fallback,
)
from resilient.degrade.stores import behind
from resilient.degrade.stores.counts import Counts
from resilient.engine.reported import all_conditions
from tests.doubles import Scripted, each
from tests.hard_cases.crowd import crowd, errors
from tests.servers import RedisServer, free_port
from tests.waiting import eventually

#: A cache with a limit that no busy machine reaches.
patient = partial(cached, 60, store_timeout=5)
#: What a busy machine may add to a time; an outage lasts longer.
LEEWAY = 0.6
LIMIT = 0.1


@pytest.fixture
def client(redis: RedisServer) -> Iterator[redis_py.Redis]:
    """A client of the tests' own, to look into the server."""
    with redis_py.Redis.from_url(redis.url) as client:
        yield client


@pytest.fixture
def stores(redis: RedisServer) -> Iterator[Any]:
    """Make stores, as the processes of a service would have one each."""
    made: list[RedisStore] = []

    def make(**settings: Any) -> RedisStore:
        made.append(RedisStore(redis.url, **settings))
        return made[-1]

    yield make
    behind._flush_all()
    for queue in behind._queues:
        queue._waiting.clear()  # what has been refused until now is not written into the next test
    for store in made:
        store.close()


def kept(client: redis_py.Redis) -> list[str]:
    """Return the names that there are."""
    names: Any = client.keys()
    answers = (name.decode() for name in names if not name.endswith((b":lease", b":probe")))
    return sorted(answers)


def test_an_answer_reaches_another_process(stores: Any, client: redis_py.Redis) -> None:
    """What one process has stored, another one serves."""
    first = with_fallback(patient(key="rec:{user}", store=stores()))(lambda user: [user])
    assert first("u1") == ["u1"]
    assert eventually(lambda: len(kept(client)) == 1)
    assert 55_000 < client.pttl(kept(client)[0]) <= 67_000  # type: ignore[operator]

    @with_fallback(patient(key="rec:{user}", store=stores()))
    def second(user: str) -> Any:
        raise ConnectionError

    assert second("u1") == ["u1"]
    with pytest.raises(ConnectionError):
        second("u2")


async def test_it_serves_asynchronous_functions_and_any_number_of_loops(
    stores: Any, client: redis_py.Redis
) -> None:
    """One store object is used from a loop, from another one, and from a plain function."""
    store = stores()
    ask = Scripted("answer", ConnectionError)

    @with_fallback(patient(key="one", store=store))
    async def load() -> Any:
        return ask()

    assert await load() == "answer"
    assert await asyncio.to_thread(eventually, lambda: len(kept(client)) == 1)

    def elsewhere() -> Any:
        return asyncio.run(load())

    assert await asyncio.to_thread(elsewhere) == "answer"
    plain = with_fallback(patient(key="one", store=stores()))(Scripted(ConnectionError))
    assert plain() == "answer"


def test_an_answer_is_forgotten(stores: Any, client: redis_py.Redis) -> None:
    """What is invalidated is not in the server any more, and other answers are."""
    store = stores(namespace="shop")
    guarded = with_fallback(patient(key="rec:{user}", store=store))(lambda user: [user])
    guarded("u1")
    guarded("u2")
    assert eventually(lambda: len(kept(client)) == 2)
    cache_of(guarded).invalidate("u1")
    assert eventually(lambda: len(kept(client)) == 1)
    assert "u2" in kept(client)[0]
    assert repr(store) == "RedisStore(namespace='shop')"


def test_without_the_library_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has not installed redis-py is told what to install."""
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(InvalidUse, match=r"resilient-calls\[redis\]"):
        RedisStore("redis://localhost")


def test_namespaces_keep_services_apart(stores: Any, client: redis_py.Redis) -> None:
    """The same key in another namespace is another answer."""
    with_fallback(patient(key="one", store=stores(namespace="a")))(Scripted("a"))()
    assert eventually(lambda: len(kept(client)) == 1)
    other = with_fallback(patient(key="one", store=stores(namespace="b")), "instead")
    assert other(Scripted(ConnectionError))() == "instead"


@each(
    "spoil",
    {
        "a pickle": lambda data: pickle.dumps("forged"),
        "cut off": lambda data: data[:-1],
        "plain JSON": lambda data: b'"forged"',
    },
)
def test_what_is_planted_or_cut_off_is_not_served(
    stores: Any, client: redis_py.Redis, spoil: Any
) -> None:
    """What somebody else has written under the name of an answer never reaches a caller."""
    with_fallback(patient(key="one", store=stores()))(Scripted("good"))()
    assert eventually(lambda: len(kept(client)) == 1)
    (name,) = kept(client)
    client.set(name, spoil(client.get(name)))
    guarded = with_fallback(patient(key="one", store=stores()), "instead")
    assert guarded(Scripted(ConnectionError))() == "instead"


def test_a_value_of_another_kind_is_not_served(stores: Any, client: redis_py.Redis) -> None:
    """A list in Redis under the name of an answer is an error of the store, and no more."""
    with_fallback(patient(key="one", store=stores()))(Scripted("good"))()
    assert eventually(lambda: len(kept(client)) == 1)
    (name,) = kept(client)
    client.delete(name)
    client.rpush(name, "forged")
    guarded = with_fallback(patient(key="one", store=stores()), "instead")
    assert guarded(Scripted(ConnectionError))() == "instead"


class Threads:
    """Callers on threads, each call timed, until the block ends."""

    number = 4

    def __init__(self, guard: Any, own: float) -> None:
        self.took: list[float] = []
        self.failed: list[BaseException] = []
        self._own = own
        self._call = guard(self._load)
        self._end = threading.Event()
        threads = range(self.number)
        self._threads = [threading.Thread(target=self._run, args=(one,)) for one in threads]

    def _load(self, user: str) -> Any:
        time.sleep(self._own)
        return [user]

    def _run(self, index: int) -> None:
        number = 0
        while not self._end.is_set():
            number += 1
            with self._timed():
                self._call(f"{index}-{number % 5}")
            time.sleep(0.002)

    @contextmanager
    def _timed(self) -> Generator[None]:
        began = time.monotonic()
        try:
            yield
        except Exception as error:
            self.failed.append(error)
        self.took.append(time.monotonic() - began)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()


class Tasks(Threads):
    """The same as tasks of one event loop."""

    number = 1

    async def _load(self, user: str) -> Any:
        await asyncio.sleep(self._own)
        return [user]

    def _run(self, index: int) -> None:
        async def run_all() -> None:
            await asyncio.gather(*map(self._run_task, range(4)))

        asyncio.run(run_all())

    async def _run_task(self, index: int) -> None:
        number = 0
        while not self._end.is_set():
            number += 1
            with self._timed():
                await self._call(f"{index}-{number % 5}")
            await asyncio.sleep(0.002)


def answered(counts: Counts) -> int:
    """How many lookups the store has answered."""
    return counts["hit"] + counts["miss"]


def all_are_answered(counts: Counts) -> bool:
    """Whether for a while there are lookups, and none goes without the store."""
    before, unavailable = answered(counts), counts["unavailable"]
    time.sleep(0.1)
    return answered(counts) > before and counts["unavailable"] == unavailable


@pytest.mark.real_time
@pytest.mark.parametrize("outage", ["killed", "frozen"])
@pytest.mark.parametrize("callers", [Threads, Tasks])
def test_an_outage_of_redis_fails_no_call_and_slows_none_beyond_its_limit(
    redis: RedisServer, stores: Any, outage: str, callers: type[Threads]
) -> None:
    """Under load it goes and comes back; it is used again within 2 s, and the share is counted."""
    name = f"redis {outage} under {callers.__name__}"
    counts = Counts.of(name)
    own = 0.001
    guard = with_fallback(cached(60, fresh_for=0.05, key="rec:{user}", store=stores(name=name)))
    with callers(guard, own) as under_load:
        assert eventually(lambda: answered(counts) > 0 and counts["written"] > 0)
        redis.kill() if outage == "killed" else redis.freeze()
        time.sleep(1.0)
        assert counts["unavailable"] > 0
        assert {one.name: one.status for one in all_conditions()}[f"{name}:cache"] == "warn"
        redis.start() if outage == "killed" else redis.thaw()
        back = time.monotonic()
        written, before = counts["written"], answered(counts)
        assert eventually(lambda: counts["written"] > written and answered(counts) > before)
        assert time.monotonic() - back < 2.0
        assert eventually(partial(all_are_answered, counts))
    assert under_load.failed == []
    assert max(under_load.took) < own + LIMIT + LEEWAY
    slow = [one for one in under_load.took if one > 0.09]
    assert len(slow) <= 20 + len(under_load.took) // 50, "only the first calls waited for it"


def test_a_connection_of_before_a_restart_costs_no_error(redis: RedisServer, stores: Any) -> None:
    """A server that was restarted between two calls is noticed by nobody."""
    store = stores(name="restarted")
    guarded = with_fallback(patient(key="one", store=store))(Scripted("a", ConnectionError))
    guarded()
    assert eventually(lambda: Counts.of("restarted")["written"] == 1)
    redis.restart()
    with pytest.raises(ConnectionError):
        guarded()
    assert Counts.of("restarted")["unavailable"] == 0
    assert Counts.of("restarted")["miss"] == 1


def test_a_connection_of_before_a_failover_is_given_up(
    redis: RedisServer, stores: Any, client: redis_py.Redis
) -> None:
    """Who was the primary lives on as a replica; who is it now is found by a new connection."""

    def connections() -> set[str]:
        known: Any = client.client_list()
        return {one["id"] for one in known} - {str(client.client_id())}

    store = stores(name="demoted")
    store.put("answer", b"one", 60)
    before = connections()
    client.execute_command("REPLICAOF", redis.host, str(free_port()))
    try:
        with pytest.raises(redis_py.ReadOnlyError):
            store.put("answer", b"another", 60)
        assert eventually(lambda: before.isdisjoint(connections()))
        assert store.get("answer") == b"one"
    finally:
        client.execute_command("REPLICAOF", "NO", "ONE")
    store.put("answer", b"another", 60)


@pytest.mark.parametrize("why", ["no right to", "no such command"])
def test_a_redis_without_scripts_is_shared_all_the_same(
    stores: Any, client: redis_py.Redis, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    """Where an administrator or a proxy has taken them away, leases are kept by plain commands."""
    rules = ("+@all", "-@scripting") if why == "no right to" else ("+@all",)
    client.execute_command("ACL", "SETUSER", "limited", "on", ">word", "~*", *rules)
    try:
        store, other = (stores(name=why, username="limited", password="word") for _ in range(2))
        if why == "no such command":
            unknown = partial(store._client.execute_command, "NOEVAL")
            monkeypatch.setattr(type(store._client), "eval", lambda _, *given: unknown(*given))
        guarded = with_fallback(patient(fresh_for=10, key="one", store=store))(Scripted("a"))
        assert guarded() == "a"
        assert eventually(lambda: Counts.of(why)["written"] == 1)
        assert eventually(lambda: not client.keys("*:lease"))
        assert store.claim("name", "ours", 5) in ("ours", b"ours")
        assert other.claim("name", "theirs", 5) == b"ours"
        other.release("name", "theirs")
        assert other.claim("name", "theirs", 5) == b"ours"
        store.release("name", "ours")
        assert other.claim("name", "theirs", 5) in ("theirs", b"theirs")
        other.release("name", "theirs")
    finally:
        client.execute_command("ACL", "DELUSER", "limited")


def test_a_refusal_of_another_kind_does_not_end_the_use_of_scripts(
    stores: Any, client: redis_py.Redis
) -> None:
    """A server that is full for a while keeps its leases as before when there is room again."""
    store = stores(name="full of leases")
    client.config_set("maxmemory", 1)
    try:
        with pytest.raises(redis_py.ResponseError):
            store.claim("name", "ours", 5)
    finally:
        client.config_set("maxmemory", 0)
    assert store.claim("name", "ours", 5) == b"ours"
    assert store._may_script


def test_a_full_redis_can_still_be_read(
    redis: RedisServer, stores: Any, client: redis_py.Redis
) -> None:
    """Writes that are refused for want of memory fail no call, and do not end reading."""
    store = stores(name="full")
    ask = Scripted(*["answer"] * 7, ConnectionError)
    guarded = with_fallback(patient(key="rec:{user}", store=store))(lambda user: ask())
    guarded("first")
    assert eventually(lambda: Counts.of("full")["written"] == 1)
    client.config_set("maxmemory", 1)
    try:
        for number in range(6):
            guarded(str(number))
        assert eventually(lambda: Counts.of("full")["failed"] >= 3)
        assert guarded("first") == "answer"
    finally:
        client.config_set("maxmemory", 0)


def test_a_thousand_threads_that_miss_one_key_make_one_call(stores: Any) -> None:
    """In one process, all of them have the answer of one call."""
    calls: list[str] = []

    @with_fallback(patient(fresh_for=30, key="rec:{user}", store=stores()))
    def load(user: str) -> list[str]:
        calls.append(user)
        time.sleep(0.2)
        return [user]

    answers = crowd(1000, lambda _: load("u1"))
    assert errors(answers) == []
    assert answers == [["u1"]] * 1000
    assert calls == ["u1"]


async def test_a_thousand_tasks_that_miss_one_key_make_one_call(stores: Any) -> None:
    """The same on an event loop."""
    calls: list[str] = []

    @with_fallback(patient(fresh_for=30, key="rec:{user}", store=stores()))
    async def load(user: str) -> list[str]:
        calls.append(user)
        await asyncio.sleep(0.1)
        return [user]

    answers = await asyncio.gather(*(load("u1") for _ in range(1000)))
    assert answers == [["u1"]] * 1000
    assert calls == ["u1"]


PROCESS = """
import asyncio, pathlib, sys, time
from resilient import RedisStore, cached, with_fallback

url, calls = sys.argv[1], pathlib.Path(sys.argv[2])
begin, seconds = map(float, sys.argv[3:])

store = RedisStore(url, lease=1.0)

@with_fallback(cached(ttl=60, fresh_for=30, key="rec:{user}", store=store, store_timeout=5))
async def load(user):
    with calls.open("a") as file:
        file.write("called\\n")
    await asyncio.sleep(seconds)
    return [user]

async def main():
    await asyncio.sleep(max(0, begin - time.time()))
    answers = await asyncio.gather(*(load("u1") for _ in range(250)))
    assert answers == [["u1"]] * 250

asyncio.run(main())
"""


def processes(redis: RedisServer, calls: Path, number: int, seconds: float) -> list[Any]:
    """Start processes that all miss one key at the same time."""
    begin = time.time() + (1.0 if number > 1 else 0.0)
    command = [sys.executable, "-c", PROCESS, redis.url, str(calls), str(begin), str(seconds)]
    return [subprocess.Popen(command) for _ in range(number)]


def test_a_thousand_misses_in_four_processes_make_one_call(
    redis: RedisServer, tmp_path: Path
) -> None:
    """Processes that share a Redis make one call of the misses of one key."""
    calls = tmp_path / "calls"
    for process in processes(redis, calls, 4, 0.3):
        assert process.wait(20) == 0
    assert calls.read_text() == "called\n"


def test_the_lease_of_a_process_that_died_ends(redis: RedisServer, tmp_path: Path) -> None:
    """One that dies in the middle of its call keeps the others waiting for its lease, no longer."""
    calls = tmp_path / "calls"
    (leader,) = processes(redis, calls, 1, 60)
    assert eventually(lambda: calls.exists() and calls.read_text() == "called\n")
    leader.kill()
    leader.wait()
    (follower,) = processes(redis, calls, 1, 0.01)
    assert follower.wait(20) == 0
    assert calls.read_text() == "called\n" * 2


@pytest.mark.real_time
def test_one_who_waits_for_another_process_keeps_its_own_limit(
    stores: Any, client: redis_py.Redis
) -> None:
    """A call under a limit does not wait for another process longer than that."""
    guarded = with_fallback(patient(fresh_for=30, key="one", store=stores()))(Scripted("answer"))
    guarded()
    assert eventually(lambda: len(kept(client)) == 1)
    (name,) = kept(client)
    client.delete(name)
    client.set(f"{name}:lease", "somebody", px=5000)
    other = with_fallback(patient(fresh_for=30, key="one", store=stores()))(Scripted("new"))
    began = time.monotonic()
    with deadline(0.2), pytest.raises(CallTimeout):
        other()
    assert time.monotonic() - began < 0.2 + LEEWAY
    client.delete(f"{name}:lease")
    assert timeout(5)(other)() == "new"


@pytest.mark.real_time
def test_what_is_not_written_yet_is_written_at_the_end_of_the_process(
    redis: RedisServer, client: redis_py.Redis
) -> None:
    """A script that ends right after its call leaves its answer behind, and ends soon."""
    script = (
        "import sys, time\n"
        "from resilient import RedisStore, cached, with_fallback\n"
        "store = RedisStore(sys.argv[1])\n"
        "load = with_fallback(cached(ttl=60, key='{user}', store=store))(lambda user: user)\n"
        "for number in range(100): load(str(number))\n"
        "print(time.monotonic())\n"  # a clock that processes have in common
    )
    command = [sys.executable, "-c", script, redis.url]
    subprocess.run(command, check=True, timeout=20)
    assert len(kept(client)) == 100
    redis.freeze()
    last = subprocess.run(command, check=True, timeout=20, capture_output=True).stdout
    assert time.monotonic() - float(last) < behind.EXIT_SECONDS + 1


def test_a_forked_child_writes_what_is_its_own(redis: RedisServer, client: redis_py.Redis) -> None:
    """After a fork both sides write, each its own answers and each once."""
    script = (
        "import os, sys\n"
        "from resilient import RedisStore, cached, with_fallback\n"
        "store = RedisStore(sys.argv[1])\n"
        "load = with_fallback(cached(ttl=60, key='{user}', store=store))(lambda user: user)\n"
        "load('parent')\n"
        "child = os.fork()\n"
        "load('child' if child == 0 else 'later')\n"
        "if child: assert os.waitpid(child, 0)[1] == 0\n"
    )
    subprocess.run([sys.executable, "-c", script, redis.url], check=True, timeout=20)
    assert len(kept(client)) == 3


@each(
    "url",
    {
        "empty": "",
        "http": "http://:hunter2@localhost",
        "a number": 3,
        "no port": "redis://:hunter2@localhost:port",
        "a port beyond all": "redis://:hunter2@localhost:99999999",
        "a bracket left open": "redis://:hunter2@[::1",
        "a database that is no number": "redis://:hunter2@localhost?db=first",
        "an option that is no number": "redis://:hunter2@localhost?socket_timeout=long",
        "an option that is none": "redis://:hunter2@localhost?hunter=hunter2",
    },
)
def test_a_wrong_address_is_refused(url: Any) -> None:
    """What is no address of a Redis is told at once, without saying what was in it."""
    with pytest.raises(InvalidSetting) as caught:
        RedisStore(url)
    assert caught.value.parameter == "url"
    told = "".join(traceback.format_exception(caught.value))
    assert "hunter2" not in told + str(caught.value.value)


def test_to_have_text_in_place_of_bytes_is_refused() -> None:
    """None of the answers could be read, and none would be served."""
    url, texts = "redis://localhost:6379/0", dict[str, Any](decode_responses=True)
    for address, options in ((url, texts), (f"{url}?decode_responses=1", dict[str, Any]())):
        with pytest.raises(InvalidSetting, match="decode_responses"):
            RedisStore(address, **options)


@each("options", {"unknown": {"hunter": "hunter2"}, "no file": {"ssl_ca_certs": "hunter2"}})
def test_an_option_that_redis_py_does_not_take_is_refused(options: dict[str, Any]) -> None:
    """It is told where it is written, by name and without its value."""
    with pytest.raises(InvalidSetting, match="redis-py takes") as caught:
        RedisStore("redis://localhost", **options)
    assert (caught.value.parameter, caught.value.value) == ("options", [*options])
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_an_answer_and_a_lease_may_last_longer_than_redis_counts(stores: Any) -> None:
    """Seconds beyond all numbers of Redis are as many as it counts."""
    store = stores()
    store.put("for ever", b"answer", 1e308)
    assert store.get("for ever") == b"answer"
    assert store.claim("for ever", "mine", 1e308) == b"mine"
    assert store.claim("for ever", "another", 1e308) == b"mine"
