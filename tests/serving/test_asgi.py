"""The pages and the middleware where an event loop serves."""

# What returns Any may be a coroutine, for all that a type checker knows.
# pyright: reportUnusedCoroutine=false

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

import resilient
from resilient import (
    ASGIMiddleware,
    CallTimeout,
    CircuitOpen,
    Dependency,
    circuit_breaker,
    drain,
    observe,
    unit_of_work,
    with_fallback,
)
from resilient.serving.asgi import MOST_SCRAPES
from tests.doubles import Scripted, calls, each
from tests.serving.clients import asgi_serving, ask_asgi, ask_asgi_app, scope_of


def pages(**settings: Any) -> Any:
    return resilient.asgi_app(registry=CollectorRegistry(), **settings)


class Slow:
    """A collector that takes its time."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.go_on = threading.Event()
        self.threads: set[int] = set()

    def describe(self) -> list[Any]:
        return []

    def collect(self) -> list[Any]:
        self.threads.add(threading.get_ident())
        self.begun.release()
        assert self.go_on.wait(10)
        return []


def slow_pages() -> tuple[Slow, Any]:
    slow, registry = Slow(), CollectorRegistry()
    registry.register(slow)  # type: ignore[arg-type]
    return slow, resilient.asgi_app(registry=registry)


# Pages


@each(
    "path, root",
    {
        "by itself": ("/health/live", ""),
        "mounted, the root in the path": ("/ops/health/live", "/ops"),
        "mounted, the root taken out": ("/health/live", "/ops"),
        "behind a proxy": ("/shop/ops/health/live", "/shop/ops"),
    },
)
def test_pages_are_found_where_they_are_mounted(path: str, root: str) -> None:
    """Servers differ in whether the path holds the root; both are understood."""
    answer = asyncio.run(ask_asgi_app(pages(), scope_of(path) | {"root_path": root}))
    assert answer.status == 200
    assert answer.headers["Cache-Control"] == "no-store"


def test_pages_are_mounted_in_starlette_as_shown() -> None:
    """`app.mount("/ops", asgi_app())` has all of the pages."""
    app = Starlette()
    app.mount("/ops", pages())
    assert b'"pass"' in ask_asgi(app, "/ops/health/live").body
    assert ask_asgi(app, "/ops/readyz?verbose").status == 200
    assert b"resilient_calls_total" in ask_asgi(app, "/ops/metrics").body
    missing = ask_asgi(app, "/ops/else")
    assert (missing.status, b"/metrics" in missing.body) == (404, True)
    refused = ask_asgi(app, "/ops/metrics", "POST")
    assert (refused.status, refused.headers["Allow"]) == (405, "GET, HEAD")
    head = ask_asgi(app, "/ops/health/live", "HEAD")
    assert (head.status, head.body) == (200, b"")
    assert int(head.headers["Content-Length"]) > 0


def test_openmetrics_is_given_to_who_asks() -> None:
    """The Accept header decides, as with the server on a thread."""
    answer = ask_asgi(pages(), "/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text")


async def test_a_scrape_blocks_no_loop() -> None:
    """While a collector takes its time the loop does other things, such as answering a probe."""
    slow, app = slow_pages()
    scrape = asyncio.create_task(ask_asgi_app(app, scope_of("/metrics")))
    await asyncio.to_thread(slow.begun.acquire)
    assert (await ask_asgi_app(app, scope_of("/health/live"))).status == 200
    assert not scrape.done()
    slow.go_on.set()
    assert (await scrape).status == 200
    assert threading.get_ident() not in slow.threads


async def test_a_scrape_without_a_thread_is_refused_and_takes_no_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At the limit of a container Prometheus is told to come back, and is served when it does."""

    def refused(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    app = pages()
    with monkeypatch.context() as exhausted:
        exhausted.setattr(threading.Thread, "start", refused)
        answers = [await ask_asgi_app(app, scope_of("/metrics")) for _ in range(MOST_SCRAPES + 1)]
    assert {one.status for one in answers} == {503}
    assert (await ask_asgi_app(app, scope_of("/metrics"))).status == 200


async def test_scrapes_that_hang_are_bounded() -> None:
    """A collector that hangs for ever holds a few threads, also when its clients have gone."""
    slow, app = slow_pages()
    scrapes = [
        asyncio.create_task(ask_asgi_app(app, scope_of("/metrics"))) for _ in range(MOST_SCRAPES)
    ]
    for _ in scrapes:
        await asyncio.to_thread(slow.begun.acquire)
    scrapes[0].cancel()
    assert (await ask_asgi_app(app, scope_of("/metrics"))).status == 503
    slow.go_on.set()
    assert [one.status for one in await asyncio.gather(*scrapes[1:])] == [200] * (MOST_SCRAPES - 1)
    assert (await ask_asgi_app(app, scope_of("/metrics"))).status == 200


async def test_pages_can_be_all_that_a_server_has() -> None:
    """Served by themselves they take part in the lifespan, and turn websockets away."""
    lifespan = ["lifespan.startup", "lifespan.shutdown"]
    assert await told(pages(), {"type": "lifespan"}, *lifespan) == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
    socket = scope_of("/livez") | {"type": "websocket"}
    assert await told(pages(), socket, "websocket.connect") == ["websocket.close"]


async def told(app: Any, scope: Any, *messages: str) -> list[str]:
    """Return what an application says to `messages`."""
    waiting, said = [*messages], list[str]()

    async def receive() -> Any:
        return {"type": waiting.pop(0)}

    async def send(message: Any) -> None:
        said.append(message["type"])

    await app(scope, receive, send)
    return said


# The middleware in frameworks


def product(request: Any) -> PlainTextResponse:
    return PlainTextResponse(with_fallback("stale")(Scripted(ConnectionError))())


async def failing(request: Any) -> PlainTextResponse:
    raise CircuitOpen("payments", 2.5)


async def hanging(request: Any) -> PlainTextResponse:
    await asyncio.sleep(30)
    raise AssertionError("not cut")


async def talking(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text("hello")
    await socket.close()


def starlette(**settings: Any) -> Starlette:
    app = Starlette(
        routes=[
            Route("/product", product),
            Route("/failing", failing),
            Route("/hanging", hanging),
            WebSocketRoute("/talk", talking),
            Mount("/ops", pages()),
        ]
    )
    app.add_middleware(resilient.ASGIMiddleware, **settings)
    return app


def fastapi(**settings: Any) -> FastAPI:
    app = FastAPI()
    app.add_api_route("/product", lambda: PlainTextResponse(product(None).body))
    app.add_route("/failing", failing)
    app.add_route("/hanging", hanging)
    app.add_api_websocket_route("/talk", talking)
    app.mount("/ops", pages())
    app.add_middleware(resilient.ASGIMiddleware, **settings)
    return app


@each("made", {"Starlette": starlette, "FastAPI": fastapi})
def test_the_middleware_is_added_as_shown(made: Any) -> None:
    """`app.add_middleware(resilient.ASGIMiddleware)` does all that it says, threads included."""
    app = made(max_deadline=10)
    answer = ask_asgi(app, "/product", X_Request_ID="r1")
    assert (answer.body, answer.headers["X-Request-Id"]) == (b"stale", "r1")
    assert "tier=default" in answer.headers["Degraded"]
    refused = ask_asgi(app, "/failing")
    assert (refused.status, refused.headers["Retry-After"]) == (503, "3")
    assert ask_asgi(app, "/hanging", X_Request_Timeout_Ms="20").status == 504
    socket = scope_of("/talk") | {"type": "websocket"}
    assert asyncio.run(told(app, socket, "websocket.connect")) == [
        "websocket.accept",
        "websocket.send",
        "websocket.close",
    ]
    begun = drain(timeout=1)
    try:
        assert ask_asgi(app, "/product").status == 503
        assert ask_asgi(app, "/ops/health/ready").status == 503
        assert ask_asgi(app, "/ops/health/live").status == 200
    finally:
        begun.resume()


def test_what_fastapi_depends_on_may_yield_within_blocks() -> None:
    """Both halves of it are run on threads of FastAPI's, each in a context of its own."""
    shop = Dependency("yielded to fastapi", breaker=circuit_breaker(fail_max=9), max_concurrent=1)

    def session() -> Iterator[str]:
        with shop, observe("session"), unit_of_work():
            yield "open"

    def product(of: str = Depends(session)) -> PlainTextResponse:
        return PlainTextResponse(of)

    app = FastAPI()
    app.add_api_route("/product", product)
    assert [ask_asgi(app, "/product").body for _ in range(3)] == [b"open"] * 3
    assert shop.bulkhead is not None
    assert shop.bulkhead.in_flight == 0
    assert calls("yielded to fastapi") == {"success": 3}


def test_another_middleware_in_between_changes_nothing() -> None:
    """Starlette's own base class runs the application in a task of its own."""
    app = starlette()

    async def passing(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    app.add_middleware(BaseHTTPMiddleware, dispatch=passing)
    app.user_middleware.reverse()
    with warnings.catch_warnings():  # an old one leaves streams open when an error goes through it
        warnings.simplefilter("ignore", ResourceWarning)
        assert "tier=default" in ask_asgi(app, "/product").headers["Degraded"]
        assert ask_asgi(app, "/failing").status == 503
        assert ask_asgi(app, "/hanging", X_Request_Timeout_Ms="20").status == 504
        gc.collect()


# Once the response has started


async def answered(app: Any, **headers: str) -> tuple[list[Any], BaseException | None]:
    """Return what has been sent, and the error that has come out."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return await asyncio.get_running_loop().create_future()

    try:
        await app(scope_of("/", **headers), receive, send)
    except Exception as error:
        return sent, error
    return sent, None


@each(
    "error",
    {"rejected": CircuitOpen("later", 1), "too slow": CallTimeout("later", 1)},
)
async def test_a_response_that_has_started_is_not_followed_by_another(error: Exception) -> None:
    """An error in the middle of a response goes on to the server, which breaks it off."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise error

    sent, raised = await answered(ASGIMiddleware(app))
    assert raised is error
    assert [one["type"] for one in sent] == ["http.response.start", "http.response.body"]


async def test_a_deadline_ends_a_stream() -> None:
    """What is being sent when the time is over is broken off."""

    async def items() -> AsyncIterator[bytes]:
        yield b"first"
        await asyncio.sleep(30)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await StreamingResponse(items())(scope, receive, send)

    sent, raised = await answered(ASGIMiddleware(app), X_Request_Timeout_Ms="30")
    assert isinstance(raised, CallTimeout)
    assert [one["status"] for one in sent if "status" in one] == [200]


async def test_requests_that_are_over_leave_no_timers() -> None:
    """A thousand requests with a minute each do not keep a thousand timers for a minute."""
    app = ASGIMiddleware(asgi_serving(lambda: b""))
    for number in range(1000):
        await ask_asgi_app(app, scope_of("/", X_Request_Timeout_Ms=str(60_000 - number % 7)))
    timers: list[asyncio.TimerHandle] = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
    assert len([one for one in timers if not one.cancelled()]) <= 2


async def test_what_is_left_behind_sends_nothing_after_a_refusal() -> None:
    """A task of the application that comes too late does not send a second response."""
    late = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def work() -> None:
            await late.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})

        tasks.append(asyncio.create_task(work()))
        await asyncio.shield(tasks[0])

    tasks: list[asyncio.Task[None]] = []
    sent, raised = await answered(ASGIMiddleware(app), X_Request_Timeout_Ms="20")
    late.set()
    await tasks[0]
    assert raised is None
    assert [one["status"] for one in sent if "status" in one] == [504]


async def test_a_stream_is_in_flight_to_its_end_and_tells_what_is_known_at_its_start() -> None:
    """Draining waits for the last byte; the header has what was degraded before the first."""
    go_on, started = asyncio.Event(), asyncio.Event()
    broken = with_fallback("stale")(Scripted(ConnectionError))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        broken()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        started.set()
        await go_on.wait()
        broken()
        await send({"type": "http.response.body", "body": b"end"})

    answer = asyncio.create_task(answered(ASGIMiddleware(app)))
    await started.wait()
    begun = drain(timeout=5)
    try:
        assert begun.left == 1
        go_on.set()
        assert await begun
        sent, _ = await answer
        assert [name for name, _ in sent[0]["headers"]] == [b"degraded", b"x-request-id"]
    finally:
        begun.resume()


async def test_a_cancelled_request_stays_cancelled() -> None:
    """A client that has gone is no refusal, and leaves nothing in flight."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(30)

    task = asyncio.create_task(answered(ASGIMiddleware(app), X_Request_Timeout_Ms="20000"))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    begun = drain(timeout=0)
    assert begun.left == 0
    begun.resume()


def test_http_2_has_no_connection_to_close() -> None:
    """The header is of HTTP/1 only, and an error in later versions."""
    app = ASGIMiddleware(asgi_serving(lambda: b""))
    begun = drain(timeout=1)
    try:
        answer = asyncio.run(ask_asgi_app(app, scope_of("/") | {"http_version": "2"}))
    finally:
        begun.resume()
    assert answer.status == 503
    assert "Connection" not in answer.headers


@each("kind", {"websocket": "websocket", "one to come": "webtransport"})
async def test_what_is_no_http_request_passes_through(kind: str) -> None:
    """The application gets the very same scope, receive and send."""
    seen: list[Any] = []

    async def app(*given: Any) -> None:
        seen.extend(given)

    async def receive() -> Any: ...

    async def send(message: Any) -> None: ...

    scope = {"type": kind}
    await ASGIMiddleware(app)(scope, receive, send)
    assert seen[0] is scope
    assert seen[1:] == [receive, send]
