"""Applications that do as a test says, and what a client gets from them, by ASGI and by WSGI."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

from resilient import ASGIMiddleware, WSGIMiddleware
from tests.doubles import each

Work = Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client has received."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def environ_of(path: str, method: str = "GET", **headers: str) -> dict[str, Any]:
    """Return what a WSGI server hands to an application."""
    path, _, query = path.partition("?")
    environ: dict[str, Any] = {"REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": query}
    environ["SCRIPT_NAME"] = ""
    environ |= {f"HTTP_{name.upper()}": value for name, value in headers.items()}
    setup_testing_defaults(environ)
    return environ


def ask_wsgi(app: Any, path: str = "/", method: str = "GET", **headers: str) -> Answer:
    """Ask a WSGI application as a server that insists on every rule of PEP 3333."""
    started: list[tuple[str, list[tuple[str, str]]]] = []
    sent: list[bytes] = []

    def start_response(status: str, headers: Any, exc_info: Any = None) -> Callable[[bytes], None]:
        if exc_info and any(sent):
            raise exc_info[1]
        assert exc_info or not started
        started.append((status, headers))
        return sent.append

    environ = environ_of(path, method, **headers)
    with closing(validator(app)(environ, start_response)) as body:  # type: ignore[type-var]
        sent.extend(body)
    status, given = started[-1]
    names = [name.lower() for name, _ in given]
    assert len(names) == len(set(names))
    return Answer(int(status.split()[0]), dict(given), b"".join(sent))


def scope_of(path: str, method: str = "GET", **headers: str) -> dict[str, Any]:
    """Return what an ASGI server hands to an application."""
    path, _, query = path.partition("?")
    named = [
        (name.lower().replace("_", "-").encode(), value.encode("latin-1"))
        for name, value in headers.items()
    ]
    return {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "path": path,
        "root_path": "",
        "query_string": query.encode(),
        "headers": named,
    }


async def ask_asgi_app(app: Any, scope: dict[str, Any]) -> Answer:
    """Ask an ASGI application as a server does."""
    messages: list[Any] = []

    async def send(message: Any) -> None:
        is_first = message["type"] == "http.response.start"
        assert is_first == (not messages), "one start, and first"
        messages.append(message)

    has_asked = False

    async def receive() -> Any:
        nonlocal has_asked
        if has_asked:  # the client waits for the answer
            await asyncio.get_running_loop().create_future()
        has_asked = True
        return {"type": "http.request", "body": b"", "more_body": False}

    await app(scope, receive, send)
    start, *rest = messages
    given = [(name.decode(), value.decode("latin-1")) for name, value in start["headers"]]
    names = [name.lower() for name, _ in given]
    assert len(names) == len(set(names))
    headers = {name.title(): value for name, value in given}
    return Answer(start["status"], headers, b"".join(one.get("body", b"") for one in rest))


def ask_asgi(app: Any, path: str = "/", method: str = "GET", **headers: str) -> Answer:
    """Ask an ASGI application on a loop of its own."""
    return asyncio.run(ask_asgi_app(app, scope_of(path, method, **headers)))


def asgi_serving(work: Work, *own: tuple[str, str]) -> Any:
    """Return an ASGI application that answers what `work` returns."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = work()
        headers = [(name.lower().encode(), value.encode()) for name, value in own]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


def wsgi_serving(work: Work, *own: tuple[str, str]) -> Any:
    """Return a WSGI application that answers what `work` returns."""

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        body = work()
        start_response("200 OK", [("Content-Type", "text/plain"), *own])
        return [body]

    return validator(app)


class ByASGI:
    """A request to an ASGI application in the middleware."""

    def __init__(self, work: Work, *own: tuple[str, str], **settings: Any) -> None:
        self._app = ASGIMiddleware(asgi_serving(work, *own), **settings)

    def __call__(self, path: str = "/", method: str = "GET", **headers: str) -> Answer:
        return ask_asgi(self._app, path, method, **headers)


class ByWSGI:
    """A request to a WSGI application in the middleware."""

    def __init__(self, work: Work, *own: tuple[str, str], **settings: Any) -> None:
        self._app = WSGIMiddleware(wsgi_serving(work, *own), **settings)

    def __call__(self, path: str = "/", method: str = "GET", **headers: str) -> Answer:
        return ask_wsgi(self._app, path, method, **headers)


by_both = each("served", {"ASGI": ByASGI, "WSGI": ByWSGI})
