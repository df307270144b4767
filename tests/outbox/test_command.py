"""``python -m resilient outbox``: what operators see, and what they can do about it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SHOP = """
from pathlib import Path
from resilient import Outbox, queued, with_fallback

outbox = Outbox("sqlite:///outbox.db", max_attempts=1)

@with_fallback(queued(outbox, key="charge:{order_id}"))
def charge(order_id: str, card: str) -> None:
    if not Path("well").exists():
        raise ConnectionError
    with open("ledger", "a") as ledger:
        ledger.write(order_id + "\\n")
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder with a service whose two payments wait in an outbox."""
    (tmp_path / "shop.py").write_text(SHOP)
    python(tmp_path, "-c", "import shop; shop.charge('o1', '4111'); shop.charge('o2', '4222')")
    return tmp_path


def python(folder: Path, *arguments: str, status: int = 0) -> str:
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def outbox(folder: Path, *arguments: str, status: int = 0) -> str:
    return python(folder, "-m", "resilient", "outbox", *arguments, status=status)


def test_the_list_has_names_and_keys_and_no_arguments(shop: Path) -> None:
    """One line a call with columns below each other; a card number is in none of them."""
    told = outbox(shop, "list", "sqlite:///outbox.db")
    header, first, second, count = told.splitlines()
    assert header.split() == ["id", "name", "key", "state", "attempts", "queued", "due", "error"]
    assert first.split()[:5] == ["1", "shop.charge", "charge:o1", "waiting", "0"]
    assert first.index("charge:o1") == second.index("charge:o2") == header.index("key")
    assert count == "2 waiting, 0 dead"
    assert "4111" not in told


def test_the_list_can_be_read_by_programs(shop: Path) -> None:
    """An object a line."""
    lines = outbox(shop, "list", "shop:outbox", "--json").splitlines()
    assert [json.loads(line)["key"] for line in lines] == ["charge:o1", "charge:o2"]


def test_one_call_is_shown_with_its_arguments(shop: Path) -> None:
    """That is the one place that shows them."""
    assert '"card": "4222"' in outbox(shop, "show", "sqlite:///outbox.db", "2")
    shown = json.loads(outbox(shop, "show", "sqlite:///outbox.db", "2", "--json"))
    assert shown["arguments"]["kwargs"] == {"order_id": "o2", "card": "4222"}
    assert "no call 77" in outbox(shop, "show", "sqlite:///outbox.db", "77", status=1)


def test_dead_calls_are_listed_retried_and_dropped(shop: Path) -> None:
    """A call that was given up is made again when somebody says so, or is gone."""
    assert "0 waiting, 2 dead" in outbox(shop, "drain", "shop:outbox")
    told = outbox(shop, "list", "sqlite:///outbox.db", "--dead")
    assert "given up after 1 attempts: ConnectionError" in told
    assert outbox(shop, "retry", "sqlite:///outbox.db", "1") == "1 will be made again\n"
    assert outbox(shop, "drop", "sqlite:///outbox.db", "--all-dead") == "1 dropped\n"
    (shop / "well").touch()
    assert "0 waiting, 0 dead" in outbox(shop, "drain", "shop:outbox")
    assert (shop / "ledger").read_text() == "o1\n"
    assert "1 was not" in outbox(shop, "retry", "sqlite:///outbox.db", "1", status=1)


def test_a_worker_makes_calls_until_it_is_terminated(shop: Path) -> None:
    """SIGTERM lets the last call end, and the exit status is 0."""
    (shop / "well").touch()
    command = [sys.executable, "-m", "resilient", "outbox", "run", "shop:outbox"]
    ledger, until = shop / "ledger", time.monotonic() + 30
    with subprocess.Popen(command, cwd=shop, stdout=subprocess.DEVNULL) as worker:
        while not ledger.exists() or len(ledger.read_text().split()) < 2:
            assert time.monotonic() < until
            time.sleep(0.02)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0
    assert sorted(ledger.read_text().split()) == ["o1", "o2"]
    assert "0 waiting, 0 dead" in outbox(shop, "list", "sqlite:///outbox.db")


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("sqlite:///nowhere.db", "there is no such file"),
        ("sqlite:///no/folder/outbox.db", "folder that exists"),
        ("nowhere:outbox", "there is no module 'nowhere'"),
        ("shop:nothing", "no attribute 'nothing'"),
        ("shop:charge", "is no Outbox"),
        ("sqlite:///shop.py", "broken"),
    ],
)
def test_a_wrong_target_is_told_in_a_line(target: str, told: str, shop: Path) -> None:
    """No traceback; the exit status is 2, and nothing is made."""
    said = outbox(shop, "list", target, status=2)
    assert told in said
    assert not (shop / "nowhere.db").exists()
