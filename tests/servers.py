"""Real servers for tests: started on a free port of the loopback interface, gone at the end.

A server can be killed, frozen and started again, as it happens to servers.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import threading
from collections import deque
from pathlib import Path
from typing import Self

import pytest

PATIENCE = 10.0
"""Seconds that a server has to start, to stop and to answer, on a slow machine under load."""


class ServerFailed(Exception):
    """A server that did not start, or did not answer as it should."""


def require_program(name: str) -> str:
    """Return the path of a program; without it skip the test, or fail it where it must be there."""
    found = shutil.which(name)
    if found is not None:
        return found
    reason = f"{name} is not installed"
    if os.environ.get("RESILIENT_REQUIRE_SERVERS") == "1":
        pytest.fail(f"{reason}, and RESILIENT_REQUIRE_SERVERS=1 asks for it", pytrace=False)
    pytest.skip(reason)


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class RedisServer:
    """A redis-server of our own, without persistence: what it held is lost when it ends.

    Used as a context manager it runs inside of the block. `port` and `url` stay the same when it is
    started again.
    """

    def __init__(self, program: str, folder: Path) -> None:
        self.host = "127.0.0.1"
        self.port = free_port()
        self._program = program
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None
        self._log: deque[str] = deque(maxlen=50)

    @property
    def url(self) -> str:
        """The address, as redis-py takes it."""
        return f"redis://{self.host}:{self.port}/0"

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        return self._running().pid

    @property
    def is_running(self) -> bool:
        """Whether the process is there; a frozen one is."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the server and return once it accepts connections."""
        if self.is_running:
            return
        for _ in range(3):
            if self._launch():
                return
            if not any("already in use" in line for line in self._log):
                break
            self.port = free_port()
        raise ServerFailed("redis-server did not start:\n" + "".join(self._log))

    def kill(self) -> None:
        """End the server as SIGKILL does: at once, whatever it is doing, frozen or not."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            self._process.wait(PATIENCE)

    stop = kill

    def restart(self) -> None:
        """Kill the server and start it again, empty, on the same port."""
        self.kill()
        self.start()

    def freeze(self) -> None:
        """Stop the process without ending it: connections are accepted, nothing is answered."""
        self._running().send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen process go on; it answers what it was asked meanwhile."""
        self._running().send_signal(signal.SIGCONT)

    def ping(self, timeout: float = PATIENCE) -> bool:
        """Ask whether the server answers within `timeout` seconds."""
        try:
            return self._ask("PING", timeout) == "+PONG"
        except OSError:
            return False

    def clear(self) -> None:
        """Delete everything that the server holds."""
        answer = self._ask("FLUSHALL", PATIENCE)
        if answer != "+OK":
            raise ServerFailed(f"FLUSHALL was answered by {answer!r}")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            raise ServerFailed("redis-server is not running")
        return self._process

    def _launch(self) -> bool:
        options = {"bind": self.host, "port": str(self.port), "dir": str(self._folder)}
        options |= {"save": "", "appendonly": "no", "daemonize": "no", "logfile": ""}
        command = [self._program]
        for name, value in options.items():
            command += [f"--{name}", value]
        self._log.clear()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # Ctrl-C ends the tests, and the tests end the server
        )
        self._process = process
        told = threading.Event()
        ready = threading.Event()

        def read_log() -> None:
            assert process.stdout is not None
            with process.stdout:
                for line in process.stdout:
                    self._log.append(line)
                    if "eady to accept connections" in line:
                        ready.set()
                        told.set()
            told.set()

        threading.Thread(target=read_log, name="redis-log", daemon=True).start()
        if told.wait(PATIENCE) and ready.is_set():
            return True
        self.kill()
        return False

    def _ask(self, command: str, timeout: float) -> str:
        with socket.create_connection((self.host, self.port), timeout) as connection:
            connection.settimeout(timeout)
            connection.sendall(f"{command}\r\n".encode())
            with connection.makefile("rb") as answers:
                answer: bytes = answers.readline()
                return answer.decode().strip()
