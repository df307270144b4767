"""A small load balancer that follows readiness, as a Service of Kubernetes does."""

from __future__ import annotations

import http.server
import threading
from collections import Counter
from typing import Any, Self

from tests.examples.deployed import Pod


class Balancer:
    """Hands each request to the next of those that are ready, and notes to whom.

    Each is probed ten times a second, as the manifest says how; one that has not been seen to be
    ready gets nothing.
    """

    def __init__(self, *pods: Pod) -> None:
        self.given: Counter[Pod] = Counter()
        self.probed: Counter[tuple[Pod, int]] = Counter()
        self._pods: list[Pod] = []
        self._ready: list[Pod] = []
        self._turn = 0
        self._ended = threading.Event()
        self._lock = threading.Lock()
        balancer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, text = balancer._handed_over(self.path)
                sent = text.encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(sent)))
                self.end_headers()
                self.wfile.write(sent)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                """Log nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        for pod in pods:
            self.add(pod)

    def add(self, pod: Pod) -> None:
        """Begin to probe another one."""
        self._pods.append(pod)
        threading.Thread(target=self._probe, args=(pod,), daemon=True).start()

    def remove(self, pod: Pod) -> None:
        """Send it nothing any more: it is about to be told to end."""
        with self._lock:
            self._pods.remove(pod)
            if pod in self._ready:
                self._ready.remove(pod)

    def has_someone(self) -> bool:
        """Whether there is anybody who gets requests."""
        return bool(self._ready)

    def is_ready(self, pod: Pod) -> bool:
        """Whether it gets requests."""
        return pod in self._ready

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()

    def _handed_over(self, path: str) -> tuple[int, str]:
        with self._lock:
            if not self._ready:
                return 503, "nobody is ready"
            self._turn += 1
            pod = self._ready[self._turn % len(self._ready)]
            self.given[pod] += 1
        return pod.ask("http", path)

    def _probe(self, pod: Pod) -> None:
        while not self._ended.wait(0.1) and pod in self._pods:
            try:
                status = pod.probed("readiness")
            except OSError:
                status = 0
            with self._lock:
                self.probed[pod, status] += 1
                if pod in self._pods and status == 200 and pod not in self._ready:
                    self._ready.append(pod)
                elif status != 200 and pod in self._ready:
                    self._ready.remove(pod)
