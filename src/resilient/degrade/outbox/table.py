"""The calls in the file: put, claimed, done, put off, buried.

Times in the file are of the wall clock, because rows outlive the process and are read by others,
and only the wall clock means the same to all of them. It may be set forward and back: see `mend`
for what is too far ahead, and `claim` for leases that seem to have ended all at once.
"""

from __future__ import annotations

import json
import sqlite3
import time
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from math import inf
from typing import Any, Literal, final

from resilient.degrade.outbox.calls import NewCall, QueuedCall, Receipt
from resilient.degrade.outbox.database import Database
from resilient.engine import clock

__all__ = ["Claimed", "Depth", "Table", "wall"]

_COLUMNS = (
    "id, name, key, ordered_by, arguments, queued, checksum, state, due, attempts, "
    "leased_until, error"
)
#: Neither held back by its name, nor by an earlier call that it has to come after.
_MAY_BE_MADE = """
    name NOT IN (SELECT value FROM json_each(:held))
    AND (ordered_by IS NULL OR NOT EXISTS (
        SELECT 1 FROM calls AS earlier WHERE earlier.ordered_by = one.ordered_by
        AND earlier.state = 'waiting' AND earlier.id < one.id
    ))
"""
#: A step of the wall clock by fewer seconds than this cannot be told from its being adjusted.
_STEP = 1.0


def wall() -> float:
    """Return the seconds since 1970; in virtual time they pass as that does."""
    return time.time() if clock.current is clock.system else clock.now() + _steady_offset()


def _wall_offset() -> float:
    return time.time() - time.monotonic()


_offset = -inf


def _steady_offset() -> float:
    """Return the same until the wall clock is set: two clocks are never read at one moment."""
    global _offset
    found = _wall_offset()
    if abs(found - _offset) >= _STEP:
        _offset = found
    return _offset


@dataclass(frozen=True, slots=True)
class Claimed:
    """A call that is one's own to make until its lease ends; `broken` says why it cannot be."""

    call: QueuedCall
    broken: str | None


@dataclass(frozen=True, slots=True)
class Depth:
    """How many calls wait, since when the oldest does, how many are dead, and when that was so."""

    waiting: int
    dead: int
    oldest: float | None
    read: float

    @property
    def oldest_age(self) -> float:
        """How many seconds the oldest has waited; 0 if none waits."""
        return 0.0 if self.oldest is None else max(0.0, wall() - self.oldest)


@final
class Table:
    """What happens to calls; each method is one transaction."""

    def __init__(self, database: Database, *, lease: float, max_pause: float) -> None:
        self.database = database
        self.lease = lease
        self.max_pause = max_pause
        self._offset = _wall_offset()
        self._distrust_until = 0.0

    def put(self, call: NewCall) -> tuple[Receipt, bool]:
        """Keep `call`; return its receipt, or that of the one whose key waits, and which it is."""
        self.database.check_room()
        return self.database.write(lambda file: _put(file, call))

    def claim(self, owner: str, held: Collection[str]) -> Claimed | None:
        """Return the call that is due first, if there is one, as `owner`'s for the next lease.

        Those named in `held` are left alone.
        """
        query = f"""
            SELECT {_COLUMNS} FROM calls AS one WHERE state = 'waiting' AND due <= :now
            AND (leased_until IS NULL OR (leased_until <= :now AND :trusting))
            AND {_MAY_BE_MADE} ORDER BY due, id LIMIT 1
        """  # noqa: S608 - the columns are a constant
        # Leases may have ended only because the clock was set forward: whoever lives renews them.
        offset = _wall_offset()
        if abs(offset - self._offset) > _STEP:
            self._offset, self._distrust_until = offset, clock.now() + self.lease
        now = wall()
        which = {
            "now": now,
            "held": json.dumps(list(held)),
            "trusting": clock.now() >= self._distrust_until,
        }
        # Most of the time nothing is due; to find that out takes no lock that others wait for.
        if not self.database.read(lambda file: file.execute(query, which).fetchone()):
            return None
        return self.database.write(lambda file: self._claim(file, query, which, owner))

    def _claim(
        self, connection: sqlite3.Connection, query: str, which: dict[str, Any], owner: str
    ) -> Claimed | None:
        row = connection.execute(query, which).fetchone()
        if row is None:
            return None
        call, broken = _decoded(row)
        lease = {"id": row[0], "owner": owner, "lease": self.lease, "until": wall() + self.lease}
        connection.execute(
            "UPDATE calls SET owner = :owner, lease = :lease, leased_until = :until, "
            # Counted before the call is made: one that kills its worker must not do so for ever.
            "attempts = CASE typeof(attempts) WHEN 'integer' THEN attempts + 1 ELSE 1 END "
            "WHERE id = :id",
            lease,
        )
        return Claimed(call, broken)

    def renew(self, owner: str) -> None:
        """Have all leases of `owner` begin anew."""
        until = wall() + self.lease
        self.database.write(
            lambda file: file.execute(
                "UPDATE calls SET leased_until = ? WHERE owner = ?", (until, owner)
            )
        )

    def mend(self) -> None:
        """Bring within reach what no worker would ever come to.

        After the wall clock was set back, moments lie further ahead than any pause or lease goes.
        The living renew a lease that is cut here before it ends. What a broken disk has written
        over is ahead of everything as well: for SQLite, texts are greater than numbers.
        """
        now = {"now": wall(), "pause": self.max_pause, "lease": self.lease}

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(
                "UPDATE calls SET due = :now WHERE state = 'waiting' AND due > :now + :pause", now
            )
            connection.execute(
                "UPDATE calls SET leased_until = :now + coalesce(lease, :lease) WHERE state = "
                "'waiting' AND leased_until > :now + coalesce(lease, :lease)",
                now,
            )
            connection.execute(
                "UPDATE calls SET state = 'dead', error = 'broken: unknown state' "
                "WHERE state NOT IN ('waiting', 'dead')"
            )

        self.database.write(work)

    def done(self, call: QueuedCall) -> None:
        """Take out a call that was made, whoever holds its lease by now.

        In a file that was begun anew meanwhile, another call may have its number.
        """
        self._change(
            "DELETE FROM calls WHERE id = :id AND abs(queued - :queued) < 0.001",
            id=call.id,
            queued=call.queued.timestamp(),
        )

    def put_off(self, call_id: str, owner: str, seconds: float, error: str) -> None:
        """Have a call made again some time from now."""
        self._change(
            "UPDATE calls SET owner = NULL, leased_until = NULL, due = :due, error = :error "
            "WHERE id = :id AND owner = :owner",
            id=call_id,
            owner=owner,
            due=wall() + seconds,
            error=error,
        )

    def give_back(self, call_id: str, owner: str, after: float | None = None) -> None:
        """Undo a claim: the call has not been made; `after` so many seconds it is due again."""
        self._change(
            "UPDATE calls SET owner = NULL, leased_until = NULL, attempts = attempts - 1, "
            "due = coalesce(:due, due) WHERE id = :id AND owner = :owner",
            id=call_id,
            owner=owner,
            due=None if after is None else wall() + after,
        )

    def bury(self, call_id: str, owner: str, error: str) -> None:
        """Set a call aside, not to be made again unless somebody asks for it."""
        self._change(
            "UPDATE calls SET state = 'dead', owner = NULL, leased_until = NULL, error = :error "
            "WHERE id = :id AND owner = :owner",
            id=call_id,
            owner=owner,
            error=error,
        )

    def revive(self, call_id: str | None = None) -> int:
        """Have a dead call made again, or all; one whose key waits anew stays dead."""
        return self._change(
            "UPDATE OR IGNORE calls SET state = 'waiting', attempts = 0, due = :now "
            "WHERE state = 'dead' AND (:id IS NULL OR id = :id)",
            id=call_id,
            now=wall(),
        )

    def drop(self, call_id: str | None = None) -> int:
        """Delete a call that is not being made, or all dead ones; return how many that were."""
        return self._change(
            "DELETE FROM calls WHERE CASE WHEN :id IS NULL THEN state = 'dead' "
            "ELSE id = :id AND (state = 'dead' OR coalesce(leased_until, 0) <= :now) END",
            id=call_id,
            now=wall(),
        )

    def calls(self, state: str, most: int) -> list[QueuedCall]:
        """Return the calls in that state, the oldest first."""
        query = f"SELECT {_COLUMNS} FROM calls WHERE state = ? ORDER BY id LIMIT ?"  # noqa: S608
        rows = self.database.read(lambda file: file.execute(query, (state, most)).fetchall())
        return [_decoded(row)[0] for row in rows]

    def find(self, call_id: str) -> QueuedCall | None:
        """Return one call, or None if it is not there."""
        query = f"SELECT {_COLUMNS} FROM calls WHERE id = ?"  # noqa: S608
        row = self.database.read(lambda file: file.execute(query, (call_id,)).fetchone())
        return None if row is None else _decoded(row)[0]

    def next_due(self, held: Collection[str]) -> float | None:
        """Return in how many seconds a call may be due that nobody is making, or None."""
        query = f"""
            SELECT min(due) FROM calls AS one WHERE state = 'waiting' AND leased_until IS NULL
            AND {_MAY_BE_MADE}
        """  # noqa: S608
        which = {"held": json.dumps(list(held))}
        (due,) = self.database.read(lambda file: file.execute(query, which).fetchone())
        return max(0.0, due - wall()) if isinstance(due, float) else None

    def depth(self) -> Depth:
        """Count what is there."""
        query = "SELECT state, count(*), min(queued) FROM calls GROUP BY state"
        rows = self.database.read(lambda file: file.execute(query).fetchall())
        counts = {state: (count, oldest) for state, count, oldest in rows}
        waiting, oldest = counts.get("waiting", (0, None))
        oldest = oldest if isinstance(oldest, float) else None
        return Depth(waiting, counts.get("dead", (0, None))[0], oldest, clock.now())

    def _change(self, statement: str, **values: object) -> int:
        return self.database.write(lambda file: file.execute(statement, values).rowcount)


def _put(connection: sqlite3.Connection, call: NewCall) -> tuple[Receipt, bool]:
    queued = wall()
    what = (call.name, call.key, call.ordered_by, call.arguments, queued)
    inserted = connection.execute(
        "INSERT INTO calls (name, key, ordered_by, arguments, queued, checksum, due) "
        "VALUES (?, ?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (name, key) WHERE state = 'waiting' AND key IS NOT NULL DO NOTHING",
        (*what, _checksum(*what), queued),
    )
    call_id, is_new = inserted.lastrowid, inserted.rowcount == 1
    if not is_new:
        call_id, queued = connection.execute(
            "SELECT id, queued FROM calls WHERE name = ? AND key = ? AND state = 'waiting'",
            (call.name, call.key),
        ).fetchone()
    return Receipt(str(call_id), call.name, call.key, _moment(queued)), is_new


def _checksum(*what: object) -> int:
    return zlib.crc32(json.dumps(what).encode())


def _decoded(row: tuple[Any, ...]) -> tuple[QueuedCall, str | None]:
    """Return the call in a row, as far as it can be read, and what is wrong with the row."""
    number, name, key, order, arguments, queued, checksum, state, due, attempts, until, error = row
    broken = None
    try:
        if _checksum(name, key, order, arguments, queued) != checksum:
            broken = "broken: it is not what was put"
    except TypeError:  # a column that holds bytes
        broken = "broken: it is not what was put"
    is_leased = isinstance(until, int | float) and until > wall()
    shown: Literal["waiting", "running", "dead"]
    shown = "dead" if state != "waiting" else "running" if is_leased else "waiting"
    call = QueuedCall(
        str(number),
        str(name),
        str(arguments),
        None if key is None else str(key),
        None if order is None else str(order),
        _moment(queued),
        shown,
        _moment(due),
        attempts if isinstance(attempts, int) else 0,
        None if error is None else str(error),
    )
    return call, broken


def _moment(seconds: object) -> datetime:
    try:
        return datetime.fromtimestamp(float(seconds), UTC)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError, OSError):  # of a broken row
        return datetime.fromtimestamp(0, UTC)
