"""The outbox's table, and a model of it: which call is whose, which is due, and what is lost.

A worker that is killed is one of which nothing is heard any more: the steps of its work are the
rules of the machine, so it may be killed between any two of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from resilient import NewCall, QueuedCall
from resilient.degrade.outbox.database import Database
from resilient.degrade.outbox.table import Table
from resilient.testing import VirtualTime
from tests.generated import examples

#: Between two actions, so that no two moments are one: what the file holds are moments of the wall
#: clock, which virtual time follows to a microsecond.
TICK = 0.01
LEASE = 10.0 + TICK / 2
MAX_PAUSE = 100.0


@dataclass
class Kept:
    """A call in the model's outbox."""

    id: str
    name: str
    key: str | None
    order: str | None
    due: float
    dead: bool = False
    owner: str | None = None
    leased_until: float = 0.0
    attempts: int = 0
    error: str | None = None


@dataclass
class Model:
    """What the page says of an outbox."""

    calls: list[Kept] = field(default_factory=list)

    def find(self, call_id: str) -> Kept | None:
        return next((one for one in self.calls if one.id == call_id), None)

    def same_key(self, name: str, key: str | None) -> Kept | None:
        """The call that another one with that key is."""
        return next(
            (
                one
                for one in self.calls
                if key is not None and (one.name, one.key, one.dead) == (name, key, False)
            ),
            None,
        )

    def claimable(self, now: float, held: set[str]) -> Kept | None:
        """The one that is due first of those that nobody makes and that need not wait."""
        waiting = [one for one in self.calls if not one.dead]
        free = [
            one
            for place, one in enumerate(waiting)
            if one.due <= now
            and (one.owner is None or one.leased_until <= now)
            and one.name not in held
            and not any(one.order is not None and one.order == b.order for b in waiting[:place])
        ]
        return min(free, key=lambda one: one.due, default=None)

    def owned(self, call_id: str, owner: str) -> Kept | None:
        """The call, if `owner` may still say what it came to."""
        call = self.find(call_id)
        return call if call is not None and call.owner == owner else None


class Tables(RuleBasedStateMachine):
    """The real table, in a real file, and the model, through the same steps."""

    path: ClassVar[Path]
    #: One file and one connection for all examples: each begins with none of the calls.
    database: ClassVar[Database]

    def __init__(self) -> None:
        super().__init__()
        self.time = VirtualTime(start=100_000.0)
        self.time.__enter__()
        self.model = Model()
        self.table = Table(self.database, lease=LEASE, max_pause=MAX_PAUSE)
        self.table.database.write(lambda file: file.execute("DELETE FROM calls"))
        #: What each worker knows it has claimed.
        self.held: dict[str, list[QueuedCall]] = {"first": [], "second": []}
        self.acknowledged: set[str] = set()
        self.settled: set[str] = set()

    @initialize()
    def begun(self) -> None:
        self.same()

    def tick(self) -> float:
        self.time.advance(TICK)
        return self.time.now()

    def same(self) -> None:
        """Compare all that there is to see."""
        now, model = self.time.now(), self.model
        for state, dead in (("waiting", False), ("dead", True)):
            shown = self.table.calls(state, 100)
            expected = [one for one in model.calls if one.dead is dead]
            assert [
                (one.id, one.name, one.key, one.ordered_by, one.state, one.attempts, one.error)
                for one in shown
            ] == [
                (
                    one.id,
                    one.name,
                    one.key,
                    one.order,
                    "dead" if dead else "running" if one.leased_until > now else "waiting",
                    one.attempts,
                    one.error,
                )
                for one in expected
            ]
        depth = self.table.depth()
        assert depth.waiting == sum(not one.dead for one in model.calls)
        assert depth.dead == sum(one.dead for one in model.calls)
        # What was acknowledged is there, or it was made or dropped: it is never lost.
        assert self.acknowledged - self.settled == {one.id for one in model.calls}

    @rule(
        name=st.sampled_from(["pay", "mail"]),
        key=st.sampled_from([None, None, "k1", "k2"]),
        order=st.sampled_from([None, "o1", "o2"]),
    )
    def put(self, name: str, key: str | None, order: str | None) -> None:
        now = self.tick()
        receipt, is_new = self.table.put(NewCall(name, "{}", key, order))
        known = self.model.same_key(name, key)
        assert is_new == (known is None)
        if known is None:
            assert receipt.id not in self.acknowledged  # a number is never used again
            self.model.calls.append(Kept(receipt.id, name, key, order, due=now))
            self.acknowledged.add(receipt.id)
        else:
            assert receipt.id == known.id
        self.same()

    @rule(owner=st.sampled_from(["first", "second"]), held=st.sampled_from([set(), {"pay"}]))
    def claim(self, owner: str, held: set[str]) -> None:
        now = self.tick()
        claimed, expected = self.table.claim(owner, held), self.model.claimable(now, held)
        if expected is None:
            assert claimed is None
            return
        assert claimed is not None
        assert (claimed.call.id, claimed.broken) == (expected.id, None)
        assert claimed.call.attempts == expected.attempts
        expected.owner, expected.leased_until = owner, now + LEASE
        expected.attempts += 1
        self.held[owner].append(claimed.call)
        self.same()

    @precondition(lambda self: any(self.held.values()))
    @rule(
        which=st.integers(0, 9),
        how=st.sampled_from(["done", "put off", "put off", "given back", "buried"]),
        pause=st.sampled_from([0.0, 3.0 + TICK / 2, 50.0 + TICK / 2]),
    )
    def come_to(self, which: int, how: str, pause: float) -> None:
        """Whoever has claimed a call says what it came to, maybe long after its lease."""
        now = self.tick()
        claims = [(owner, one) for owner, those in self.held.items() for one in those]
        owner, call = claims[which % len(claims)]
        call_id = call.id
        self.held[owner].remove(call)
        # A note counts if the call is still one's own, but what was made, was made.
        mine = self.model.owned(call_id, owner)
        if how == "done":
            self.table.done(call)
            self.remove(call_id)
        elif how == "put off":
            self.table.put_off(call_id, owner, pause, "failed")
            if mine is not None:
                mine.owner, mine.leased_until = None, 0.0
                mine.due, mine.error = now + pause, "failed"
        elif how == "given back":
            self.table.give_back(call_id, owner, pause or None)
            if mine is not None:
                mine.owner, mine.leased_until = None, 0.0
                mine.attempts -= 1
                mine.due = now + pause if pause else mine.due
        else:
            self.table.bury(call_id, owner, "given up")
            if mine is not None:
                mine.owner, mine.leased_until = None, 0.0
                mine.dead, mine.error = True, "given up"
        self.same()

    def remove(self, call_id: str) -> None:
        self.model.calls = [one for one in self.model.calls if one.id != call_id]
        self.settled.add(call_id)

    @rule(owner=st.sampled_from(["first", "second"]))
    def renew(self, owner: str) -> None:
        now = self.tick()
        self.table.renew(owner)
        for one in self.model.calls:
            if one.owner == owner:
                one.leased_until = now + LEASE
        self.same()

    @rule(owner=st.sampled_from(["first", "second"]))
    def kill(self, owner: str) -> None:
        """Its claims are nobody's from the end of their leases on."""
        self.held[owner].clear()

    @rule()
    def mend(self) -> None:
        """Nothing is out of reach, so nothing changes."""
        self.tick()
        self.table.mend()
        self.same()

    @precondition(lambda self: any(one.dead for one in self.model.calls))
    @rule(which=st.none() | st.integers(0, 9))
    def revive(self, which: int | None) -> None:
        now = self.tick()
        dead = [one for one in self.model.calls if one.dead]
        chosen = dead if which is None else [dead[which % len(dead)]]
        revived = 0
        for one in chosen:
            if self.model.same_key(one.name, one.key) is None:
                one.dead, one.attempts, one.due = False, 0, now
                revived += 1
        assert self.table.revive(None if which is None else chosen[0].id) == revived
        self.same()

    @precondition(lambda self: self.model.calls)
    @rule(which=st.none() | st.integers(0, 9))
    def drop(self, which: int | None) -> None:
        """All that are dead, or one that nobody is making."""
        now = self.tick()
        calls = self.model.calls
        if which is None:
            chosen, gone = None, [one for one in calls if one.dead]
        else:
            one = calls[which % len(calls)]
            chosen, gone = one.id, [one] if one.dead or one.leased_until <= now else []
        assert self.table.drop(chosen) == len(gone)
        for one in gone:
            self.remove(one.id)
        self.same()

    @rule(seconds=st.sampled_from([1.0, 4.0, 10.0, 60.0]))
    def time_passes(self, seconds: float) -> None:
        self.time.advance(seconds)
        self.same()

    def teardown(self) -> None:
        self.time.__exit__(None, None, None)


def test_an_outbox_does_what_its_page_says(tmp_path: Path) -> None:
    """Through any steps of clients, workers and operators, the file and the model agree."""
    Tables.database = Database(tmp_path / "outbox.db", 5.0)
    # What is on the disk when the power goes is not what this is about.
    Tables.database._opened().execute("PRAGMA synchronous = OFF")
    run_state_machine_as_test(Tables, settings=examples(25))
    Tables.database.close()
