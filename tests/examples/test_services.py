"""The example for Django does what its page says, in real servers with a real upstream."""

from __future__ import annotations

import http.client
import http.server
import json
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.doubles import each
from tests.servers import PATIENCE, Server

EXAMPLES = Path(__file__).parents[2] / "examples"


class Upstream(http.server.ThreadingHTTPServer):
    """What the services call; it notes how much time it was given."""

    daemon_threads = True

    def __init__(self) -> None:
        self.given: list[str | None] = []
        super().__init__(("127.0.0.1", 0), Answers)
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        self.shutdown()
        self.server_close()


class Answers(http.server.BaseHTTPRequestHandler):
    """Says that all went well."""

    def do_GET(self) -> None:
        assert isinstance(self.server, Upstream)
        self.server.given.append(self.headers["X-Request-Timeout-Ms"])
        self.send_response(200)
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"real")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Log nothing."""


class Example(Server):
    """One of the examples, served as its page says."""

    def __init__(self, folder: str, upstream: Upstream, *command: str) -> None:
        super().__init__()
        self.name = folder
        self.ready = "Booting worker" if "gunicorn" in command else "unning on "
        self._folder = EXAMPLES / folder
        self._arguments = command
        address = f"http://127.0.0.1:{upstream.server_address[1]}"
        self.environment = {"UPSTREAM": address, "PYTHONPATH": str(self._folder)}
        self.environment |= {"PORT": str(self.port), "PYTHONWARNINGS": "default"}

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def _command(self) -> list[str]:
        at = {"{bind}": f"--bind={self.host}:{self.port}", "{port}": f"--port={self.port}"}
        return [sys.executable, *(at.get(one, one) for one in self._arguments)]

    def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, Any, str]:
        """Return status, headers and text of an answer."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=PATIENCE)
        with closing(connection):
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, headers=named)
            response = connection.getresponse()
            return response.status, response.headers, response.read().decode()

    def end(self) -> int:
        """Tell it to end, and return how it did."""
        process = self._running()
        process.send_signal(signal.SIGTERM)
        return process.wait(PATIENCE)


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    """An upstream that works until it is stopped."""
    running = Upstream()
    yield running
    running.stop()


@each(
    "folder, command, status",
    {
        "Django, by gunicorn": ("django_service", ("-m", "gunicorn", "wsgi", "{bind}"), 0),
        "Django, by uvicorn": (
            "django_service",
            ("-m", "uvicorn", "asgi:application", "{port}", "--lifespan=off"),
            -signal.SIGTERM,
        ),
    },
)
def test_an_example_does_what_its_page_says(
    folder: str, command: tuple[str, ...], status: int, upstream: Upstream
) -> None:
    """Real, degraded, refused, late, probed, scraped and ended: everything on the page is so."""
    with Example(folder, upstream, *command) as service:
        code, headers, text = service.ask("/product", X_Request_Timeout_Ms="9000")
        assert (code, json.loads(text)["recommended"]) == (200, "real")
        assert headers["X-Request-ID"]
        assert headers["Degraded"] is None
        [given] = upstream.given
        assert given is not None
        assert 0 < int(given) <= 9000
        assert service.ask("/pay", "POST")[0] == 200
        assert service.ask("/ops/health/startup")[0] == 200
        assert service.ask("/ops/health/ready")[0] == 200

        upstream.stop()
        code, headers, text = service.ask("/product")
        assert (code, json.loads(text)["recommended"]) == (200, "what is popular")
        assert headers["Degraded"] == "recommendations;tier=default"
        assert [service.ask("/pay", "POST")[0] for _ in range(3)] == [500, 500, 500]
        code, headers, text = service.ask("/pay", "POST")
        assert (code, headers["Retry-After"], json.loads(text)["status"]) == (503, "1", 503)
        assert headers["Content-Type"] == "application/problem+json"
        assert headers["X-Request-ID"]
        assert service.ask("/product", X_Request_Timeout_Ms="0")[0] == 504
        assert service.ask("/ops/health/ready")[0] == 503
        assert service.ask("/ops/health/live")[0] == 200
        metrics = service.ask("/ops/metrics")[2]
        assert 'resilient_circuit_state{dependency="payments",state="open"} 1.0' in metrics
        assert service.end() == status
