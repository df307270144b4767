"""A store in one SQLite file: answers survive restarts, and the processes of a host share them."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
import weakref
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TypeVar, final

from resilient.degrade.stores.sealed import wall
from resilient.engine import settings, signals
from resilient.engine.locks import new_lock

__all__ = ["SQLiteStore"]

T = TypeVar("T")

_BUSY_SECONDS = 0.05
_TIDIED_EVERY = 256
#: Seconds that a fork waits for those who use a file just now.
_LONGEST_USE = 0.5
_TABLE = """
CREATE TABLE IF NOT EXISTS answers (
    name TEXT PRIMARY KEY, data BLOB NOT NULL, stored REAL NOT NULL, expires REAL NOT NULL
) WITHOUT ROWID
"""
_BY_AGE = "CREATE INDEX IF NOT EXISTS answers_by_age ON answers (stored)"


@final
class _Opened:
    """A connection, and which file it is to: another may have been put in its place."""

    __slots__ = ("connection", "file")

    def __init__(self, path: Path) -> None:
        # Used by one thread at a time, not always the same.
        connection = sqlite3.connect(
            path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute(_TABLE)
            connection.execute(_BY_AGE)
        except BaseException:
            connection.close()
            raise
        self.connection = connection
        self.file = _file(path)


@final
class SQLiteStore:
    """Keeps answers in one file, which several processes of a host may use at once.

    A file that turns out to be corrupt is moved aside, and a new one begun. What was written last
    may be lost when the machine (not the process) dies.

    Arguments:
        path: The file; its folder must be there.
        max_entries: The most answers that are kept, about; those stored longest ago go first.
        name: The label of its metrics.

    Raises:
        InvalidSetting: If an argument is outside of its range.

    Example:
        >>> import pathlib, tempfile
        >>> from resilient import SQLiteStore, cached, with_fallback
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> @with_fallback(cached(ttl=3600, store=SQLiteStore(folder / "answers.db")))
        ... def price(item: str) -> int:
        ...     return 12
        >>> price("book")
        12
    """

    def __init__(
        self, path: str | Path, *, max_entries: int = 100_000, name: str = "sqlite"
    ) -> None:
        if isinstance(path, os.PathLike):
            path = os.fspath(path)
        self.path = Path(settings.text("path", path))
        self.max_entries = settings.count("max_entries", max_entries)
        self.name = settings.text("name", name)
        self._free: list[_Opened] = []
        #: One mark for each connection in use; held until a fork is over, the gate lets nobody in.
        self._used: list[None] = []
        self._gate = new_lock()
        self._is_forking = False
        self._moving = new_lock()
        self._puts = 0
        _stores.add(self)
        # At the end of the process there may still be something to write.
        weakref.finalize(self, _close, self._free).atexit = False

    def __repr__(self) -> str:
        return f"SQLiteStore({str(self.path)!r})"

    def get(self, name: str) -> bytes | None:
        """Return the bytes under `name`, or None."""

        def read(connection: sqlite3.Connection) -> bytes | None:
            query = "SELECT data FROM answers WHERE name = ? AND expires >= ?"
            row = connection.execute(query, (name, wall())).fetchone()
            return None if row is None else row[0]

        return self._with_connection(read)

    def put(self, name: str, data: bytes, ttl: float) -> None:
        """Keep `data` under `name` for `ttl` seconds."""
        now = wall()
        self._puts += 1

        def write(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)", (name, data, now, now + ttl)
            )
            if self._puts % _TIDIED_EVERY == 1:
                self._tidy(connection, now)

        self._with_connection(write)

    def delete(self, name: str) -> None:
        """Forget what is under `name`."""
        self._with_connection(
            lambda connection: connection.execute("DELETE FROM answers WHERE name = ?", (name,))
        )

    def close(self) -> None:
        """Close what is open; the next use opens it again."""
        _close(self._free)

    def _tidy(self, connection: sqlite3.Connection, now: float) -> None:
        connection.execute("DELETE FROM answers WHERE expires < ?", (now,))
        (held,) = connection.execute("SELECT count(*) FROM answers").fetchone()
        if held > self.max_entries:
            connection.execute(
                "DELETE FROM answers WHERE name IN "
                "(SELECT name FROM answers ORDER BY stored LIMIT ?)",
                (held - self.max_entries,),
            )

    def _with_connection(self, use: Callable[[sqlite3.Connection], T]) -> T:
        for _ in range(2):
            try:
                with self._connection() as connection:
                    return use(connection)
            except sqlite3.OperationalError:
                raise  # busy, full, gone: the file itself is well
            except sqlite3.DatabaseError:
                self._move_aside()
        with self._connection() as connection:
            return use(connection)

    @contextlib.contextmanager
    def _connection(self) -> Generator[sqlite3.Connection]:
        with self._gate:
            self._used.append(None)
        try:
            with self._one_of_the_free() as connection:
                yield connection
        finally:
            self._used.pop()

    @contextlib.contextmanager
    def _one_of_the_free(self) -> Generator[sqlite3.Connection]:
        try:
            opened = self._free.pop()
        except IndexError:
            opened = None
        if opened is not None and opened.file != _file(self.path):
            opened.connection.close()  # moved aside, or deleted
            opened = None
        if opened is None:
            opened = _Opened(self.path)
        try:
            yield opened.connection
        except BaseException:
            opened.connection.close()
            raise
        self._free.append(opened)

    def _move_aside(self) -> None:
        """Put a corrupt file where somebody can look at it, unless another one has done so."""
        with self._moving:
            if self._is_sound():
                return
            self.close()
            number = 1
            while (aside := Path(f"{self.path}.corrupt-{number}")).exists():
                number += 1
            for suffix in ("", "-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    Path(f"{self.path}{suffix}").rename(f"{aside}{suffix}")
        signals.emit("resilient.store_replaced", store=self.name, kept_as=aside.name)

    def _is_sound(self) -> bool:
        try:
            opened = _Opened(self.path)
        except sqlite3.OperationalError:
            return True
        except sqlite3.DatabaseError:
            return False
        try:
            (found,) = opened.connection.execute("PRAGMA quick_check(1)").fetchone()
        except sqlite3.DatabaseError:
            return False
        finally:
            opened.connection.close()
        return bool(found == "ok")

    def _before_fork(self) -> None:
        """Close what is open, as soon as nobody uses it.

        SQLite remembers in memory what a process has locked: a child would find locked for ever
        what another thread was changing, and would write where its parent may delete.
        """
        until = time.monotonic() + _LONGEST_USE
        self._is_forking = self._gate.acquire(timeout=_LONGEST_USE)
        while self._used and time.monotonic() < until:
            time.sleep(0.001)
        self.close()

    def _after_fork_in_parent(self) -> None:
        if self._is_forking:
            self._is_forking = False
            self._gate.release()

    def _leave_to_parent(self) -> None:
        # SQLite's connections must neither be used nor closed on the other side of a fork.
        self._is_forking = False
        self._used.clear()
        _parents.extend(self._free)
        self._free.clear()


def _close(free: list[_Opened]) -> None:
    while free:
        free.pop().connection.close()


def _file(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


_stores: weakref.WeakSet[SQLiteStore] = weakref.WeakSet()
_parents: list[_Opened] = []


def _leave_all_to_parent() -> None:
    for store in list(_stores):
        store._leave_to_parent()


def _close_all() -> None:
    for store in list(_stores):
        store._before_fork()


def _go_on_in_all() -> None:
    for store in list(_stores):
        store._after_fork_in_parent()


os.register_at_fork(
    before=_close_all, after_in_parent=_go_on_in_all, after_in_child=_leave_all_to_parent
)
