"""Answers in an SQLite file, which is killed while it is written, damaged, and on a full disk."""

# What returns Any may be a coroutine, for all that a type checker knows.
# pyright: reportUnusedCoroutine=false

from __future__ import annotations

import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from resilient import SQLiteStore, cache_of, cached, with_fallback
from resilient.degrade.stores.counts import Counts
from resilient.engine import signals
from resilient.testing import VirtualTime
from tests.doubles import Scripted, each
from tests.hard_cases.crowd import crowd, errors
from tests.waiting import eventually


def served(path: Path, key: str = "u1", **settings: Any) -> Any:
    """Return what a new process would serve while the source is down."""
    tier = cached(ttl=60, key="rec:{user}", store=SQLiteStore(path), **settings)

    @with_fallback(tier, "instead")
    def load(user: str) -> Any:
        raise ConnectionError

    return load(key)


def stored(path: Path, **settings: Any) -> None:
    """Store an answer for u1."""
    tier = cached(ttl=60, key="rec:{user}", store=SQLiteStore(path), **settings)
    with_fallback(tier)(lambda user: [user])("u1")


def test_answers_survive_a_restart(virtual_time: VirtualTime, tmp_path: Path) -> None:
    """What one process has stored is served by the next one, for as long as it may be."""
    stored(tmp_path / "answers.db")
    assert served(tmp_path / "answers.db") == ["u1"]
    assert served(tmp_path / "answers.db", "u2") == "instead"
    virtual_time.advance(61)
    assert served(tmp_path / "answers.db") == "instead"


def test_an_answer_of_another_version_is_not_served(
    virtual_time: VirtualTime, tmp_path: Path
) -> None:
    """A new version begins with no answers."""
    stored(tmp_path / "answers.db", version=1)
    assert served(tmp_path / "answers.db", version=2) == "instead"


@each(
    "planted",
    {
        "a pickle": lambda data: pickle.dumps(["u1"]),
        "cut off": lambda data: data[:-1],
        "text": lambda data: "text",
        "a number": lambda data: 3,
    },
)
def test_what_is_planted_or_cut_off_is_not_served(
    virtual_time: VirtualTime, tmp_path: Path, planted: Any
) -> None:
    """What somebody else has written into the file never reaches a caller."""
    path = tmp_path / "answers.db"
    stored(path)
    with sqlite3.connect(path) as connection:
        (data,) = connection.execute("SELECT data FROM answers").fetchone()
        connection.execute("UPDATE answers SET data = ?", (planted(data),))
    connection.close()
    assert served(path) == "instead"


def test_another_users_row_is_not_served(virtual_time: VirtualTime, tmp_path: Path) -> None:
    """A row under the name of another one does not open."""
    path = tmp_path / "answers.db"
    tier = cached(ttl=60, key="rec:{user}", store=SQLiteStore(path))
    load = with_fallback(tier)(lambda user: [user])
    load("u1")
    load("u2")
    with sqlite3.connect(path) as connection:
        connection.execute(
            "UPDATE answers SET data = (SELECT data FROM answers WHERE name LIKE '%u1%')"
        )
    connection.close()
    assert served(path, "u2") == "instead"
    assert served(path, "u1") == ["u1"]


def damaged(path: Path) -> None:
    """Overwrite the head of a file, of which nothing is left in its log."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    with path.open("r+b") as file:
        file.seek(0)
        file.write(b"\xff" * 8192)


def test_a_corrupt_file_is_moved_aside_and_a_new_one_begun(
    virtual_time: VirtualTime, tmp_path: Path
) -> None:
    """Calls go on, the next answers are stored, and the old file can be looked at."""
    path = tmp_path / "answers.db"
    path.write_bytes(b"this is no database, and longer than its head would be" * 100)
    told: list[tuple[str, Any]] = []

    def listen(name: str, fields: Any) -> None:
        told.append((name, fields.get("kept_as")))

    signals.subscribe(listen)
    try:
        stored(path)
        assert served(path) == ["u1"]
        damaged(path)
        assert served(path) == "instead"
        stored(path)
        assert served(path) == ["u1"]
    finally:
        signals.unsubscribe(listen)
    assert told.count(("resilient.store_replaced", "answers.db.corrupt-1")) == 1
    assert told.count(("resilient.store_replaced", "answers.db.corrupt-2")) == 1
    assert (tmp_path / "answers.db.corrupt-1").read_bytes().startswith(b"this is no database")


def test_a_file_that_is_corrupt_further_in_is_moved_aside(
    virtual_time: VirtualTime, tmp_path: Path
) -> None:
    """Where only a page of answers is damaged the file opens well, and is not trusted either."""
    path = tmp_path / "answers.db"
    stored(path)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    ask = "SELECT rootpage FROM sqlite_master WHERE name = 'answers'"
    (page,), (size,) = (connection.execute(one).fetchone() for one in (ask, "PRAGMA page_size"))
    connection.close()
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)
    assert served(path) == "instead"
    assert path.with_name("answers.db.corrupt-1").exists()
    stored(path)
    assert served(path) == ["u1"]


def test_a_file_that_is_well_is_not_moved_aside(tmp_path: Path) -> None:
    """Of those who find it corrupt at once one replaces it, and the others use the new one."""
    store = SQLiteStore(tmp_path / "answers.db")
    store.put("one", b"answer", 60)
    failures = [sqlite3.DatabaseError("malformed"), sqlite3.DatabaseError("malformed")]

    def use(connection: sqlite3.Connection) -> bytes:
        if failures:
            raise failures.pop()
        data: bytes = connection.execute("SELECT data FROM answers").fetchone()[0]
        return data

    assert store._with_connection(use) == b"answer"
    assert [*tmp_path.glob("*.corrupt-*")] == []
    store.close()


def test_a_file_that_cannot_be_opened_is_not_moved_aside(tmp_path: Path) -> None:
    """A folder that is gone for a moment says nothing against the file in it."""
    folder = tmp_path / "mounted"
    folder.mkdir()
    store = SQLiteStore(folder / "answers.db")
    told: list[str] = []

    def listen(name: str, _: Any) -> None:
        told.append(name)

    folder.rmdir()
    signals.subscribe(listen)
    try:
        store._move_aside()
    finally:
        signals.unsubscribe(listen)
    assert "resilient.store_replaced" not in told


def test_an_answer_is_forgotten(virtual_time: VirtualTime, tmp_path: Path) -> None:
    """What is invalidated is not in the file any more, and other answers are."""
    store = SQLiteStore(tmp_path / "answers.db")
    guarded = with_fallback(cached(ttl=60, key="rec:{user}", store=store))(lambda user: [user])
    assert [guarded("u1"), guarded("u2")] == [["u1"], ["u2"]]
    cache_of(guarded).invalidate("u1")
    assert served(store.path, "u1") == "instead"
    assert served(store.path, "u2") == ["u2"]
    assert repr(store) == f"SQLiteStore({str(tmp_path / 'answers.db')!r})"


def test_a_file_that_somebody_deletes_is_begun_anew(
    virtual_time: VirtualTime, tmp_path: Path
) -> None:
    """A store whose file is gone goes on with a new one."""
    path = tmp_path / "answers.db"
    store = SQLiteStore(path)
    ask = Scripted(1, 2, ConnectionError)
    guarded = with_fallback(cached(ttl=60, key="{user}", store=store))(lambda user: ask())
    guarded("a")
    for one in tmp_path.iterdir():
        one.unlink()
    guarded("b")
    assert path.exists()
    assert guarded("b") == 2


def test_a_folder_that_is_not_there_fails_no_call(
    virtual_time: VirtualTime, tmp_path: Path
) -> None:
    """Without a place for the file calls go on."""
    stored(tmp_path / "nowhere" / "answers.db")
    assert served(tmp_path / "nowhere" / "answers.db") == "instead"


def test_it_is_bounded(tmp_path: Path) -> None:
    """The answers that were stored longest ago go first."""
    store = SQLiteStore(tmp_path / "answers.db", max_entries=100)
    for number in range(600):
        store.put(str(number), b"x", 60)
    (held,) = store._with_connection(
        lambda connection: connection.execute("SELECT count(*) FROM answers").fetchone()
    )
    assert held <= 100 + 256
    assert store.get("599") == b"x"
    assert store.get("0") is None
    store.close()


def test_many_threads_share_it(tmp_path: Path) -> None:
    """Writers and readers at once find what they have stored."""
    store = SQLiteStore(tmp_path / "answers.db")

    def act(index: int) -> None:
        for number in range(20):
            store.put(f"{index}-{number}", b"x", 60)
            assert store.get(f"{index}-{number}") == b"x"

    assert errors(crowd(4, act)) == []
    store.close()


WRITER = """
import itertools, sys
from resilient import SQLiteStore
store = SQLiteStore(sys.argv[1])
for number in itertools.count():
    store.put(str(number), b"x" * 5000, 60)
    print(number, flush=True)
"""


def test_a_writer_that_is_killed_leaves_a_file_that_opens(tmp_path: Path) -> None:
    """After kill -9 in the middle of writing, what was written is there."""
    path = tmp_path / "answers.db"
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            last = [writer.stdout.readline().strip() for _ in range(30)][-1]
            writer.send_signal(signal.SIGKILL)
        store = SQLiteStore(path)
        assert store.get(last) == b"x" * 5000
        store.put("more", b"y", 60)
        assert store.get("more") == b"y"
        store.close()
    assert list(tmp_path.glob("*.corrupt*")) == []


FULL = """
import resource, sys
from resilient import SQLiteStore, cached, with_fallback
from resilient.degrade.stores.behind import _flush_all
from resilient.degrade.stores.counts import Counts

resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
down = False

@with_fallback(cached(ttl=60, key="{user}", store=SQLiteStore(sys.argv[1], name="full disk")))
def load(user):
    if down:
        raise ConnectionError
    return "x" * 5000

for number in range(200):
    assert load(str(number)) == "x" * 5000
    if number == 0:
        _flush_all()
_flush_all()
counts = Counts.of("full disk")
assert counts["failed"] >= 3, counts["failed"]
down = True
assert load("0") == "x" * 5000
print("served")
"""


def test_a_full_disk_fails_no_call_and_can_still_be_read(tmp_path: Path) -> None:
    """When no more can be written, calls go on, and what is there is served."""
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "answers.db")],
        # The limit would be one for the file with what coverage measures, too.
        env={name: value for name, value in os.environ.items() if "COVERAGE" not in name},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stdout.endswith("served\n"), done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_has_connections_of_its_own(tmp_path: Path) -> None:
    """A connection does not go through a fork, and parent and child both go on."""
    script = (
        "import os, sys\n"
        "from resilient import SQLiteStore\n"
        "store = SQLiteStore(sys.argv[1])\n"
        "store.put('parent', b'p', 60)\n"
        "child = os.fork()\n"
        "assert store.get('parent') == b'p'\n"
        "store.put('child' if child == 0 else 'later', b'c', 60)\n"
        "if child: assert os.waitpid(child, 0)[1] == 0\n"
    )
    path = tmp_path / "answers.db"
    subprocess.run([sys.executable, "-c", script, str(path)], check=True, timeout=20)
    store = SQLiteStore(path)
    assert [store.get(one) for one in ("parent", "child", "later")] == [b"p", b"c", b"c"]
    store.close()


@pytest.mark.real_time
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_child_forked_in_the_midst_of_a_write_can_write(tmp_path: Path) -> None:
    """What its parent had locked at that moment is not locked in the child for ever."""
    store = SQLiteStore(tmp_path / "answers.db")
    store.put("parent", b"answer", 60)
    begun = threading.Event()

    def change(connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE answers SET expires = expires + 1")
        begun.set()
        time.sleep(0.1)
        connection.execute("COMMIT")

    changing = threading.Thread(target=store._with_connection, args=[change])
    changing.start()
    assert begun.wait(10)
    child = os.fork()
    if child == 0:  # pragma: no cover - another process
        status = 1
        try:
            store.put("child", b"answer", 60)
            status = 0
        finally:
            os._exit(status)
    changing.join()
    assert os.waitpid(child, 0)[1] == 0
    assert [store.get(name) for name in ("parent", "child")] == [b"answer"] * 2
    store.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_what_a_forked_child_writes_is_kept_when_its_parent_closes_the_file(tmp_path: Path) -> None:
    """A parent that thinks that it is alone would delete the log into which the child writes."""
    store = SQLiteStore(tmp_path / "answers.db")
    store.put("parent", b"answer", 60)
    (has_put, tell), (closed, go_on) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover - another process
        status = 1
        try:
            store.put("child", b"answer", 60)
            os.write(tell, b".")
            os.read(closed, 1)
            store.put("child again", b"answer", 60)
            status = 0
        finally:
            os._exit(status)
    os.read(has_put, 1)
    store.close()
    os.write(go_on, b".")
    assert os.waitpid(child, 0)[1] == 0
    assert [store.get(name) for name in ("parent", "child", "child again")] == [b"answer"] * 3
    store.close()
    for descriptor in (has_put, tell, closed, go_on):
        os.close(descriptor)


def test_a_locked_file_costs_a_call_no_more_than_the_limit(tmp_path: Path) -> None:
    """A process that holds the file keeps nobody waiting beyond the store's limit."""
    path = tmp_path / "answers.db"
    stored(path)
    assert eventually(lambda: Counts.of("sqlite")["written"] > 0)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        began = time.monotonic()
        stored(path)
        served(path)
        assert time.monotonic() - began < 0.1 + 0.5
    finally:
        holder.execute("ROLLBACK")
        holder.close()
