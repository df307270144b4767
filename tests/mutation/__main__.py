"""`make mutation`: change a line at a time, and look whether a test fails.

A mutant that no test notices is either explained in `docs/testing.md`, or a test is missing; the
run fails for the latter. `ARGS="circuit window"` takes these modules only, `ARGS=--again` also
tries again what is known to be noticed.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.mutation.explained import explained
from tests.mutation.mutants import Mutant, mutants_of
from tests.mutation.trials import OPTIONS, ROOT, Reach, Trials, end, statement_at


class Verdicts:
    """What is known of mutants, kept in a file so that a run can be ended and begun again."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        self._rows = sqlite3.connect(path, isolation_level=None)
        self._rows.execute("CREATE TABLE IF NOT EXISTS noticed (mutant TEXT PRIMARY KEY)")

    def __contains__(self, mutant: Mutant) -> bool:
        query = "SELECT 1 FROM noticed WHERE mutant = ?"
        return self._rows.execute(query, [self._key(mutant)]).fetchone() is not None

    def add(self, mutant: Mutant) -> None:
        self._rows.execute("INSERT OR IGNORE INTO noticed VALUES (?)", [self._key(mutant)])

    @staticmethod
    def _key(mutant: Mutant) -> str:
        told = mutant.module.relative_to(ROOT).as_posix(), mutant.operator, *mutant.place
        return sha256(repr(told).encode()).hexdigest()


class Mutation:
    """A plugin that runs mutants where pytest would run the tests that it has collected."""

    def __init__(self, chosen: argparse.Namespace, settings: dict[str, Any]) -> None:
        self.files = {
            ROOT / "src" / "resilient" / name: frozenset(
                path for pattern in patterns for path in ROOT.glob(pattern)
            )
            for name, patterns in settings["modules"].items()
            if not chosen.modules or any(part in name for part in chosen.modules)
        }
        self.tests = sorted(map(str, frozenset[Path]().union(*self.files.values())))
        self.operators: list[str] = settings["operators"]
        self.chosen = chosen
        self.verdicts = Verdicts(ROOT / "reports" / "mutation.db")
        self.killed: dict[Mutant, bool] = {}

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        began = time.monotonic()
        reach = Reach.measured(session, self.files, ROOT / "reports" / "mutation.log")
        taken = time.monotonic() - began
        print(f"{len(reach.seconds)} tests without a mutant: {taken:.0f} s", flush=True)
        trials = Trials(session, reach)
        mutants = [one for module in self.files for one in mutants_of(module, self.operators)]
        # What runs at import takes longer to try, and comes last.
        mutants.sort(key=lambda one: statement_at(one.source, one.start[0]) is None)
        known = [one for one in mutants if one in self.verdicts and not self.chosen.again]
        noticed = dict.fromkeys(known, True)
        fresh = [one for one in mutants if one not in noticed]
        for mutant, is_killed in _tried(trials, fresh, self.chosen.jobs):
            noticed[mutant] = is_killed
            if is_killed:
                self.verdicts.add(mutant)
            else:
                print(f"  survives: line {mutant.start[0]} of {mutant.name}", flush=True)
        self.killed = {mutant: noticed[mutant] for mutant in mutants}
        return True


def _tried(trials: Trials, mutants: list[Mutant], jobs: int) -> Iterator[tuple[Mutant, bool]]:
    """Yield each mutant, and whether a test fails, or hangs, because of it."""
    waiting, running = mutants[::-1], dict[int, Mutant]()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                mutant = waiting.pop()
                child = trials.begin(mutant)
                if child is None:
                    yield mutant, False
                else:
                    running[child] = mutant
            for child, mutant in list(running.items()):
                ended, status = os.waitpid(child, os.WNOHANG)
                if ended:
                    end(child)
                    del running[child]
                    yield mutant, trials.ended(child, status)
            time.sleep(0.01)
    finally:
        for child in running:
            end(child)


def report(killed: dict[Mutant, bool]) -> int:
    """Print the score and what is not explained; return the exit status."""
    known = explained(ROOT / "docs" / "testing.md")
    print("\n| module | mutants | killed | survive | score |\n|---|---|---|---|---|")
    for module in [*dict.fromkeys(mutant.module for mutant in killed), None]:
        dead = [is_dead for mutant, is_dead in killed.items() if module in (None, mutant.module)]
        name = "all" if module is None else module.relative_to(ROOT / "src/resilient").as_posix()
        row = [len(dead), sum(dead), len(dead) - sum(dead), f"{sum(dead) / len(dead):.1%}"]
        print("|", " | ".join(map(str, [name, *row])), "|")
    survivors = [mutant for mutant, is_dead in killed.items() if not is_dead]
    unexplained = [mutant for mutant in survivors if mutant.name not in known]
    for mutant in unexplained:
        print(f"not explained: line {mutant.start[0]} of {mutant.name}")
    return 1 if unexplained else 0


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="make mutation", description=__doc__)
    parser.add_argument("modules", nargs="*", help="parts of the names of modules; else all")
    parser.add_argument("--again", action="store_true", help="forget what was decided before")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="children at a time")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mutation"]
    os.chdir(ROOT)
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = tempfile.mkdtemp()
    began = time.monotonic()
    mutation = Mutation(parser.parse_args(), settings)
    status = pytest.main([*OPTIONS, *mutation.tests], plugins=[mutation])
    if not mutation.killed:
        return int(status) or 1
    unexplained = report(mutation.killed)
    print(f"{time.monotonic() - began:.0f} s")
    return unexplained


if __name__ == "__main__":
    sys.exit(main())
