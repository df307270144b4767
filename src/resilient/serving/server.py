"""`/metrics` and `/health/*` on a port of their own, from a daemon thread, for any process."""

from __future__ import annotations

import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import TYPE_CHECKING, Any, final

from prometheus_client import REGISTRY

from resilient.engine import settings
from resilient.engine.isolation import report_broken
from resilient.errors import InvalidSetting
from resilient.serving.pages import page
from resilient.telemetry.metrics import register_metrics

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

__all__ = ["Server", "serve"]

#: The headers that announce a body.
_BODY = {"content-length", "transfer-encoding"}


@final
class Server:
    """The pages, for as long as it is not closed."""

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self._server = server
        self._thread = threading.Thread(
            target=server.serve_forever,
            kwargs={"poll_interval": 0.1},
            name="resilient-serve",
            daemon=True,
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def serve(
    port: int = 9090, host: str = "127.0.0.1", *, registry: CollectorRegistry = REGISTRY
) -> Server:
    """Serve `/metrics`, `/health/startup`, `/health/ready` and `/health/live` on a thread.

    Arguments:
        port: The port, 0 for any that is free.
        host: The address to listen on. Only this machine can ask unless you say otherwise, such
            as "0.0.0.0" in a container, or "::" where there is IPv6.
        registry: Where Prometheus's metrics come from; prometheus-client's default one.

    Returns:
        The server, with its `port` and `close()`.

    Raises:
        InvalidSetting: If the port is no port, or the host no name or address.
        OSError: If the port is taken, or the host is not this machine.

    Example:
        >>> import resilient
        >>> server = resilient.serve(port=0)
        >>> server.port > 0
        True
        >>> server.close()
    """
    settings.text("host", host)
    if type(port) is not int or not 0 <= port <= 65535:
        raise InvalidSetting("port", port, "a whole number from 0 to 65535")
    register_metrics(registry)

    class Pages(_Pages):
        metrics = registry

    try:
        server = (_Listener6 if ":" in host else _Listener)((host, port), Pages)
    except (TypeError, ValueError):  # no name that could be looked up
        raise InvalidSetting("host", host, "a name or an address of this machine") from None
    return Server(server)


class _Listener(ThreadingHTTPServer):
    """Begins a thread for each connection."""

    daemon_threads = True
    #: So many may come at one moment; one more waits a second, until its client tries again.
    request_queue_size = 128

    def server_bind(self) -> None:
        """Bind, and look up no name: a service may start while there is no answer to that."""
        TCPServer.server_bind(self)
        name, self.server_port = self.server_address[:2]
        self.server_name = str(name)

    def handle_error(self, request: object, client_address: object) -> None:
        """Report what is wrong here; that a client has gone before it had its answer is not."""
        error = sys.exc_info()[1]
        if isinstance(error, Exception) and not isinstance(error, ConnectionError | TimeoutError):
            report_broken("serving", error)


class _Listener6(_Listener):
    """The same for IPv6; "::" is for both where the system does not say otherwise."""

    address_family = socket.AF_INET6


class _Pages(BaseHTTPRequestHandler):
    """Answers one request."""

    metrics: CollectorRegistry
    protocol_version = "HTTP/1.1"
    timeout = 10

    def do_GET(self) -> None:
        """Answer one of the pages."""
        path, _, query = self.path.partition("?")
        accept = self.headers.get("Accept", "")
        answer = page(self.command, path, query, accept, self.metrics)
        self.send_response(answer.status)
        for name, value in answer.headers:
            self.send_header(name, value)
        if self.command not in ("GET", "HEAD") or _BODY & {name.lower() for name in self.headers}:
            self.send_header("Connection", "close")  # a body, if there is one, is not read
        self.end_headers()
        self.wfile.write(answer.body)

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815 - the server's names

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Log nothing: a probe every second is no event."""
