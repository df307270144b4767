"""Real servers for tests: started on a free port of the loopback interface, gone at the end.

A server can be killed, frozen and started again, as it happens to servers.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import pytest

from tests.waiting import PATIENCE


class ServerFailed(Exception):
    """A server that did not start, or did not answer as it should."""


def require_program(name: str) -> str:
    """Return the path of a program; without it skip the test, or fail it where it must be there."""
    found = shutil.which(name) or next(map(str, _out_of_the_path(name)), None)
    if found is not None:
        return found
    reason = f"{name} is not installed"
    if os.environ.get("RESILIENT_REQUIRE_SERVERS") == "1":
        pytest.fail(f"{reason}, and RESILIENT_REQUIRE_SERVERS=1 asks for it", pytrace=False)
    pytest.skip(reason)


def _out_of_the_path(name: str) -> list[Path]:
    """Return where Debian keeps PostgreSQL's programs, the newest first."""
    return sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class Server(ABC):
    """A server of our own; used as a context manager it runs inside of the block.

    Its port stays the same when it is started again.
    """

    name: str
    #: Whom the process runs as; None for whom the tests do.
    user: str | None = None
    #: What it logs when it accepts connections.
    ready: str = "eady to accept"
    #: What is in its environment besides that of the tests.
    environment: Mapping[str, str] = {}

    def __init__(self) -> None:
        self.host = "127.0.0.1"
        self.port = free_port()
        self._process: subprocess.Popen[str] | None = None
        self._log: deque[str] = deque(maxlen=50)

    @property
    @abstractmethod
    def url(self) -> str:
        """The address, as clients take it."""

    @abstractmethod
    def _command(self) -> list[str]:
        """Return the command that runs the server in the foreground, on its port."""

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
        raise ServerFailed(f"{self.name} did not start:\n" + "".join(self._log))

    def kill(self) -> None:
        """End the server as SIGKILL does: at once, whatever it is doing, frozen or not."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(PATIENCE)

    stop = kill

    def restart(self) -> None:
        """Kill the server and start it again on the same port."""
        self.kill()
        self.start()

    def freeze(self) -> None:
        """Stop all of its processes without ending them: connections are accepted, no answers."""
        os.killpg(self._running().pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let what is frozen go on; it answers what it was asked meanwhile."""
        os.killpg(self._running().pid, signal.SIGCONT)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            raise ServerFailed(f"{self.name} is not running")
        return self._process

    def _launch(self) -> bool:
        self._log.clear()
        process = subprocess.Popen(
            self._command(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # Ctrl-C ends the tests, and the tests end the server
            user=self.user,
            env={**os.environ, **self.environment},
        )
        self._process = process
        told = threading.Event()
        ready = threading.Event()

        def read_log() -> None:
            assert process.stdout is not None
            with process.stdout:
                for line in process.stdout:
                    self._log.append(line)
                    if self.ready in line:
                        ready.set()
                        told.set()
            told.set()

        threading.Thread(target=read_log, name=f"{self.name}-log", daemon=True).start()
        if told.wait(PATIENCE) and ready.is_set():
            return True
        self.kill()
        return False


class RedisServer(Server):
    """A redis-server without persistence: what it held is lost when it ends."""

    name = "redis-server"

    def __init__(self, program: str, folder: Path) -> None:
        super().__init__()
        self._program = program
        self._folder = folder

    @property
    def url(self) -> str:
        """The address, as redis-py takes it."""
        return f"redis://{self.host}:{self.port}/0"

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

    def _command(self) -> list[str]:
        options = {"bind": self.host, "port": str(self.port), "dir": str(self._folder)}
        options |= {"save": "", "appendonly": "no", "daemonize": "no", "logfile": ""}
        command = [self._program]
        for name, value in options.items():
            command += [f"--{name}", value]
        return command

    def _ask(self, command: str, timeout: float) -> str:
        with socket.create_connection((self.host, self.port), timeout) as connection:
            connection.settimeout(timeout)
            connection.sendall(f"{command}\r\n".encode())
            with connection.makefile("rb") as answers:
                answer: bytes = answers.readline()
                return answer.decode().strip()


class PostgresServer(Server):
    """A PostgreSQL cluster in a folder of its own, which goes when the block ends.

    What was committed survives a kill. `primary` makes it a replica that streams from that one.
    """

    name = "postgres"
    #: PostgreSQL refuses to run as root.
    user = "nobody" if os.geteuid() == 0 else None

    def __init__(self, primary: PostgresServer | None = None) -> None:
        super().__init__()
        self._program = require_program("postgres")
        self._folder = Path(tempfile.mkdtemp(prefix="resilient-postgres-"))
        self._data = self._folder / "data"
        if self.user is not None:
            shutil.chown(self._folder, self.user)
        if primary is None:
            options = ("--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C")
            self._run("initdb", *options, "--no-sync", f"--pgdata={self._data}")
        else:
            streaming = ("--write-recovery-conf", "--checkpoint=fast", "--no-sync")
            self._run("pg_basebackup", *streaming, f"--pgdata={self._data}", "-d", primary.url)

    @property
    def url(self) -> str:
        """The address, as libpq takes it."""
        return f"postgresql://postgres@{self.host}:{self.port}/postgres"

    def sql(self, command: str) -> str:
        """Return what psql prints for `command`: a line a row, its columns joined by "|"."""
        return self._run("psql", "-qAtX", "-v", "ON_ERROR_STOP=1", "-d", self.url, "-c", command)

    def replica(self) -> PostgresServer:
        """Return a server that streams from this one, which has to run; it is not started yet."""
        return PostgresServer(self)

    def promote(self) -> None:
        """Make a replica a primary, and return once it takes writes."""
        self.sql("SELECT pg_promote()")

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _command(self) -> list[str]:
        settings = {"listen_addresses": self.host, "unix_socket_directories": "", "fsync": "off"}
        command = [self._program, "-D", str(self._data), "-p", str(self.port)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        return command

    def _run(self, program: str, *arguments: str) -> str:
        done = subprocess.run(
            [require_program(program), *arguments],
            capture_output=True,
            text=True,
            timeout=6 * PATIENCE,
            cwd=self._folder,
            user=self.user,
            check=False,
        )
        if done.returncode != 0:
            raise ServerFailed(f"{program} failed:\n{done.stderr}")
        return done.stdout.strip()


class PrometheusServer(Server):
    """A Prometheus that scrapes the given addresses, each five times a second."""

    name = "prometheus"
    ready = "eady to receive web requests"

    def __init__(self, program: str, folder: Path, *targets: str) -> None:
        super().__init__()
        self._program = program
        self._folder = folder
        self._targets = targets

    @property
    def url(self) -> str:
        """The address of its own pages and of its API."""
        return f"http://{self.host}:{self.port}"

    def query(self, question: str) -> list[tuple[dict[str, str], float]]:
        """Return the labels and the value of each series that answers `question`, in PromQL."""
        address = f"{self.url}/api/v1/query?{urllib.parse.urlencode({'query': question})}"
        with urllib.request.urlopen(address, timeout=PATIENCE) as answer:
            found = json.load(answer)["data"]["result"]
        return [(one["metric"], float(one["value"][1])) for one in found]

    def _command(self) -> list[str]:
        scraped = [{"job_name": "tests", "static_configs": [{"targets": list(self._targets)}]}]
        settings = {"global": {"scrape_interval": "200ms"}, "scrape_configs": scraped}
        file = self._folder / "prometheus.yml"
        file.write_text(json.dumps(settings))  # JSON is YAML too
        return [
            self._program,
            f"--config.file={file}",
            f"--storage.tsdb.path={self._folder / 'data'}",
            f"--web.listen-address={self.host}:{self.port}",
        ]


class GunicornServer(Server):
    """Gunicorn with four synchronous workers of one application."""

    name = "gunicorn"
    ready = "Listening at"
    workers = 4

    def __init__(self, application: str, *options: str, **environment: str) -> None:
        super().__init__()
        self._application = application
        self._options = options
        self.environment = environment

    @property
    def url(self) -> str:
        """The address that the workers share."""
        return f"http://{self.host}:{self.port}"

    def get(self, path: str) -> str:
        """Return what one of the workers answers."""
        with urllib.request.urlopen(self.url + path, timeout=PATIENCE) as answer:
            text: str = answer.read().decode()
            return text

    def reload(self) -> None:
        """Have all workers replaced by new ones, which ends the old ones gracefully."""
        self._running().send_signal(signal.SIGHUP)

    def stop(self) -> None:
        """End it gracefully, and by force if that does not end it."""
        if self.is_running:
            self._running().terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._running().wait(PATIENCE)
        self.kill()

    def _command(self) -> list[str]:
        address, number = f"--bind={self.host}:{self.port}", f"--workers={self.workers}"
        # A worker that was just forked does not hear of the end, and is waited for so long.
        options = [address, number, "--graceful-timeout=5", *self._options]
        return [sys.executable, "-m", "gunicorn", *options, self._application]


class UvicornServer(GunicornServer):
    """Uvicorn with two workers of one application."""

    name = "uvicorn"
    ready = "Application startup complete"
    workers = 2

    def start(self) -> None:
        """Start the workers and return once one accepts connections, just after it says so."""
        super().start()
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection((self.host, self.port), PATIENCE).close()
            except ConnectionRefusedError:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            else:
                return

    def _command(self) -> list[str]:
        options = [f"--host={self.host}", f"--port={self.port}", f"--workers={self.workers}"]
        return [sys.executable, "-m", "uvicorn", *options, *self._options, self._application]
