"""The worker example: receipts while the mail service is down, and a worker that is killed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.examples.upstream import Upstream
from tests.servers import PATIENCE
from tests.waiting import eventually

FOLDER = Path(__file__).parents[2] / "examples" / "worker"


class MailService(Upstream):
    """Delivers each key once; an answer can be held back until it is told to go on."""

    def __init__(self) -> None:
        self.delivered: list[str] = []
        self.repeated: list[str] = []
        self.go_on = threading.Event()
        self.go_on.set()
        super().__init__({"/send": self.send, "/health": lambda *_: (200, "well")})

    def send(self, about: Any, headers: Mapping[str, str]) -> Any:
        key = headers["Idempotency-Key"]
        if about["user"] == "refused":
            return 422, {"error": "no such address"}
        (self.repeated if key in self.delivered else self.delivered).append(key)
        self.go_on.wait(PATIENCE)
        return 200, {"id": f"m-{about['user']}"}


class Shop:
    """The commands of the page, in the folder of the example."""

    def __init__(self, upstream: MailService, folder: Path) -> None:
        self._environment = {
            **os.environ,
            "MAIL_URL": upstream.url,
            "OUTBOX": f"sqlite:///{folder / 'outbox.db'}",
        }

    def run(self, *command: str) -> str:
        done = subprocess.run(
            [sys.executable, *command],
            cwd=FOLDER,
            env=self._environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=3 * PATIENCE,
        )
        return done.stdout

    def listed(self, *options: str) -> str:
        return self.run("-m", "resilient", "outbox", "list", "mail:outbox", *options)

    @contextmanager
    def worker(self) -> Generator[subprocess.Popen[bytes]]:
        command = [sys.executable, "-m", "resilient", "outbox", "run", "mail:outbox"]
        with subprocess.Popen(
            command, cwd=FOLDER, env=self._environment, stdout=subprocess.DEVNULL
        ) as process:
            try:
                yield process
            finally:
                process.kill()


@pytest.fixture
def upstream() -> Iterator[MailService]:
    """A mail service that is down, until it is started."""
    upstream = MailService()
    yield upstream
    upstream.go_on.set()
    upstream.stop()


def test_mail_waits_for_its_service_and_survives_the_death_of_a_worker(
    upstream: MailService, tmp_path: Path
) -> None:
    """All that got a receipt is delivered, what was in flight at `kill -9` too, and none twice."""
    shop = Shop(upstream, tmp_path)
    signed_up = shop.run("signup.py", "u1", "u2", "u3", "refused", "u1")
    assert re.findall(r"^(\w+): will be sent, receipt (\d+)$", signed_up, re.MULTILINE) == [
        ("u1", "1"),
        ("u2", "2"),
        ("u3", "3"),
        ("refused", "4"),
        ("u1", "1"),
    ]
    assert "4 waiting, 0 dead" in shop.listed()

    upstream.go_on.clear()
    with shop.worker() as doomed:
        upstream.start()
        assert eventually(lambda: bool(upstream.delivered))  # and not answered
        doomed.kill()
    upstream.go_on.set()

    with shop.worker() as worker:
        assert eventually(lambda: len(upstream.delivered) == 3 and len(upstream.repeated) == 1)
        assert eventually(lambda: "0 waiting, 1 dead" in shop.listed())
        assert "AddressRefused" in shop.listed("--dead")
        worker.terminate()
        assert worker.wait(PATIENCE) == 0
    assert sorted(upstream.delivered) == ["welcome:u1", "welcome:u2", "welcome:u3"]
    assert upstream.repeated == [upstream.delivered[0]]

    assert shop.run("signup.py", "u4") == "u4: sent as m-u4\n"
