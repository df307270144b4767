"""Whoever is killed, whenever: what was acknowledged is made, and not again once it is done."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Generator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import IO

import pytest

from resilient import Outbox

PROGRAM = Path(__file__).with_name("participants.py")
LEASE = 2.0
CAST = ("producer", "producer", "worker", "worker", "worker", "full")


class Participants:
    """Processes that use one outbox, in their roles, and are replaced when they are killed."""

    def __init__(self, host: subprocess.Popen[str]) -> None:
        assert host.stdin is not None
        assert host.stdout is not None
        self._told: IO[str] = host.stdin
        self._answers: IO[str] = host.stdout
        self.pids: list[tuple[str, int]] = []

    def join(self, role: str) -> None:
        print(role, file=self._told, flush=True)
        self.pids.append((role, int(self._answers.readline())))

    def kill(self, place: int) -> str:
        role, pid = self.pids.pop(place)
        os.kill(pid, signal.SIGKILL)
        return role


@contextmanager
def participants(folder: Path) -> Generator[Participants]:
    """The host that forks them, and none of them left at the end."""
    command = [sys.executable, str(PROGRAM), str(folder), str(LEASE)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as host:
        cast = Participants(host)
        try:
            yield cast
        finally:
            for place in reversed(range(len(cast.pids))):
                with suppress(ProcessLookupError):
                    cast.kill(place)
            host.kill()


def corrupt_a_row(path: Path) -> str:
    """Write over the arguments of the call that was put last, and return its number."""
    with closing(sqlite3.connect(path, timeout=10, isolation_level=None)) as file:
        file.execute("BEGIN IMMEDIATE")
        query = "SELECT id FROM calls WHERE leased_until IS NULL AND state = 'waiting' LIMIT 1"
        found = file.execute(query).fetchone()
        if found is not None:
            file.execute("UPDATE calls SET arguments = substr(arguments, 2) WHERE id = ?", found)
        file.execute("COMMIT")
    return "" if found is None else str(found[0])


def storm(folder: Path, kills: int, seed: int) -> tuple[list[list[str]], Outbox]:
    """Kill one after the other at random points, let the rest be made, and return the ledger."""
    dice = random.Random(seed)
    corrupted = 0
    with participants(folder) as cast:
        for role in CAST:
            cast.join(role)
        for kill in range(kills):
            time.sleep(dice.uniform(0.0, 0.2))
            cast.join(cast.kill(dice.randrange(len(cast.pids))))
            if kill % 10 == 5 and (folder / "outbox.db").exists():
                corrupted += bool(corrupt_a_row(folder / "outbox.db"))
        for place in reversed(range(len(cast.pids))):
            if cast.pids[place][0] != "worker":
                cast.kill(place)
        # The file is opened again, by somebody who was not there.
        outbox = Outbox(folder / "outbox.db", name=f"after the storm in {folder}")
        until = time.monotonic() + 10 * LEASE
        while outbox.pending() and time.monotonic() < until:
            time.sleep(0.05)
    assert len(outbox.dead()) == corrupted
    lines = (folder / "ledger").read_text().splitlines()
    return [line.split() for line in lines], outbox


def nothing_was_lost(folder: Path, kills: int, seed: int) -> None:
    ledger, outbox = storm(folder, kills, seed)
    acked = {number for what, number in ledger if what == "acked"}
    ran = Counter(number for what, number in ledger if what == "ran")
    dead = {call.key for call in outbox.dead()}
    assert len(acked) > kills
    assert acked - set(ran) - dead == set(), "acknowledged, and never made"
    assert outbox.pending() == []
    done: set[str] = set()
    for what, number in ledger:
        assert what != "ran" or number not in done, "made again after it was done"
        if what == "done":
            done.add(number)
    assert len(done) > kills / 2
    if dead:
        assert all(str(call.error).startswith("broken") for call in outbox.dead())
    with closing(sqlite3.connect(outbox.path)) as file:
        assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    outbox.close()
    twice = sum(count > 1 for count in ran.values())
    refused = sum(what == "refused" for what, _ in ledger)
    print(
        f"{kills} killed: {len(acked)} acknowledged, {len(ran)} made ({twice} of them twice, in "
        f"flight when killed), {len(done)} seen done, {refused} refused on a full disk, "
        f"{len(dead)} corrupted and set aside, 0 lost"
    )


def test_nothing_is_lost_when_a_few_are_killed(tmp_path: Path) -> None:
    """A short storm: every acknowledged call is made, and none again once that is noted."""
    nothing_was_lost(tmp_path, kills=15, seed=1)


@pytest.mark.proof
def test_nothing_is_lost_when_two_hundred_are_killed(tmp_path: Path) -> None:
    """A long storm, with a full disk and broken rows, and the same promise."""
    nothing_was_lost(tmp_path, kills=200, seed=4)
