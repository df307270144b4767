"""The pages and the middleware where each request has a thread: PEP 3333 to the letter."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from contextvars import ContextVar
from typing import Any
from wsgiref.validate import validator

import pytest
from flask import Flask
from prometheus_client import CollectorRegistry
from werkzeug.middleware.dispatcher import DispatcherMiddleware

import resilient
from resilient import CallTimeout, CircuitOpen, WSGIMiddleware, drain, remaining
from resilient.testing import VirtualTime
from tests.doubles import each
from tests.serving.clients import ask_wsgi, environ_of

number: ContextVar[int] = ContextVar("number", default=0)


def pages() -> Any:
    return resilient.wsgi_app(registry=CollectorRegistry())


# Pages


@each("mounted", {"by itself": "", "below a prefix": "/ops"})
def test_pages_keep_the_rules_of_wsgi(mounted: str) -> None:
    """The reference checker has nothing to say, wherever the pages are mounted."""
    app: Any = pages()
    if mounted:
        app = DispatcherMiddleware(Flask("shop"), {mounted: app})
    assert ask_wsgi(app, f"{mounted}/health/live").status == 200
    ready = ask_wsgi(app, f"{mounted}/health/ready?verbose")
    assert ready.headers["Cache-Control"] == "no-store"
    assert b"resilient_calls_total" in ask_wsgi(app, f"{mounted}/metrics").body
    assert ask_wsgi(app, f"{mounted}/else").status == 404
    assert ask_wsgi(app, f"{mounted}/metrics", "DELETE").status == 405
    head = ask_wsgi(app, f"{mounted}/livez", "HEAD")
    assert (head.status, head.body) == (200, b"")


def test_openmetrics_is_given_to_who_asks() -> None:
    """The Accept header decides, as with the server on a thread."""
    answer = ask_wsgi(pages(), "/metrics", ACCEPT="application/openmetrics-text; version=1.0.0")
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text")


# The response


class Stream:
    """A body that notes when it is closed."""

    def __init__(self, *pieces: Any) -> None:
        self.pieces = pieces
        self.closed = 0

    def __iter__(self) -> Iterator[Any]:
        for piece in self.pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece() if callable(piece) else piece

    def close(self) -> None:
        self.closed += 1


def streaming(stream: Stream) -> Any:
    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return stream

    return WSGIMiddleware(app)


def in_flight() -> int:
    begun = drain(timeout=0)
    begun.resume()
    return begun.left


def test_a_stream_is_in_flight_until_it_is_closed() -> None:
    """The unit of work ends when the server closes the body, which is closed exactly once."""
    stream = Stream(b"one", b"two")
    body = streaming(stream)(environ_of("/"), lambda *given: None)
    assert (next(body), in_flight()) == (b"one", 1)
    assert (list(body), in_flight(), stream.closed) == ([b"two"], 0, 1)
    body.close()
    assert stream.closed == 1


def test_a_client_that_goes_ends_the_request() -> None:
    """Closing in the middle closes the application's body and ends the unit of work."""
    stream = Stream(b"one", b"two")
    body = streaming(stream)(environ_of("/"), lambda *given: None)
    next(body)
    body.close()
    assert (stream.closed, in_flight()) == (1, 0)
    assert list(body) == []


def test_a_body_that_nobody_reads_is_closed_too() -> None:
    """A server may close without reading, as for HEAD: nothing stays in flight."""
    stream = Stream(b"one")
    streaming(stream)(environ_of("/"), lambda *given: None).close()
    assert (stream.closed, in_flight()) == (1, 0)


def test_a_body_that_is_forgotten_ends_with_its_last_reference() -> None:
    """A server that breaks the rules and never closes leaves nothing in flight for ever."""
    body = streaming(Stream(b"one"))(environ_of("/"), lambda *given: None)
    next(body)
    del body
    gc.collect()
    assert in_flight() == 0


@each("error", {"rejected": CircuitOpen("later", 1), "too slow": CallTimeout("later", 1)})
def test_a_response_that_has_started_is_not_followed_by_another(error: Exception) -> None:
    """After the first byte an error goes on to the server, which breaks the response off."""
    stream = Stream(b"half", error)
    with pytest.raises(type(error)):
        ask_wsgi(streaming(stream))
    assert (stream.closed, in_flight()) == (1, 0)


@each("before", {"nothing": (), "an empty piece": (b"",)})
def test_until_the_first_byte_a_response_can_still_be_a_refusal(before: tuple[bytes, ...]) -> None:
    """Headers that are set but not sent are replaced, as `exc_info` is for."""
    stream = Stream(*before, CircuitOpen("payments", 2))
    answer = ask_wsgi(streaming(stream))
    assert (answer.status, answer.headers["Retry-After"]) == (503, "2")
    assert b"Service Unavailable" in answer.body
    assert stream.closed == 1


def test_what_was_written_the_old_way_has_started_the_response() -> None:
    """`write` sends at once, so no refusal can follow."""

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        write = start_response("200 OK", [("Content-Type", "text/plain")])
        write(b"half")
        raise CircuitOpen("payments", 2)

    with pytest.raises(CircuitOpen):
        ask_wsgi(WSGIMiddleware(app))


def test_an_application_may_begin_when_it_is_read() -> None:
    """A generator, which calls `start_response` with its first piece, is marked as well."""

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"one"

    answer = ask_wsgi(WSGIMiddleware(validator(app)), X_REQUEST_ID="r1")
    assert (answer.body, answer.headers["X-Request-ID"]) == (b"one", "r1")


def test_an_application_that_changes_its_mind_is_let() -> None:
    """`start_response` with `exc_info` reaches the server."""

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        try:
            raise LookupError
        except LookupError:
            import sys

            start_response("404 Not Found", [("Content-Type", "text/plain")], sys.exc_info())
        return [b"not there"]

    assert ask_wsgi(WSGIMiddleware(app)).status == 404


def test_an_error_of_closing_goes_on() -> None:
    """What `close` of the body raises is the server's to see, and nothing stays in flight."""

    class Stubborn(Stream):
        def close(self) -> None:
            raise LookupError

    with pytest.raises(LookupError):
        ask_wsgi(streaming(Stubborn(b"one")))
    assert in_flight() == 0


# Context


def test_all_of_a_response_is_made_in_one_context(virtual_time: VirtualTime) -> None:
    """What the application sets, and its deadline, hold to the last piece; the server sees none."""

    def counted() -> bytes:
        number.set(number.get() + 1)
        virtual_time.advance(1)
        return f"{number.get()}:{remaining():g} ".encode()

    body = streaming(Stream(counted, counted, counted))
    environ = environ_of("/", X_REQUEST_TIMEOUT_MS="10000")
    answer: list[bytes] = []
    with closing(body(environ, lambda *given: None)) as pieces:
        for piece in pieces:
            answer.append(piece)
            assert (number.get(), remaining()) == (0, None)
    assert answer == [b"1:9 ", b"2:8 ", b"3:7 "]


def test_two_responses_on_one_thread_do_not_mix() -> None:
    """A server that takes turns between bodies does not mix what belongs to each."""

    def counting() -> bytes:
        number.set(number.get() + 1)
        return str(number.get()).encode()

    start: Callable[..., None] = lambda *given: None  # noqa: E731
    one, two = (streaming(Stream(counting, counting))(environ_of("/"), start) for _ in range(2))
    assert [next(one), next(two), next(one), next(two)] == [b"1", b"1", b"2", b"2"]
    two.close()
    one.close()
    assert in_flight() == 0


def test_the_callers_context_is_seen() -> None:
    """What a server or an outer middleware has set is there."""
    number.set(41)
    try:
        answer = ask_wsgi(streaming(Stream(lambda: str(number.get() + 1).encode())))
    finally:
        number.set(0)
    assert answer.body == b"42"
