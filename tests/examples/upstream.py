"""An upstream that the examples call: it answers, is stopped and started, and remembers."""

from __future__ import annotations

import http.client
import http.server
import json
import socket
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any, Self

from tests.servers import PATIENCE, free_port


class Upstream:
    """A server of HTTP on a port that stays the same when it is stopped and started again.

    `answers` maps a path to a function of the request's body and headers, which returns a status
    and what is sent as JSON; one that returns None breaks the connection without an answer.
    """

    def __init__(self, answers: Mapping[str, Callable[[Any, Mapping[str, str]], Any]]) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.asked: Counter[str] = Counter()
        self._answers = answers
        self._server: http.server.ThreadingHTTPServer | None = None

    def start(self) -> None:
        self._server = _Listening(("127.0.0.1", self.port), self._handler())
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        upstream = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                upstream.asked[self.path] += 1
                answer = upstream._answers[self.path](
                    json.loads(body) if body else None, dict(self.headers.items())
                )
                if answer is None:
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                status, said = answer
                sent = json.dumps(said).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(sent)))
                self.end_headers()
                self.wfile.write(sent)

            do_POST = do_GET  # noqa: N815

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                """Log nothing."""

        return Handler


class _Listening(http.server.ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that have left."""


def ask(
    url: str, method: str = "GET", about: Any = None, **headers: str
) -> tuple[int, Mapping[str, str], str]:
    """Return status, headers and text of an answer."""
    host, _, path = url.removeprefix("http://").partition("/")
    with closing(http.client.HTTPConnection(host, timeout=3 * PATIENCE)) as connection:
        body = None if about is None else json.dumps(about)
        sent = {"Content-Type": "application/json"} if body else {}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, f"/{path}", body, sent)
        response = connection.getresponse()
        return response.status, response.headers, response.read().decode()  # type: ignore[return-value]
