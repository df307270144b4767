"""One SQLite file, for many threads and processes.

A connection keeps to the file that it was opened with, wherever that goes. What is written after
somebody has moved it away would be acknowledged and found by no worker, so this is looked at before
and after each use.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar, final

from resilient.engine import clock
from resilient.engine.locks import new_lock
from resilient.engine.weak import WeakGroup
from resilient.errors import OutboxError

__all__ = ["Database"]

T = TypeVar("T")

#: Says in the file's header that it is one of ours: "rsob".
APPLICATION = 0x72736F62
VERSION = 1
SCHEMA = (
    """
    CREATE TABLE calls (
        id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used again: callers hold it as a receipt
        name TEXT NOT NULL,
        key TEXT,
        ordered_by TEXT,
        arguments TEXT NOT NULL,
        queued REAL NOT NULL,
        checksum INTEGER NOT NULL,             -- of all of the above
        state TEXT NOT NULL DEFAULT 'waiting', -- or 'dead'
        due REAL NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0,
        owner TEXT,                            -- who is making the call now
        lease REAL,                            -- for how many seconds at a time
        leased_until REAL,
        error TEXT
    )
    """,
    "CREATE INDEX calls_due ON calls (state, due, id)",
    """
    CREATE UNIQUE INDEX calls_once ON calls (name, key)
    WHERE state = 'waiting' AND key IS NOT NULL
    """,
    """
    CREATE INDEX calls_ordered ON calls (ordered_by, id)
    WHERE state = 'waiting' AND ordered_by IS NOT NULL
    """,
    f"PRAGMA application_id = {APPLICATION}",
    f"PRAGMA user_version = {VERSION}",
)

#: So much of a disk is left to those who take calls out, in bytes, and at most such a part of it.
#: In half of it fits the log of changes, until it is begun anew; then the file may grow as much.
RESERVE, RESERVED_PART = 8 * 1024 * 1024, 1 / 8
_PAGE = 4096
#: SQLite counts milliseconds, in 31 bits.
_MOST_PATIENCE = 1e6
#: With so many times the reserve free, it is looked at once a second.
PLENTY = 16

#: Connections of a parent process. To use or to close one here could break the parent's locks.
_inherited: list[sqlite3.Connection] = []


@final
class Database:
    """A connection that is opened when it is needed, and again after every failure.

    Attributes:
        path: The file.
        patience: The most seconds to wait for other threads and processes.
    """

    def __init__(self, path: Path, patience: float) -> None:
        self.path = path
        self.patience = min(patience, _MOST_PATIENCE)
        self._lock = new_lock()
        self._connection: sqlite3.Connection | None = None
        self._process = 0
        self._file: tuple[int, int] | None = None
        self._roomy_until = 0.0
        #: Whether the lock is held until a fork is over.
        self._is_forking = False
        _databases.add(self)

    def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Return what `work` finds in the file.

        Raises:
            OutboxError: If the file cannot be read.
        """
        return self._run(work, "BEGIN")

    def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Return what `work` comes to, once all that it has changed is on the disk.

        Raises:
            OutboxError: If it is not; then nothing has changed.
        """
        return self._run(work, "BEGIN IMMEDIATE")

    def check_room(self) -> None:
        """Make sure that what is added now leaves room for what takes it out again.

        Raises:
            OutboxError: If it does not.
        """
        now = clock.system.now()
        if now < self._roomy_until:
            return
        free, reserve = _room(self.path)
        if free > reserve * PLENTY:
            self._roomy_until = now + 1.0
        if free < reserve:
            raise OutboxError(
                f"{self.path}: {free / 1e6:.1f} MB are left on the disk, and the last "
                f"{reserve / 1e6:.1f} MB are for taking calls out; make room, nothing that was "
                "acknowledged is lost"
            )

    def close(self) -> None:
        """Close the file; it is opened again when it is needed."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is None:
                return
            if self._process == os.getpid():
                connection.close()
            else:
                _inherited.append(connection)

    def __del__(self) -> None:
        try:
            self.close()
        except Exception:  # at the end of the interpreter, when half of it is gone
            return

    def _run(self, work: Callable[[sqlite3.Connection], T], begin: str) -> T:
        if not self._lock.acquire(timeout=self.patience):
            raise OutboxError(f"{self.path}: busy for {self.patience:g} s")
        try:
            connection = self._opened()
            if connection.in_transaction:
                raise OutboxError(f"{self.path}: busy in this very thread, which was interrupted")
            try:
                connection.execute(begin)
                result = work(connection)
                connection.execute("COMMIT")
                if _file(self.path) != self._file:  # nobody will find there what was written
                    raise OutboxError(f"{self.path}: moved away or deleted while it was in use")
            except sqlite3.Error:
                raise
            except BaseException:
                connection.rollback()
                raise
            return result
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):
                self._put_right(error)
            raise OutboxError(f"{self.path}: {_explained(error)}") from error
        finally:
            if self._is_forking:  # what else is done before a fork may look in here
                self.close()
            self._lock.release()

    def _before_fork(self) -> None:
        """Close the file, in the midst of nobody's use of it.

        SQLite remembers in memory what a process has locked. In a child, that would be the locks of
        its parent: taken for ever, if a thread was changing something just then; and taken for its
        own, so that the parent may delete the log of changes while the child writes into it.
        """
        if not self._lock.acquire(timeout=self.patience):
            return
        self._is_forking = True
        connection = self._connection
        if connection is not None and not connection.in_transaction:  # of this very thread
            with suppress(sqlite3.Error):
                self.close()

    def _after_fork_in_parent(self) -> None:
        if self._is_forking:
            self._is_forking = False
            self._lock.release()

    def _after_fork_in_child(self) -> None:
        self._is_forking = False  # the lock is free, as all of ours are after a fork

    def _put_right(self, error: sqlite3.Error) -> None:
        """Have the next use find the file as it was before the one that failed."""
        if "full" not in str(error) or self._connection is None:
            self.close()  # whatever state it is in, SQLite puts it right when it is opened again
            return
        # To open it again takes room as well. What there is of that is for the file, after which
        # its log can begin anew; to let the log grow first could leave none for the file.
        self._connection.rollback()
        self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    def _opened(self) -> sqlite3.Connection:
        if self._connection is not None and (
            self._process != os.getpid() or self._file != _file(self.path)
        ):
            self.close()
        if self._connection is None:
            until = clock.system.now() + self.patience
            while (opened := _open(self.path, self.patience)) is None:
                if clock.system.now() >= until:
                    raise OutboxError(f"{self.path}: busy for {self.patience:g} s")
                clock.system.sleep(0.01)
            self._connection, self._process = opened, os.getpid()
            self._file = _file(self.path)
        return self._connection


_databases: WeakGroup[Database] = WeakGroup()


def _before_fork() -> None:
    for one in _databases:
        one._before_fork()


def _after_fork_in_parent() -> None:
    for one in _databases:
        one._after_fork_in_parent()


def _after_fork_in_child() -> None:
    for one in _databases:
        one._after_fork_in_child()


os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)


def _file(path: Path) -> tuple[int, int] | None:
    """Return which file is there: another may have been put in the place of one that is open."""
    try:
        status = os.stat(path)  # noqa: PTH116 - at each put, where it takes half of the time
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _room(path: Path) -> tuple[int, int]:
    """Return how many bytes are free on the disk, and how many of them are not for new calls."""
    try:
        disk = shutil.disk_usage(path.parent)
    except OSError:  # what is wrong, SQLite says
        return RESERVE, RESERVE
    return disk.free, min(RESERVE, int(disk.total * RESERVED_PART))


def _open(path: Path, patience: float) -> sqlite3.Connection | None:
    """Return a connection to the file, made if there is none, or None if others are opening it."""
    connection = sqlite3.connect(
        path, timeout=patience, isolation_level=None, check_same_thread=False
    )
    try:
        # What is no text any more is a broken row, for the checksum to find; no reason to stop.
        connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
        connection.execute("PRAGMA journal_mode = WAL")
        # On the disk before it is acknowledged; WAL alone would lose the last ones to a power cut.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA fullfsync = ON")
        connection.execute(f"PRAGMA wal_autocheckpoint = {max(8, _room(path)[1] // 2 // _PAGE)}")
        _prepare(connection, path)
    except BaseException as error:
        connection.close()
        # The change to WAL does not wait for others, as everything else does.
        if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
            return None
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == 0:
        connection.execute("BEGIN IMMEDIATE")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if version == 0 and tables:
            raise OutboxError(f"{path}: a database of something else; give the outbox its own file")
        if version == 0:
            for statement in SCHEMA:
                connection.execute(statement)
        connection.execute("COMMIT")
        return
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if application != APPLICATION:
        raise OutboxError(f"{path}: a database of something else; give the outbox its own file")
    if version > VERSION:
        raise OutboxError(
            f"{path}: written by a newer version of resilient-calls (schema {version}, this one "
            f"knows {VERSION}); upgrade this process"
        )


def _explained(error: sqlite3.Error) -> str:
    """Say what is wrong with the file, and the way out."""
    message = str(error)
    if "malformed" in message or "not a database" in message:
        return (
            f"broken ({message}). Stop all who use it, move it away together with its -wal and "
            "-shm files, and start again: a new one is made. What can still be read of the old "
            "one, `sqlite3 FILE .recover` prints"
        )
    if "full" in message or "disk I/O" in message:
        return f"{message}; make room on the disk, nothing that was acknowledged is lost"
    if "unable to open" in message or "readonly" in message:
        return f"{message}; this process must be able to write the file and its folder"
    return message
