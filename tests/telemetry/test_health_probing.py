"""Probes as Kubernetes makes them, of a real process in which things go wrong."""

from __future__ import annotations

import http.client
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, final

import pytest

SERVICE = Path(__file__).with_name("probed_service.py")
LIMIT = 0.5


@final
class Probed:
    """A process, told over stdin what goes wrong in it, and probed from outside."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.port = int(self.line())

    def line(self) -> str:
        """Return the next line that it prints of its own, not an event of the library."""
        out: IO[str] | None = self.process.stdout
        assert out is not None
        for line in out:
            if "resilient." not in line:
                return line.strip()
        raise AssertionError("the service has ended")

    def tell(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def probe(self, question: str) -> int:
        """Return the status of a page; a second without an answer is an error, as to a kubelet."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=1)
        try:
            connection.request("GET", f"/{question}")
            response = connection.getresponse()
            response.read()
            return response.status
        finally:
            connection.close()

    def until(self, question: str, status: int, seconds: float = 5) -> float:
        """Probe until the answer is `status`, and return the seconds that it took."""
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            if self.probe(question) == status:
                return time.monotonic() - began
            time.sleep(0.01)
        raise AssertionError(f"{question} was never {status} within {seconds} s")

    def always(self, question: str, status: int, seconds: float = 0.4) -> None:
        """Probe for a while, and see the same answer all the time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self.probe(question) == status
            time.sleep(0.01)


@pytest.fixture
def probed() -> Iterator[Probed]:
    """A service that has started and is ready."""
    with subprocess.Popen(
        [sys.executable, "-W", "error", str(SERVICE)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            service = Probed(process)
            service.until("readyz", 200)
            yield service
        finally:
            process.kill()


def test_startup_is_red_until_the_service_has_started(probed: Probed) -> None:
    """Its own word turns it green, nothing else."""
    probed.always("startupz", 503, 0.1)
    probed.tell("started")
    probed.until("startupz", 200)
    probed.tell("payments down")
    probed.until("readyz", 503)
    probed.always("startupz", 200, 0.1)


def test_a_critical_dependency_turns_readiness_red_and_green_again(probed: Probed) -> None:
    """Down means no traffic, back means traffic; the process is not restarted for it."""
    probed.tell("payments down")
    probed.until("readyz", 503)
    probed.always("livez", 200, 0.2)
    probed.tell("payments up")
    probed.until("readyz", 200)


def test_a_dependency_that_is_not_critical_takes_no_traffic_away(probed: Probed) -> None:
    """The service is ready without it, and alive."""
    probed.tell("reviews down")
    probed.always("readyz", 200)
    probed.always("livez", 200, 0.1)


def test_a_hung_dependency_restarts_nothing(probed: Probed) -> None:
    """Calls hang, and so does a check: not ready, but live all the time, and well afterwards."""
    for name in ("payments", "reviews", "stock"):
        probed.tell(f"{name} hang")
    probed.until("readyz", 503)
    probed.always("livez", 200, LIMIT + 0.3)
    for name in ("payments", "reviews", "stock"):
        probed.tell(f"{name} up")
    probed.until("readyz", 200)


@pytest.mark.parametrize("mood", ["down", "hang"])
def test_a_critical_check_turns_readiness_red_and_green_again(probed: Probed, mood: str) -> None:
    """A check that raises, and one that does not come back."""
    probed.tell(f"stock {mood}")
    probed.until("readyz", 503)
    probed.tell("stock up")
    probed.until("readyz", 200)


def test_a_blocked_loop_turns_liveness_red_within_its_limit(probed: Probed) -> None:
    """The page comes from another thread, which sees it, and sees the end of it."""
    probed.always("livez", 200, 0.1)
    probed.tell("block 1.2")
    assert probed.until("livez", 503) < LIMIT + 0.25
    probed.until("livez", 200)


def test_a_stuck_thread_turns_liveness_red_within_its_limit(probed: Probed) -> None:
    """A consumer that gives no sign of life any more, until it does."""
    probed.tell("stick")
    assert probed.until("livez", 503) < LIMIT + 0.25
    probed.tell("unstick")
    probed.until("livez", 200)


def test_the_end_of_a_process_is_told_before_it_comes(probed: Probed) -> None:
    """SIGTERM with a request in flight: not ready at once, alive, the request ends, exit 0."""
    probed.tell("work 0.4")
    time.sleep(0.1)
    probed.process.send_signal(signal.SIGTERM)
    probed.until("readyz", 503, 0.25)
    assert probed.probe("livez") == 200
    assert [probed.line(), probed.line()] == ["worked", "all ended"]
    assert probed.process.wait(timeout=5) == 0
