"""The pages as an ASGI application, to be mounted in another one or served by itself."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from prometheus_client import REGISTRY

from resilient.engine import clock
from resilient.serving.pages import METRICS, MOST_SCRAPES, Page, page
from resilient.telemetry.metrics import register_metrics

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

__all__ = ["ASGIApp", "Message", "Receive", "Scope", "Send", "asgi_app", "encoded", "mounted"]

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


def asgi_app(*, registry: CollectorRegistry = REGISTRY) -> ASGIApp:
    """Return `/metrics` and the pages about health as an ASGI application.

    Metrics are rendered on a thread, so that a scrape never holds up the event loop; health is
    answered from memory.

    Arguments:
        registry: Where Prometheus's metrics come from; prometheus-client's default one.

    Raises:
        InvalidSetting: If `registry` is none.

    Example:
        >>> import resilient
        >>> from starlette.applications import Starlette
        >>> app = Starlette()
        >>> app.mount("/ops", resilient.asgi_app())  # /ops/metrics, /ops/health/ready, ...
    """
    register_metrics(registry)
    places = threading.Semaphore(MOST_SCRAPES)

    async def answer(scope: Scope) -> Page:
        method, path = scope["method"], _route(scope)
        query = scope.get("query_string", b"").decode("latin-1")
        accept = dict(scope["headers"]).get(b"accept", b"").decode("latin-1")
        find = partial(page, method, path, query, accept, registry)
        return await _on_a_thread(find, places, method) if path == METRICS else find()

    async def pages(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await send_page(send, await answer(scope))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
        else:
            await _live(receive, send)

    return pages


async def send_page(send: Send, answer: Page) -> None:
    """Send the whole of a response."""
    headers = encoded(answer.headers)
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})


def encoded(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """Return headers as ASGI has them."""
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]


def mounted(app: ASGIApp, *, prefix: str, pages: ASGIApp) -> ASGIApp:
    """Return `app` with `pages` below `prefix`, as a router would mount them."""

    async def either(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _route(scope).startswith(f"{prefix}/"):
            await app(scope, receive, send)
            return
        root = scope.get("root_path", "")
        await pages({**scope, "root_path": f"{root}{prefix}"}, receive, send)

    return either


def _route(scope: Scope) -> str:
    """Return the path below the place where the application is mounted."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    # Servers and routers since ASGI 3 leave the root in the path, older ones take it out.
    return path.removeprefix(root) if path.startswith(f"{root}/") else path


async def _live(receive: Receive, send: Send) -> None:
    """Say yes to the lifespan of a server that has nothing but these pages."""
    while (message := await receive())["type"] == "lifespan.startup":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": f"{message['type']}.complete"})


async def _on_a_thread(find: Callable[[], Page], places: threading.Semaphore, method: str) -> Page:
    """Return what `find` does, from a thread of its own: the loop's may all be taken."""
    loop = asyncio.get_running_loop()
    found: asyncio.Future[Page] = loop.create_future()

    def tell(answer: Page) -> None:
        if not found.done():
            found.set_result(answer)

    def work() -> None:
        try:
            answer = find()
        finally:
            places.release()
        with suppress(RuntimeError):  # the loop is closed meanwhile
            loop.call_soon_threadsafe(tell, answer)

    if places.acquire(blocking=False):
        if clock.current.background(work):
            return await found
        places.release()
    return Page.of(method, 503, "text/plain; charset=utf-8", b"too many scrapes at once\n")
