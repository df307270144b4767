"""SIGTERM, to real servers: not ready at once, what is in flight is finished, and then the end."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from resilient import InvalidSetting, InvalidUse, drain, drain_on_sigterm, draining, unit_of_work
from resilient.serving import termination
from tests.doubles import each
from tests.servers import PATIENCE, Server, free_port
from tests.waiting import eventually

SERVICE = Path(__file__).with_name("ending_service.py")
GUNICORN = ("-m", "gunicorn", f"--chdir={SERVICE.parent}", "ending_service:wsgi")

UVICORN_WORKER = "uvicorn.workers.UvicornWorker"
UVICORN = (f"--app-dir={SERVICE.parent}", "ending_service:asgi", "--port")


class EndingService(Server):
    """The service in one of the servers, with its pages on a port of their own."""

    name = "service"
    ready = "unning on "

    def __init__(self, done: Path, *command: str) -> None:
        super().__init__()
        self._arguments = command
        self.ops_port = free_port()
        self.environment = {
            "OPS_PORT": str(self.ops_port),
            "PYTHONPATH": str(SERVICE.parent),
            "DONE": str(done),
        }
        if "gunicorn" in command:
            self.ready = "Booting worker"

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def _command(self) -> list[str]:
        own = {"{port}": str(self.port), "{bind}": f"--bind={self.host}:{self.port}"}
        return [sys.executable, *(own.get(one, one) for one in self._arguments)]

    def get(self, path: str, *, ops: bool = False) -> tuple[int, str]:
        """Return status and text of what is on the service's own port, or on that of the pages."""
        port = self.ops_port if ops else self.port
        connection = http.client.HTTPConnection(self.host, port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()

    def until(self, path: str, expected: str | int) -> None:
        """Return as soon as a page has that status, or that text in it."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            with contextlib.suppress(ConnectionError):
                status, text = self.get(path, ops=True)
                if status == expected or (isinstance(expected, str) and expected in text):
                    return
            time.sleep(0.01)
        raise AssertionError(f"{path} was never {expected}")

    def terminate(self) -> None:
        self._running().terminate()

    def exit_status(self) -> int:
        """Return how it has ended by itself."""
        assert self._process is not None
        return self._process.wait(PATIENCE)


@each(
    "command, status",
    {
        "uvicorn, by itself": (
            ("-m", "uvicorn", *UVICORN, "{port}"),
            -signal.SIGTERM,  # as uvicorn has it: at its end it lets the signal do what it does
        ),
        "uvicorn, in a program": ((str(SERVICE), "{port}"), 0),
        "gunicorn, a process for each request": ((*GUNICORN, "{bind}"), 0),
        "gunicorn, a thread for each request": ((*GUNICORN, "{bind}", "--threads=2"), 0),
        "gunicorn, loaded before its workers": (
            (*GUNICORN, "{bind}", "--preload", "--config=python:ending_service"),
            0,
        ),
        "gunicorn, with uvicorn's worker": (
            (*GUNICORN[:-1], "ending_service:asgi", "{bind}", "--worker-class", UVICORN_WORKER),
            0,
        ),
    },
)
def test_what_is_in_flight_is_finished_while_probes_are_told(
    tmp_path: Path, command: tuple[str, ...], status: int
) -> None:
    """From the signal on the service is not ready, stays live, and ends when its request has."""
    done = tmp_path / "done"
    with EndingService(done, *command) as service, ThreadPoolExecutor() as clients:
        service.until("/health/ready", 200)
        service.until("/health/startup", 200)
        answer = clients.submit(service.get, "/slow")
        service.until("/metrics", "resilient_requests_in_flight 1.0")
        service.terminate()
        service.until("/health/ready", 503)
        assert service.get("/health/live", ops=True)[0] == 200
        assert not answer.done()
        done.touch()
        assert answer.result(PATIENCE) == (200, "finished")
        assert service.exit_status() == status


# Where there is no server


@pytest.fixture
def handlers() -> Iterator[None]:
    """The process's own handling of the signal, put back after the test."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def run(program: str, *, signals: int = 1) -> tuple[int, float]:
    """Run `program`, send it SIGTERM when it has printed a line, and return how it ended."""
    program = f"import resilient, sys, time, threading\n{program}"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        began = time.monotonic()
        for _ in range(signals):
            process.send_signal(signal.SIGTERM)
        status = process.wait(PATIENCE)
        return status, time.monotonic() - began


def test_a_consumer_ends_when_its_message_is_done() -> None:
    """Without a server the process ends by itself, with 0, and not in the midst of its work."""
    status, took = run("""
resilient.drain_on_sigterm()
def work():
    with resilient.unit_of_work():
        print("begun", flush=True)
        time.sleep(0.4)
threading.Thread(target=work, daemon=True).start()
while True: time.sleep(60)
""")
    assert status == 0
    assert took >= 0.3


def test_a_loop_that_asks_ends_by_itself() -> None:
    """`while not draining()` is all that a consumer needs."""
    status, _ = run("""
resilient.drain_on_sigterm()
print("begun", flush=True)
while not resilient.draining(): time.sleep(0.01)
sys.exit(7)
""")
    assert status in (0, 7)  # whichever of the two is first


def test_work_that_hangs_is_left_after_the_timeout() -> None:
    """Nobody waits for ever, and a second signal does not matter."""
    status, took = run(
        """
resilient.drain_on_sigterm(timeout=0.3)
def hang():
    with resilient.unit_of_work():
        print("begun", flush=True)
        time.sleep(60)
threading.Thread(target=hang, daemon=True).start()
while True: time.sleep(60)
""",
        signals=2,
    )
    assert status == 0
    assert took < 5


def test_a_second_signal_does_not_end_the_process_a_second_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The end would be interrupted by another one, with a traceback."""
    begun: list[object] = []
    inside, go_on = threading.Event(), threading.Event()

    def begin(function: object, _: object) -> None:
        begun.append(function)
        drain(PATIENCE)

    def work() -> None:
        with unit_of_work():
            inside.set()
            go_on.wait(PATIENCE)

    ending = termination._Termination(1)
    monkeypatch.setattr(termination, "_thread", SimpleNamespace(start_new_thread=begin))
    working = threading.Thread(target=work)
    working.start()
    try:
        assert inside.wait(PATIENCE)
        ending.begin(signal.SIGTERM, None)
        ending.begin(signal.SIGTERM, None)
        assert len(begun) == 1
        drain(0).resume()
        ending.begin(signal.SIGTERM, None)
        assert len(begun) == 2
    finally:
        go_on.set()
        working.join()
        drain(0).resume()


def test_a_forked_child_ends_as_if_there_were_no_library() -> None:
    """A worker process that inherits the handler is ended by the signal."""
    program = """
import os, signal
resilient.drain_on_sigterm()
begun, begin = os.pipe()
child = os.fork()
if not child:
    os.write(begin, b".")
    while True:
        time.sleep(0.05)  # a signal right before a long one would be handled after it
os.read(begun, 1)
os.kill(child, signal.SIGTERM)
_, status = os.waitpid(child, 0)
sys.exit(os.WTERMSIG(status))
"""
    program = f"import resilient, sys, time\n{program}"
    done = subprocess.run([sys.executable, "-c", program], timeout=PATIENCE, check=False)
    assert done.returncode == signal.SIGTERM


@pytest.mark.usefixtures("handlers")
def test_whoever_handled_the_signal_before_still_does() -> None:
    """The server's own handler is called in the same moment, with the same arguments."""
    told: list[Any] = []
    signal.signal(signal.SIGTERM, lambda *given: told.append(given))
    drain_on_sigterm()
    drain_on_sigterm()  # once is enough
    os.kill(os.getpid(), signal.SIGTERM)
    [(number, _)] = told
    assert number == signal.SIGTERM
    assert eventually(draining)
    from resilient import drain

    drain(timeout=0).resume()


@pytest.mark.usefixtures("handlers")
def test_it_has_to_be_the_main_thread() -> None:
    """Elsewhere no handler can be set, and that is told."""
    with ThreadPoolExecutor() as elsewhere, pytest.raises(InvalidUse, match="main thread"):
        elsewhere.submit(drain_on_sigterm).result()
    with pytest.raises(InvalidSetting, match="timeout"):
        drain_on_sigterm(timeout=-1)
    assert threading.current_thread() is threading.main_thread()
    with unit_of_work():
        pass
