"""``python -m resilient outbox``: what operators see, and what they can do about it."""

from __future__ import annotations

import importlib
import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from resilient import NewCall, Outbox
from resilient.__main__ import main
from tests.generated import examples
from tests.waiting import eventually

Command = Callable[..., str]

SHOP = """
from pathlib import Path
from resilient import Outbox, queued, with_fallback

outbox = Outbox("sqlite:///outbox.db", name="shop of {name}", max_attempts=1)

@with_fallback(queued(outbox, key="charge:{{order_id}}"))
def charge(order_id: str, card: str) -> None:
    if not Path("well").exists():
        raise ConnectionError
    with open("ledger", "a") as ledger:
        ledger.write(order_id + "\\n")
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, with a service whose two payments wait in an outbox."""
    (tmp_path / "shop.py").write_text(SHOP.format(name=tmp_path.name))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    service = importlib.import_module("shop")
    service.charge("o1", "4111")
    service.charge("o2", "4222")
    yield tmp_path
    service.outbox.close()
    # It may be kept by a cycle for a while, and would be seen in the tests of health and metrics.
    service.outbox.conditions = service.outbox.readings = tuple
    del sys.modules["shop"]


@pytest.fixture
def command(shop: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """A function that runs a command in the shop, and returns what it has printed.

    What it prints is an answer, or else a complaint, which nothing that reads answers may see.
    """

    def run(*arguments: str, status: int = 0) -> str:
        assert main(["outbox", *arguments]) == status
        printed = capsys.readouterr()
        assert not (printed.out and printed.err)
        return printed.out + printed.err

    return run


def test_the_list_has_names_and_keys_and_no_arguments(command: Command) -> None:
    """One line a call with columns below each other; a card number is in none of them."""
    told = command("list", "sqlite:///outbox.db")
    header, first, second, count = told.splitlines()
    assert header.split() == ["id", "name", "key", "state", "attempts", "queued", "due", "error"]
    assert first.split()[:5] == ["1", "shop.charge", "charge:o1", "waiting", "0"]
    assert first.index("charge:o1") == second.index("charge:o2") == header.index("key")
    assert count == "2 waiting, 0 dead"
    assert "4111" not in told


def test_the_list_can_be_read_by_programs(command: Command) -> None:
    """An object a line."""
    lines = command("list", "shop:outbox", "--json").splitlines()
    assert [json.loads(line)["key"] for line in lines] == ["charge:o1", "charge:o2"]


def test_a_key_can_neither_begin_a_line_nor_move_the_cursor(shop: Path, command: Command) -> None:
    """Whoever has made the key of an order has no power over the terminal that shows it."""
    strange = Outbox(shop / "strange.db", name=f"strange of {shop.name}")
    strange.put(NewCall("charge", "{}", key="o\x1b[2J1\n2 gone\u202e"))
    strange.close()
    told = command("list", "sqlite:///strange.db")
    assert len(told.splitlines()) == 3
    assert r"o\x1b[2J1\n2 gone\u202e" in told


def test_one_call_is_shown_with_its_arguments(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    """That is the one place that shows them."""
    assert '"card": "4222"' in command("show", "sqlite:///outbox.db", "2")
    shown = json.loads(command("show", "sqlite:///outbox.db", "2", "--json"))
    assert shown["arguments"]["kwargs"] == {"order_id": "o2", "card": "4222"}
    assert "no call 77" in command("show", "sqlite:///outbox.db", "77", status=1)
    assert main(["outbox", "show", "sqlite:///outbox.db", "77", "--json"]) == 1
    assert "no call 77" in capsys.readouterr().err


def test_a_broken_row_is_shown_as_it_is(shop: Path, command: Command) -> None:
    """Whoever looks at what was set aside sees what there is of its arguments."""
    with closing(sqlite3.connect(shop / "outbox.db")) as file, file:
        file.execute("UPDATE calls SET arguments = 'half a ' WHERE id = 2")
    shown = json.loads(command("show", "sqlite:///outbox.db", "2", "--json"))
    assert shown["arguments"] == "half a "


def test_dead_calls_are_listed_retried_and_dropped(shop: Path, command: Command) -> None:
    """A call that was given up is made again when somebody says so, or is gone."""
    assert "0 waiting, 2 dead" in command("drain", "shop:outbox")
    told = command("list", "sqlite:///outbox.db", "--dead")
    assert "given up after 1 attempts: ConnectionError" in told
    assert command("retry", "sqlite:///outbox.db", "1") == "1 will be made again\n"
    assert command("drop", "sqlite:///outbox.db", "--all-dead") == "1 dropped\n"
    (shop / "well").touch()
    assert "0 waiting, 0 dead" in command("drain", "shop:outbox")
    assert (shop / "ledger").read_text() == "o1\n"
    assert "1 was not" in command("retry", "sqlite:///outbox.db", "1", status=1)


def test_a_worker_makes_calls_until_it_is_terminated(shop: Path, command: Command) -> None:
    """SIGTERM lets the last call end, and the exit status is 0."""
    (shop / "well").touch()
    started = [sys.executable, "-m", "resilient", "outbox", "run", "shop:outbox"]
    ledger = shop / "ledger"
    with subprocess.Popen(started, cwd=shop, stdout=subprocess.DEVNULL) as worker:
        assert eventually(lambda: ledger.exists() and len(ledger.read_text().split()) == 2)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0
    assert sorted(ledger.read_text().split()) == ["o1", "o2"]
    assert "0 waiting, 0 dead" in command("list", "sqlite:///outbox.db")


@pytest.mark.parametrize("action", ["drain", "run"])
def test_a_worker_without_functions_gives_up_no_call(
    shop: Path, command: Command, action: str
) -> None:
    """Where nothing that queues calls was imported, none of them is tried, and that is told."""
    told = command(action, "sqlite:///outbox.db", status=2)
    assert "no function puts its calls into it" in told
    assert "2 waiting, 0 dead" in command("list", "sqlite:///outbox.db")


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
def test_a_wrong_target_is_told_in_a_line(
    target: str, told: str, shop: Path, command: Command
) -> None:
    """No traceback; the exit status is 2, and nothing is made."""
    said = command("list", target, status=2)
    assert told in said
    assert not (shop / "nowhere.db").exists()


#: What may stand in a command line, and what may not.
WORDS = (
    *("list", "show", "retry", "drop", "drain", "run"),
    *("--dead", "--json", "--all-dead", "--limit", "--timeout", "--concurrency", "--stop-within"),
    *("0", "1", "2", "-1", "nan", "inf", "1e400", "9" * 400, "", " ", "\0", "\udcff", "é", "-"),
    *("sqlite:///outbox.db", "sqlite:///", "sqlite:///gone.db", "sqlite:///no/such/outbox.db"),
    *("sqlite:///" + "x" * 5000, "sqlite:///\0", "sqlite:///\udcff", "shop", "shop:gone", "shop."),
    *("os:path", ":", "..shop", "no such module", "\udcff:outbox"),
)


@settings(examples(100), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists(st.sampled_from(WORDS), max_size=5))
@example(words=["show", "sqlite:///outbox.db", "\udcff"])
@example(words=["list", "sqlite:///outbox.db", "--limit", "9" * 400])
@example(words=["list", "\udcff:outbox"])
@example(words=["drain", "sqlite:///outbox.db", "--timeout", "nan"])
@example(words=["drop", "sqlite:///" + "x" * 5000, "1"])
def test_any_command_line_is_carried_out_or_refused(
    shop: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    """It ends with 0, 1 or 2, and with something that says why; never with a traceback."""
    try:
        status: Any = main(["outbox", *words])
    except SystemExit as ended:  # what argparse says about the form of it
        status = ended.code
    told = capsys.readouterr()
    assert status in (0, 1, 2)
    assert told.out or told.err
