"""The file: what is in it is never lost, never blocks, and says what is wrong."""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import sqlite3
import sys
import threading
import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from resilient import (
    DuplicateName,
    InvalidSetting,
    NewCall,
    Outbox,
    OutboxError,
    queued,
    with_fallback,
)
from resilient.engine.reported import Condition, all_conditions, all_readings
from resilient.testing import VirtualTime
from tests.doubles import Scripted, each
from tests.outbox.conftest import MakeOutbox
from tests.waiting import eventually

NOTHING = '{"args":[],"kwargs":{}}'


@contextmanager
def opened(path: Path) -> Generator[sqlite3.Connection]:
    """The file as somebody else sees it."""
    with closing(sqlite3.connect(path, timeout=10, isolation_level=None)) as connection:
        yield connection


def test_what_is_acknowledged_is_on_the_disk(outbox: Outbox) -> None:
    """The log is written ahead and synchronised before a receipt is returned."""
    outbox.put(NewCall("charge", NOTHING))
    found = outbox.table.database.read(
        lambda file: [
            file.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")
        ]
    )
    assert found == ["wal", 2]


def test_another_outbox_on_the_file_has_the_same_calls(make_outbox: MakeOutbox) -> None:
    """The file is what counts, not who has put into it."""
    first, second = make_outbox(), make_outbox()
    receipt = first.put(NewCall("charge", NOTHING, key="k"))
    assert second.put(NewCall("charge", NOTHING, key="k")) == receipt
    assert second.find(receipt.id) == first.find(receipt.id)


def test_threads_put_and_claim_without_getting_in_each_others_way(make_outbox: MakeOutbox) -> None:
    """Each call is kept once, and claimed by one."""
    outboxes = [make_outbox() for _ in range(2)]
    claimed: list[str] = []

    def work(outbox: Outbox, number: int) -> None:
        for turn in range(20):
            outbox.put(NewCall("charge", NOTHING, key=f"{number}-{turn}"))
            found = outbox.table.claim(f"{number}", ())
            if found is not None:
                claimed.append(found.call.id)

    threads = [
        threading.Thread(target=work, args=(outboxes[number % 2], number)) for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    while (left := outboxes[0].table.claim("last", ())) is not None:
        claimed.append(left.call.id)
    assert len(outboxes[0].pending()) == 160
    assert len(claimed) == len(set(claimed)) == 160


def test_a_forked_child_opens_the_file_anew(outbox: Outbox) -> None:
    """A connection must not be shared with a parent, whose locks it would break."""
    outbox.put(NewCall("charge", NOTHING, key="parent"))
    child = os.fork()
    if child == 0:  # pragma: no cover - another process
        status = 1
        try:
            outbox.put(NewCall("charge", NOTHING, key="child"))
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    outbox.put(NewCall("charge", NOTHING, key="parent again"))
    assert [call.key for call in outbox.pending()] == ["parent", "child", "parent again"]


def test_a_child_forked_in_the_midst_of_a_change_can_use_the_file(outbox: Outbox) -> None:
    """What its parent had locked at that moment is not locked in the child for ever."""
    outbox.put(NewCall("charge", NOTHING, key="parent"))
    begun = threading.Event()

    def change(connection: sqlite3.Connection) -> None:
        connection.execute("UPDATE calls SET error = 'changed'")
        begun.set()
        time.sleep(0.1)

    changing = threading.Thread(target=outbox.table.database.write, args=[change])
    changing.start()
    assert begun.wait(10)
    child = os.fork()
    if child == 0:  # pragma: no cover - another process
        status = 1
        try:
            outbox.put(NewCall("charge", NOTHING, key="child"))
            status = 0
        finally:
            os._exit(status)
    changing.join()
    assert os.waitpid(child, 0)[1] == 0
    assert [(call.key, call.error) for call in outbox.pending()] == [
        ("parent", "changed"),
        ("child", None),
    ]


def test_what_a_forked_child_puts_is_kept_when_its_parent_closes_the_file(outbox: Outbox) -> None:
    """A parent that thinks that it is alone would delete the log into which the child writes."""
    outbox.put(NewCall("charge", NOTHING, key="parent"))
    (has_put, tell), (closed, go_on) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover - another process
        status = 1
        try:
            outbox.put(NewCall("charge", NOTHING, key="child"))
            os.write(tell, b".")
            os.read(closed, 1)
            outbox.put(NewCall("charge", NOTHING, key="child again"))
            status = 0
        finally:
            os._exit(status)
    os.read(has_put, 1)
    outbox.close()
    os.write(go_on, b".")
    assert os.waitpid(child, 0)[1] == 0
    assert [call.key for call in outbox.pending()] == ["parent", "child", "child again"]
    for descriptor in (has_put, tell, closed, go_on):
        os.close(descriptor)


# Broken rows


@each(
    "statement",
    {
        "arguments": "arguments = 'x'",
        "other amount": "arguments = replace(arguments, '5', '9')",
        "bytes": "arguments = x'ff00fe'",
        "no text": "arguments = cast(x'ff00fe' AS TEXT)",
        "name": "name = 'other'",
        "key": "key = x'00'",
        "queued": "queued = 'yesterday'",
        "checksum": "checksum = 'none'",
        "due": "due = 'never', arguments = 'x'",
        "lease": "leased_until = 'never', arguments = 'x'",
        "attempts": "attempts = 'many', arguments = 'x'",
        "state": "state = 'waitxng'",
    },
)
def test_a_broken_row_is_set_aside_and_blocks_nobody(
    statement: str, make_outbox: MakeOutbox, virtual_time: VirtualTime
) -> None:
    """It becomes a dead letter, is never made, and what was put after it is made."""
    outbox = make_outbox(lease=1, max_pause=10)
    made: list[int] = []

    @with_fallback(queued(outbox, key="{cents}"))
    def charge(cents: int) -> None:
        if not made and cents < 100:
            raise ConnectionError
        made.append(cents)

    charge(5)
    charge(6)
    made.append(0)
    with opened(outbox.path) as file:
        file.execute(f"UPDATE calls SET {statement} WHERE id = 1")
    outbox.drain(timeout=60)
    assert made == [0, 6]
    (dead,) = outbox.dead() or [outbox.find("1")]
    assert dead is not None
    assert dead.error is not None
    assert dead.error.startswith("broken")


@each("wrong", {"due": "due = 'never'", "lease": "leased_until = 'never'", "far": "due = 1e12"})
def test_a_moment_that_never_comes_is_brought_within_reach(
    wrong: str, make_outbox: MakeOutbox, virtual_time: VirtualTime
) -> None:
    """A call whose time only is broken is made all the same."""
    outbox = make_outbox(lease=1, max_pause=10)
    answers = Scripted(ConnectionError, None)

    @with_fallback(queued(outbox))
    def charge() -> None:
        answers()

    charge()
    with opened(outbox.path) as file:
        file.execute(f"UPDATE calls SET {wrong}")
    assert outbox.drain(timeout=60) == 0
    assert answers.calls == 2


# Broken files


def test_a_file_of_something_else_is_left_alone(make_outbox: MakeOutbox) -> None:
    """The error names the file and what to do."""
    outbox = make_outbox("shop.db")
    with opened(outbox.path) as file:
        file.execute("CREATE TABLE orders (id)")
    with pytest.raises(OutboxError, match=r"shop\.db: a database of something else"):
        outbox.put(NewCall("charge", NOTHING))
    with opened(outbox.path) as file:
        assert file.execute("SELECT name FROM sqlite_master").fetchall() == [("orders",)]


def test_a_file_of_something_else_with_a_version_is_left_alone(make_outbox: MakeOutbox) -> None:
    """That others number their versions as well makes no outbox of their file."""
    outbox = make_outbox("shop.db")
    with opened(outbox.path) as file:
        file.execute("PRAGMA user_version = 1")
    with pytest.raises(OutboxError, match=r"shop\.db: a database of something else"):
        outbox.put(NewCall("charge", NOTHING))


def test_a_file_of_a_newer_version_is_left_alone(make_outbox: MakeOutbox) -> None:
    """An old worker in a rolling release does not guess."""
    outbox = make_outbox()
    outbox.put(NewCall("charge", NOTHING))
    with opened(outbox.path) as file:
        file.execute("PRAGMA user_version = 99")
    outbox.close()
    with pytest.raises(OutboxError, match="newer version"):
        outbox.pending()


def test_a_corrupt_file_is_named_with_the_way_out(make_outbox: MakeOutbox) -> None:
    """What is no database is said to be broken, and is not overwritten."""
    outbox = make_outbox()
    outbox.path.write_bytes(b"no database" * 1000)
    with pytest.raises(OutboxError, match=r"outbox\.db: broken .* move it away .* \.recover"):
        outbox.put(NewCall("charge", NOTHING))
    assert eventually(lambda: "broken" in condition_of(outbox).details["output"])
    assert condition_of(outbox).status == "warn"
    outbox.path.rename(outbox.path.with_suffix(".broken"))
    outbox.put(NewCall("charge", NOTHING))


@pytest.mark.parametrize("how", ["moved away", "deleted"])
def test_what_is_put_after_the_file_has_gone_is_in_a_new_one(
    make_outbox: MakeOutbox, how: str
) -> None:
    """A process that still has the old file open acknowledges nothing that no worker will find."""
    outbox = make_outbox()
    outbox.put(NewCall("charge", NOTHING, key="before"))
    for file in outbox.path.parent.glob("outbox.db*"):
        file.unlink() if how == "deleted" else file.rename(file.with_name(f"aside{file.suffix}"))
    outbox.put(NewCall("charge", NOTHING, key="after"))
    assert [call.key for call in make_outbox().pending()] == ["after"]
    if how == "moved away":
        assert [call.key for call in make_outbox("aside.db").pending()] == ["before"]


def test_a_call_is_not_acknowledged_if_the_file_goes_while_it_is_put(
    make_outbox: MakeOutbox,
) -> None:
    """Its caller hears of it, and can do without a receipt."""
    outbox = make_outbox()

    def put(file: sqlite3.Connection) -> None:
        outbox.path.unlink()

    with pytest.raises(OutboxError, match="moved away or deleted"):
        outbox.table.database.write(put)


def condition_of(outbox: Outbox) -> Condition:
    (condition,) = outbox.conditions()
    return condition


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_health_waits_for_no_file_that_hangs(
    make_outbox: MakeOutbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the first question on it is looked at in the background, by one thread at most."""
    outbox = make_outbox()
    outbox.put(NewCall("charge", NOTHING))
    looking, goes_on, depth = threading.Semaphore(0), threading.Event(), outbox.table.depth

    def hang() -> Any:
        looking.release()
        goes_on.wait()
        return depth()

    monkeypatch.setattr(type(outbox.table), "depth", lambda _: hang())
    monkeypatch.setattr(sys.modules[Outbox.__module__], "_FRESH_SECONDS", -1)  # each time anew
    for _ in range(10):
        assert condition_of(outbox).status == "warn"
        assert condition_of(outbox).details["output"] == "not looked at yet"
    looking.acquire()
    child = os.fork()
    if not child:  # where nobody is looking, whoever does in the parent
        condition_of(outbox)
        os._exit(0 if looking.acquire(timeout=10) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not looking.acquire(blocking=False)
    goes_on.set()
    assert eventually(lambda: condition_of(outbox).status == "pass")
    assert condition_of(outbox).details["observedValue"] == 1


def _fill_the_disk(path: Path, answers: Any) -> None:
    outbox = Outbox(path, name="full disk")

    @with_fallback(queued(outbox, name="charge"))
    def charge(text: str) -> None:
        raise ConnectionError

    charge("before")
    most = max(file.stat().st_size for file in path.parent.iterdir())
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        for _ in range(50):
            charge("x" * 3000)
        answers.send("never full")
    except ConnectionError as error:
        answers.send((type(error.__cause__).__name__, str(error.__cause__)))
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    answers.send(charge("after") is not None)
    outbox.close()


def test_a_full_disk_fails_the_put_and_loses_nothing(make_outbox: MakeOutbox) -> None:
    """The caller has its own error; the file is used again as soon as there is room."""
    outbox = make_outbox()
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("spawn").Process(
        target=_fill_the_disk, args=(outbox.path, theirs)
    )
    child.start()
    kind, message = ours.recv()
    assert kind == "OutboxError"
    assert "make room on the disk" in message
    assert ours.recv() is True
    child.join()
    kept = [call.arguments for call in outbox.pending()]
    assert "before" in kept[0]
    assert "after" in kept[-1]
    with opened(outbox.path) as file:
        assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_the_last_room_on_a_disk_is_for_taking_calls_out(
    make_outbox: MakeOutbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outbox that fills its disk could not be emptied any more: it refuses calls before that."""
    outbox = make_outbox()
    disk = SimpleNamespace(total=10**9, free=9 * 1024 * 1024)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: disk)
    outbox.put(NewCall("charge", NOTHING))
    outbox.put(NewCall("charge", NOTHING))
    disk.free = 7 * 1024 * 1024
    with pytest.raises(OutboxError, match=r"7\.3 MB are left on the disk, and the last 8\.4 MB"):
        outbox.put(NewCall("charge", NOTHING))
    for _ in range(2):
        claimed = outbox.table.claim("a worker", ())
        assert claimed is not None
        outbox.table.done(claimed.call)
    assert outbox.pending() == []
    disk.total = 40 * 1024 * 1024
    outbox.put(NewCall("charge", NOTHING))


def test_health_shows_that_calls_are_refused(
    make_outbox: MakeOutbox, virtual_time: VirtualTime
) -> None:
    """A file that can be read and not written is a warning, until a call is kept again."""
    outbox = make_outbox()
    outbox.put(NewCall("charge", NOTHING))

    def shown() -> tuple[str, str]:
        [condition] = outbox.conditions()
        return condition.status, str(condition.details.get("output"))

    assert shown() == ("pass", "None")
    with sqlite3.connect(outbox.path) as file:
        file.execute("CREATE TRIGGER no BEFORE INSERT ON calls BEGIN SELECT raise(FAIL, 'no'); END")
    file.close()
    with pytest.raises(OutboxError):
        outbox.put(NewCall("charge", NOTHING))
    status, output = shown()
    assert (status, "outbox.db: no" in output) == ("warn", True)
    virtual_time.advance(61)
    assert shown() == ("pass", "None")
    with pytest.raises(OutboxError):
        outbox.put(NewCall("charge", NOTHING))
    assert shown()[0] == "warn"
    with sqlite3.connect(outbox.path) as file:
        file.execute("DROP TRIGGER no")
    file.close()
    outbox.put(NewCall("charge", NOTHING))
    assert shown() == ("pass", "None")


def test_a_file_that_others_hold_is_waited_for_and_then_given_up(make_outbox: MakeOutbox) -> None:
    """The patience is the user's; after it the put fails, and the next one may succeed."""
    outbox = make_outbox(patience=0.2)
    outbox.put(NewCall("charge", NOTHING))
    with opened(outbox.path) as other:
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        with pytest.raises(OutboxError, match="locked"):
            outbox.put(NewCall("charge", NOTHING))
        assert 0.1 < time.monotonic() - began < 5
        other.execute("ROLLBACK")
    outbox.put(NewCall("charge", NOTHING))
    assert len(outbox.pending()) == 2


def test_a_file_that_others_hold_before_it_is_an_outbox_is_waited_for_as_well(
    make_outbox: MakeOutbox,
) -> None:
    """To open it for the first time changes it, for which SQLite itself does not wait."""
    outbox = make_outbox(patience=0.05)
    with opened(outbox.path) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(OutboxError, match=r"busy for 0\.05 s"):
            outbox.put(NewCall("charge", NOTHING))
        other.execute("ROLLBACK")
    outbox.put(NewCall("charge", NOTHING))
    assert len(outbox.pending()) == 1


def test_a_thread_that_holds_the_file_is_waited_for_and_then_given_up(
    make_outbox: MakeOutbox,
) -> None:
    """The threads of a process take turns, and wait no longer than for other processes."""
    outbox = make_outbox(patience=0.05)
    outbox.put(NewCall("charge", NOTHING))
    holds, goes_on = threading.Event(), threading.Event()

    def hold(_: sqlite3.Connection) -> None:
        holds.set()
        goes_on.wait(30)

    holder = threading.Thread(target=outbox.table.database.read, args=[hold])
    holder.start()
    try:
        assert holds.wait(30)
        with pytest.raises(OutboxError, match=r"busy for 0\.05 s"):
            outbox.pending()
    finally:
        goes_on.set()
        holder.join()
    assert len(outbox.pending()) == 1


def test_a_signal_handler_does_not_take_part_in_what_it_has_interrupted(outbox: Outbox) -> None:
    """What is put in the midst of another put of this thread is refused, and spoils nothing."""

    def interrupted(file: sqlite3.Connection) -> None:
        with pytest.raises(OutboxError, match="in this very thread"):
            outbox.put(NewCall("charge", NOTHING, key="of the handler"))
        file.execute("UPDATE calls SET key = 'after'")

    outbox.put(NewCall("charge", NOTHING, key="before"))
    outbox.table.database.write(interrupted)
    assert [call.key for call in outbox.pending()] == ["after"]


def test_a_file_that_is_full_is_rolled_back_and_kept_open(outbox: Outbox) -> None:
    """To open it again would take room, too; what its log holds is moved into the file at once."""
    outbox.put(NewCall("charge", NOTHING))
    database, size = outbox.table.database, outbox.path.stat().st_size
    connection = database._connection
    assert connection is not None
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(OutboxError, match="make room on the disk"):
        outbox.put(NewCall("charge", f'"{"x" * 9000}"'))
    assert database._connection is connection
    assert not connection.in_transaction
    assert outbox.path.stat().st_size > size
    connection.execute("PRAGMA max_page_count = 1000000")
    outbox.put(NewCall("charge", f'"{"x" * 9000}"'))
    assert len(outbox.pending()) == 2


def test_a_folder_that_goes_is_told_as_what_it_is(tmp_path: Path) -> None:
    """That the room on its disk cannot be told either is not the trouble."""
    folder = tmp_path / "mounted"
    folder.mkdir()
    outbox = Outbox(folder / "outbox.db", name=f"{tmp_path.name} folder")
    folder.rmdir()
    with pytest.raises(OutboxError, match="unable to open"):
        outbox.put(NewCall("charge", NOTHING))
    folder.mkdir()
    outbox.put(NewCall("charge", NOTHING))
    outbox.close()


# The wall clock


@pytest.fixture
def wall_clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Seconds by which the system's wall clock has been set forward."""
    real = time.time
    step = {"seconds": 0.0}
    monkeypatch.setattr(time, "time", lambda: real() + step["seconds"])
    return step


@each("hours", {"forward": 10, "back": -10})
def test_a_step_of_the_wall_clock_loses_no_call(
    hours: float, make_outbox: MakeOutbox, virtual_time: VirtualTime, wall_clock: dict[str, float]
) -> None:
    """A call that waits for its next attempt is made within the longest pause and a lease."""
    outbox = make_outbox(lease=3, max_pause=10)
    answers = Scripted(ConnectionError, None)

    @with_fallback(queued(outbox))
    def charge() -> None:
        answers()

    charge()
    outbox.table.claim("the dead", ())
    wall_clock["seconds"] = hours * 3600
    began = virtual_time.now()
    assert outbox.drain(timeout=60) == 0
    assert virtual_time.now() - began < 20
    assert answers.calls == 2


def test_a_step_forward_takes_no_call_from_a_worker_that_lives(
    make_outbox: MakeOutbox, virtual_time: VirtualTime, wall_clock: dict[str, float]
) -> None:
    """Leases seem to end all at once; whoever lives has a lease's time to renew its own."""
    outbox = make_outbox(lease=3)
    outbox.put(NewCall("charge", NOTHING))
    assert outbox.table.claim("alive", ()) is not None
    wall_clock["seconds"] = 36_000
    assert outbox.table.claim("other", ()) is None
    outbox.table.renew("alive")
    virtual_time.advance(2.9)
    assert outbox.table.claim("other", ()) is None
    virtual_time.advance(0.2)
    assert outbox.table.claim("other", ()) is not None


def test_a_step_back_takes_no_call_from_a_worker_that_lives(
    make_outbox: MakeOutbox, virtual_time: VirtualTime, wall_clock: dict[str, float]
) -> None:
    """A lease that reaches too far is cut to a whole one, which is renewed in time."""
    outbox = make_outbox(lease=3)
    outbox.put(NewCall("charge", NOTHING))
    assert outbox.table.claim("alive", ()) is not None
    wall_clock["seconds"] = -36_000
    outbox.table.mend()
    virtual_time.advance(1)
    outbox.table.renew("alive")
    virtual_time.advance(2.5)
    assert outbox.table.claim("other", ()) is None


# What operators see


def test_a_call_can_be_dropped_unless_it_is_being_made(outbox: Outbox) -> None:
    """To drop a running call would not stop it."""
    first, second = (outbox.put(NewCall("charge", NOTHING)) for _ in range(2))
    outbox.table.claim("somebody", ())
    assert outbox.drop(first.id) == 0
    assert outbox.drop(second.id) == 1
    assert outbox.drop("77") == 0


def test_a_dead_call_whose_key_waits_anew_stays_dead(outbox: Outbox) -> None:
    """One key is one waiting call, also when an operator brings an old one back."""
    call = NewCall("charge", NOTHING, key="k")
    first = outbox.put(call)
    outbox.table.claim("w", ())
    outbox.table.bury(first.id, "w", "given up")
    second = outbox.put(call)
    assert second.id != first.id
    assert outbox.retry() == 0
    assert outbox.drop() == 1
    assert [one.id for one in outbox.pending()] == [second.id]


def test_metrics_and_health_show_how_full_it_is(make_outbox: MakeOutbox) -> None:
    """Waiting, dead and the oldest; dead calls and too many of them are a warning."""
    outbox = make_outbox(warn_waiting=1)

    def shown() -> tuple[dict[str, float], str]:
        numbers = {
            one.name: float(one.value)  # type: ignore[arg-type]
            for one in all_readings()
            if one.labels == {"outbox": outbox.name}
        }
        (condition,) = [one for one in all_conditions() if one.name == f"{outbox.name}:outbox"]
        return numbers, condition.status

    assert shown() == (
        {"outbox_dead": 0, "outbox_oldest_seconds": 0, "outbox_waiting": 0},
        "pass",
    )
    assert not outbox.path.exists()
    outbox.put(NewCall("charge", NOTHING))
    numbers, status = shown()
    assert (numbers["outbox_waiting"], status) == (1, "pass")
    assert 0 <= numbers["outbox_oldest_seconds"] < 60
    claimed = outbox.table.claim("w", ())
    assert claimed is not None
    outbox.table.bury(claimed.call.id, "w", "given up")
    numbers, status = shown()
    assert (numbers["outbox_waiting"], numbers["outbox_dead"], status) == (0, 1, "warn")


@each(
    "settings",
    {
        "url": {"url": "postgresql://localhost/x"},
        "memory": {"url": "sqlite:///"},
        "folder": {"url": "sqlite:///no/such/folder/outbox.db"},
        "number": {"url": 5},
        "attempts": {"max_attempts": 0},
        "lease": {"lease": 0},
        "patience": {"patience": -1},
        "pause": {"first_pause": -1},
        "most": {"max_pause": float("inf")},
        "waiting": {"warn_waiting": -1},
        "name": {"name": " "},
    },
)
def test_a_wrong_setting_is_told_when_constructing(settings: Any, tmp_path: Path) -> None:
    """With the parameter and what it accepts."""
    given = {"url": tmp_path / "outbox.db"} | settings
    with pytest.raises(InvalidSetting, match=next(iter(settings))):
        Outbox(**given)


@each(
    "file",
    {
        "too long": "x" * 5000,
        "in a folder of too long a name": "x" * 5000 + "/outbox.db",
        "with a character that no name has": "out\0box.db",
        "with half a character": "out\ud800box.db",
    },
)
def test_a_file_that_there_cannot_be_is_told_when_constructing(file: str) -> None:
    """Not when the first call is put, and by an error of ours."""
    with pytest.raises(InvalidSetting, match="the name of a file") as caught:
        Outbox(f"sqlite:///{file}")
    assert caught.value.parameter == "url"


def test_one_may_wait_longer_for_others_than_sqlite_counts(make_outbox: MakeOutbox) -> None:
    """The patience is as long as SQLite can, and the file is used as ever."""
    outbox = make_outbox(patience=1e308)
    outbox.put(NewCall("charge", NOTHING))
    assert len(outbox.pending()) == 1


@each(
    "changes",
    {
        "name": {"name": "\ud800"},
        "arguments": {"arguments": b"{}"},
        "key": {"key": "\ud800"},
        "order": {"ordered_by": 5},
    },
)
def test_a_call_that_is_no_text_is_refused(outbox: Outbox, changes: dict[str, Any]) -> None:
    """It is told by an error of ours, and nothing is kept."""
    with pytest.raises(InvalidSetting, match="call"):
        outbox.put(NewCall(**{"name": "charge", "arguments": NOTHING, **changes}))
    assert outbox.pending() == []


def test_two_outboxes_of_one_name_are_refused(tmp_path: Path) -> None:
    """Their series would be one."""
    outbox = Outbox(tmp_path / "outbox.db", name="the only one")
    with pytest.raises(DuplicateName, match="the only one"):
        Outbox(tmp_path / "other.db", name="the only one")
    outbox.close()
