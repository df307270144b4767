"""Probes as Kubernetes makes them, of a real process in which things go wrong."""

from __future__ import annotations

import http.client
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, final

import pytest

from tests.waiting import PATIENCE

SERVICE = Path(__file__).with_name("probed_service.py")
LIMIT = 0.5
#: What a loaded machine may take to be noticed, and as long as nothing else would end it.
GRACE = 1.0


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

    def ask(self, question: str) -> tuple[int, str]:
        """Return status and text of a page; it is given up after a while, as by a kubelet."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", f"/{question}")
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def probe(self, question: str) -> int:
        """Return the status of a page."""
        return self.ask(question)[0]

    def until(self, question: str, status: int, seconds: float = PATIENCE) -> float:
        """Probe until the answer is `status`, and return the seconds that it took."""
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            if self.probe(question) == status:
                return time.monotonic() - began
            time.sleep(0.01)
        raise AssertionError(f"{question} was never {status} within {seconds} s")

    def until_it_says(self, question: str, text: str, seconds: float = PATIENCE) -> None:
        """Ask until the answer has `text` in it."""
        end = time.monotonic() + seconds
        while text not in self.ask(question)[1]:
            assert time.monotonic() < end
            time.sleep(0.01)

    def always(self, question: str, status: int, seconds: float = 0.4) -> None:
        """Probe for a while, and see the same answer all the time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self.probe(question) == status
            time.sleep(0.01)


@contextmanager
def started() -> Generator[Probed]:
    """A service that has begun and is ready."""
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


@pytest.fixture(scope="module")
def shared() -> Iterator[Probed]:
    """One service for all tests that leave it as it was."""
    with started() as service:
        yield service


@pytest.fixture
def probed(shared: Probed) -> Iterator[Probed]:
    """The service, in which all is well before the test and again after it."""
    yield shared
    for command in ("payments up", "reviews up", "stock up", "unstick", "starting"):
        shared.tell(command)
    shared.until("readyz", 200)
    shared.until("livez", 200)


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
    """The page comes from another thread, which sees it while it lasts, and sees the end of it."""
    probed.always("livez", 200, 0.1)
    probed.tell(f"block {LIMIT + GRACE}")
    assert probed.until("livez", 503) < LIMIT + GRACE
    probed.until("livez", 200)


def test_a_stuck_thread_turns_liveness_red_within_its_limit(probed: Probed) -> None:
    """A consumer that gives no sign of life any more, until it does."""
    probed.tell("stick")
    assert probed.until("livez", 503) < LIMIT + GRACE
    probed.tell("unstick")
    probed.until("livez", 200)


def test_the_end_of_a_process_is_told_before_it_comes() -> None:
    """SIGTERM with a request in flight: not ready at once, alive, the request ends, exit 0."""
    with started() as probed:
        probed.tell("work")
        probed.until_it_says("metrics", "resilient_requests_in_flight 1.0")
        probed.process.send_signal(signal.SIGTERM)
        probed.until("readyz", 503)
        assert probed.probe("livez") == 200
        probed.tell("finish")
        assert [probed.line(), probed.line()] == ["worked", "all ended"]
        assert probed.process.wait(timeout=5) == 0
