"""The pages that Prometheus and Kubernetes read, for whatever serves them: a thread, ASGI, WSGI."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from threading import Semaphore
from typing import TYPE_CHECKING, final

from prometheus_client import REGISTRY

from resilient.engine import settings
from resilient.errors import InvalidSetting
from resilient.telemetry import health
from resilient.telemetry.metrics import exposition

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

__all__ = ["METRICS", "MOST_SCRAPES", "Page", "is_page", "mount_point", "page"]

METRICS = "/metrics"
_ALL = (METRICS, *health.PATHS, "/startupz", "/readyz", "/livez")
_TEXT = "text/plain; charset=utf-8"
#: As many scrapes are answered at once; more of them mean that a collector hangs.
MOST_SCRAPES = 4
#: Seconds that another one waits for its turn.
PATIENCE = 1.0


@final
@dataclass(frozen=True, slots=True)
class Page:
    """What is answered, in the terms of HTTP."""

    status: int
    headers: Sequence[tuple[str, str]]
    body: bytes

    @property
    def status_line(self) -> str:
        """The status as WSGI wants it, such as "200 OK"."""
        return f"{self.status} {HTTPStatus(self.status).phrase}"

    @classmethod
    def of(
        cls, method: str, status: int, kind: str, body: bytes, *further: tuple[str, str]
    ) -> Page:
        """Return a page that nobody keeps; without its body for HEAD."""
        headers = (
            ("Content-Type", kind),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            *further,
        )
        return cls(status, headers, b"" if method == "HEAD" else body)


def is_page(path: str) -> bool:
    """Return whether `path` ends like one of the pages, wherever they are mounted."""
    return path.endswith(_ALL)


def mount_point(prefix: str) -> str:
    """Return `prefix` if pages can be mounted there."""
    if not settings.text("prefix", prefix).startswith("/") or prefix.endswith("/"):
        raise InvalidSetting("prefix", prefix, 'a path such as "/ops", with no slash at its end')
    return prefix


def page(
    method: str,
    path: str,
    query: str = "",
    accept: str = "",
    registry: CollectorRegistry = REGISTRY,
) -> Page:
    """Return one of the pages, or the error that says which there are; raises nothing.

    Arguments:
        method: GET or HEAD; others are refused.
        path: The path below the place where the pages are mounted.
        query: The query without its "?".
        accept: The `Accept` header of the request.
        registry: Where Prometheus's metrics come from.
    """
    if method not in ("GET", "HEAD"):
        return Page.of(method, 405, _TEXT, b"GET or HEAD\n", ("Allow", "GET, HEAD"))
    try:
        found = _found(path, query, accept, registry)
    except Exception as error:  # a collector of somebody else's; its text may hold anything
        return Page.of(method, 500, _TEXT, f"{type(error).__name__}\n".encode())
    if found is None:
        found = 404, _TEXT, "\n".join((METRICS, *health.PATHS, "")).encode()
    return Page.of(method, *found)


def _found(
    path: str, query: str, accept: str, registry: CollectorRegistry
) -> tuple[int, str, bytes] | None:
    if path != METRICS:
        return health.page(path, query)
    places = _places
    if not places.acquire(timeout=PATIENCE):
        return 503, _TEXT, b"too many scrapes at once\n"
    try:
        body, kind = exposition(accept, registry)
    finally:
        places.release()
    return 200, kind, body


def _begin_anew() -> None:
    # The scrapes of a parent are not under way in a forked child.
    global _places
    _places = Semaphore(MOST_SCRAPES)


_places = Semaphore(MOST_SCRAPES)
os.register_at_fork(after_in_child=_begin_anew)
