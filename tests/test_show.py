"""``python -m resilient show``: every dependency of an application, without starting it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.doubles import each

SHOP = """
from tenacity import stop_after_attempt, wait_fixed
from resilient import Dependency, cached, circuit_breaker, retry, timeout, with_fallback

print("the module was imported")

def ping() -> None: raise SystemExit("nobody may call this")
def popular() -> list[str]: return []

payments = Dependency(
    "payments", critical=True, failures=(ConnectionError, TimeoutError), owner="team-money",
    runbook="https://runbooks.example/payments", rto=60, total_timeout=5, timeout=2,
    retry=retry(attempts=4, wait=wait_fixed(2)), max_concurrent=20,
    breaker=circuit_breaker(failure_rate=0.5, window="10s", probe=ping, probe_every=2),
)

class Till:
    @payments
    def charge(self, order_id: str) -> None: ping()

@payments.with_fallback(cached(ttl=60), popular)
@timeout(0.5)
def receipts(order_id: str) -> list[str]: return [str(ping())]

@circuit_breaker.per_key("hosts", key="{host}", slow_call_rate=0.5, slow_call_seconds=2)
@retry(on=OSError, stop=stop_after_attempt(7))
def fetch(host: str) -> None: ping()

class app:
    state = 1
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder with an application in it."""
    (tmp_path / "shop.py").write_text(SHOP)
    return tmp_path


def show(folder: Path, *arguments: str, status: int = 0) -> str:
    """Return what the command prints, on stdout if it is to succeed."""
    done = subprocess.run(
        [sys.executable, "-m", "resilient", "show", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == status, done.stderr
    return done.stderr if status == 2 else done.stdout


def test_every_dependency_is_a_few_aligned_lines(shop: Path) -> None:
    """Who looks after it, each setting, what it guards, and what is served instead are there."""
    told, _, table = show(shop, "shop:app").partition("\n\n")
    assert told.endswith("imported shop:app; nothing was started, and nothing was called")
    head, *lines = table.splitlines()
    columns = [head.index(title) for title in ("PART", "SETTINGS")]
    rows = {(line[: columns[0]].strip(), line[columns[0] : columns[1]].strip()): line[columns[1] :]
            for line in lines}  # fmt: skip
    assert rows["payments", "critical"] == "yes"
    assert rows["payments", "rto"] == "60"
    assert rows["payments", "owner"] == "team-money"
    assert rows["payments", "runbook"] == "https://runbooks.example/payments"
    assert rows["payments", "failures"] == "ConnectionError | TimeoutError"
    assert rows["payments", "total_timeout"].startswith("seconds=5")
    assert "max_concurrent=20" in rows["payments", "bulkhead"]
    assert "attempts=4, wait=wait_fixed(wait_fixed=2.0)" in rows["payments", "retry"]
    assert "window=10s" in rows["payments", "circuit_breaker"]
    assert "probe=shop.ping, probe_every=2" in rows["payments", "circuit_breaker"]
    assert rows["payments", "served instead"] == "cached(ttl=60, key=None), then default(popular)"
    assert "key={host}" in rows["hosts", "keyed_circuit_breaker"]
    # Of two settings that say the same, the one that was written is shown.
    assert "stop=stop_after_attempt(max_attempt_number=7)" in rows["hosts", "retry"]
    assert not re.search(r"\battempts=", rows["hosts", "retry"])
    assert "slow_call_seconds=2" in rows["hosts", "keyed_circuit_breaker"]
    assert "slow_call_seconds" not in rows["payments", "circuit_breaker"]


def test_the_same_as_json(shop: Path) -> None:
    """Programs get a list of objects, in which what is guarded is found by its name."""
    said = show(shop, "shop", "--json")
    hosts, payments = json.loads(said[said.index("[") :])
    assert (hosts["dependency"], payments["dependency"]) == ("hosts", "payments")
    assert payments["critical"] is True
    functions: dict[str, Any] = {one["function"]: one for one in payments["functions"]}
    assert set(functions) == {"shop.Till.charge", "shop.receipts"}
    assert functions["shop.Till.charge"]["served_instead"] == []
    [own] = functions["shop.receipts"]["strategies"]
    assert (own["strategy"], own["seconds"]) == ("timeout", 0.5)


def test_an_attribute_that_is_a_dependency_is_shown_alone(shop: Path) -> None:
    """Only what was asked for is in the table."""
    shown = show(shop, "shop:payments")
    assert "team-money" in shown
    assert "hosts" not in shown


def test_an_application_without_dependencies_is_told(tmp_path: Path) -> None:
    """Nothing to show is no success: a script that expects something notices."""
    (tmp_path / "bare.py").write_text("")
    assert "it has no dependency" in show(tmp_path, "bare", status=1)


@each(
    "target, text, why",
    {
        "no such module": ("store", "", "there is no module 'store' here"),
        "a module that it imports is missing": ("bad", "import gone", "No module named 'gone'"),
        "a setting is missing": ("bad", "import os; os.environ['N_O']", "bad.py, line 1)"),
        "the module ends": ("bad", "raise SystemExit(3)", "SystemExit: 3 ("),
        "not Python": ("bad", "def", "SyntaxError"),
        "no such attribute": ("bad:app", "", "'bad:app' is not there: module 'bad' has no"),
        "no name": (":app", "", "'' cannot be imported: ValueError"),
    },
)
def test_what_cannot_be_imported_is_said_with_the_reason(
    target: str, text: str, why: str, tmp_path: Path
) -> None:
    """The message names the error and its place, without a traceback, and the status is 2."""
    (tmp_path / "bad.py").write_text(text)
    told = show(tmp_path, target, status=2)
    assert why in told
    assert "Traceback" not in told
