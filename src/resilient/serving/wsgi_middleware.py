"""What makes a WSGI application keep its callers' deadlines, say what is degraded, and drain."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, nullcontext
from contextvars import Context, copy_context
from typing import Any, final
from wsgiref.types import StartResponse, WSGIApplication

from resilient.serving.refusals import REFUSED
from resilient.serving.requests import Middleware, Request

__all__ = ["WSGIMiddleware"]


@final
class WSGIMiddleware(Middleware[WSGIApplication]):
    """Around each request: a deadline, its id, the `Degraded` header, 503 and 504, draining.

    Does for Flask, Django and others what `ASGIMiddleware` does, with the same arguments. The
    deadline is cooperative: a plain function cannot be taken away from its server, but guarded
    calls end with it and none begins after it. A request ends when the server closes its response.

    Arguments:
        app: The application around which it is put.
        deadline_header: The header with the time that the client grants: whole milliseconds, or in
            gRPC's form ("500m", "2S"). What cannot be read is ignored, and counted. None for no
            such header.
        max_deadline: The most seconds that are granted, above 0.
        default_deadline: The seconds for a request without the header; no limit unless given.
        request_id_header: The header with the request's id, in request and response. Without it
            the trace id of `traceparent` is taken, or a new one is made. None for no id.

    Raises:
        InvalidSetting: If an argument is outside of its range.

    Example:
        >>> import resilient
        >>> from flask import Flask
        >>> app = Flask("shop")
        >>> app.wsgi_app = resilient.WSGIMiddleware(app.wsgi_app, max_deadline=10)

    Where the rule comes from: PEP 3333 for what a response is, and see `ASGIMiddleware`.
    """

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> _Response:
        """Answer one request."""
        response = _Response(self._answer(environ, start_response))
        next(response)  # as far as the application's own return
        return response

    def _answer(
        self, environ: dict[str, Any], start_response: StartResponse
    ) -> Generator[bytes, None, None]:
        def header(name: str) -> str | None:
            return environ.get(f"HTTP_{name.upper().replace('-', '_')}")

        path = environ.get("PATH_INFO", "")
        request = Request(self, environ["REQUEST_METHOD"], path, header)
        is_sent = has_returned = False

        def start_marked(
            status: str, headers: list[tuple[str, str]], exc_info: Any = None, /
        ) -> Callable[[bytes], object]:
            marked = headers + request.marks(name.lower() for name, _ in headers)
            write = start_response(status, marked, exc_info)

            def write_on(data: bytes) -> object:
                nonlocal is_sent
                is_sent = True
                return write(data)

            return write_on

        try:
            with request.scope(), request.deadline():
                body: Any = self.app(environ, start_marked)
                with closing(body) if hasattr(body, "close") else nullcontext():
                    has_returned = True
                    yield b""
                    for chunk in body:
                        is_sent = is_sent or bool(chunk)
                        yield chunk
        except REFUSED as error:
            if is_sent:
                raise
            answer = request.refusal(error)
            start_response(answer.status_line, list(answer.headers), sys.exc_info())
            if not has_returned:
                yield b""
            yield answer.body


@final
class _Response:
    """The body of a response, all of it made in one context of its own.

    The server asks for one piece after the other, from wherever it is; what the application has
    put into context variables is there each time, and gone with the response.
    """

    __slots__ = ("_context", "_pieces")

    def __init__(self, pieces: Generator[bytes, None, None]) -> None:
        self._context: Context = copy_context()
        self._pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return self._context.run(next, self._pieces)

    def close(self) -> None:
        """End the request, also in the middle of its response."""
        self._context.run(self._pieces.close)
