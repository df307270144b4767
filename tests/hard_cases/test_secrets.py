"""44, once more and all at once: a scripted outage with secrets planted wherever one can be.

Every log line, metric, note, page, header and message of it is searched for them. What is said in a
new way belongs into `Said`.
"""

from __future__ import annotations

import asyncio
import http.client
import io
import logging
import traceback
from collections.abc import Iterator
from functools import partial
from typing import Any, final

import pybreaker
import pytest
import structlog
from prometheus_client import CollectorRegistry

from resilient import (
    Dependency,
    ResilientError,
    bulkhead,
    cached,
    circuit_breaker,
    degradations,
    drain,
    failover,
    health,
    observe,
    pipeline_of,
    rate_limit,
    retry,
    serve,
    timeout,
    with_fallback,
)
from resilient.testing import VirtualTime
from tests.serving.clients import ByASGI, ByWSGI

SECRET = "hunter2"
PATHS = [
    "/metrics",
    "/nowhere",
    *(f"{path}{query}" for path in health.PATHS for query in ("", "?verbose")),
    *("/readyz", "/livez", "/startupz?verbose=1"),
]


class Password(str):
    """A secret that is careless: it is in its own text, and in that of all that holds it."""

    __slots__ = ()


class LoginError(Exception):
    """An error with the secret in its text, its attributes and its cause."""

    def __init__(self, password: str) -> None:
        super().__init__(f"bob cannot log in with {password}")
        self.password = password
        self.retry_after = f"{password} seconds"
        self.response = {"Authorization": password}
        self.__cause__ = ConnectionError(f"refused for {password}")


@final
class Said:
    """Everything that is said, in whatever way."""

    def __init__(self) -> None:
        self.logged = io.StringIO()
        self.rest: list[str] = []

    def hear(self, *things: object) -> None:
        """Take what a thing shows of itself."""
        self.rest += [f"{thing!r} {thing}" for thing in things]

    def hear_error(self, error: BaseException) -> None:
        """Take the notes on an error and on what caused it, and all of an error of ours."""
        seen: BaseException | None = error
        while seen is not None:
            self.rest += getattr(seen, "__notes__", ())
            if isinstance(seen, ResilientError):
                self.hear(seen, vars(seen) | {"last_failure": None})
                self.rest += traceback.format_exception_only(seen)
            seen = seen.__cause__

    def read_pages(self) -> None:
        """Take every page, as it is served, with its headers."""
        server = serve(port=0, registry=CollectorRegistry())
        try:
            for path in PATHS:
                for accept in ("*/*", "application/openmetrics-text; version=1.0.0"):
                    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
                    connection.request("GET", path, headers={"Accept": accept})
                    response = connection.getresponse()
                    self.hear(path, response.getheaders(), response.read().decode())
                    connection.close()
        finally:
            server.close()

    def everything(self) -> str:
        return "\n".join([self.logged.getvalue(), *self.rest])


@pytest.fixture
def said() -> Iterator[Said]:
    """Structlog as services configure it, and the root logger at its most talkative."""
    heard = Said()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(default=repr),
        ],
        logger_factory=structlog.PrintLoggerFactory(heard.logged),
    )
    root, stream = logging.getLogger(), logging.StreamHandler(heard.logged)
    level = root.level
    root.addHandler(stream)
    root.setLevel(logging.DEBUG)
    yield heard
    root.removeHandler(stream)
    root.setLevel(level)
    structlog.reset_defaults()
    drain(0).resume()
    health.show_details(False)


def outage(virtual: VirtualTime, said: Said) -> list[Any]:
    """Let everything go wrong for a login, and return what must not go meanwhile."""
    mood = iter(["ok", "fail", "hang", *["fail"] * 100])

    def upstream(user: str, password: str) -> str:
        came = next(mood)
        if came == "ok":
            return f"session of {password}"
        if came == "hang":
            virtual.sleep(60)
        raise LoginError(password)

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise LoginError(SECRET)

    class Listener(pybreaker.CircuitBreakerListener):
        before_call = success = failure = state_change = staticmethod(broken)

    async def upstream_async(user: str, password: str) -> str:
        await asyncio.sleep(0 if user == "bob" else 60)
        raise LoginError(password)

    logins = Dependency(
        "logins",
        critical=True,
        failures=(LoginError, TimeoutError),
        total_timeout=30,
        timeout=1,
        retry=retry(attempts=3, wait_initial=0.1, before_sleep=broken),
        breaker=circuit_breaker(fail_max=6, reset_timeout=5, probe=broken, listeners=[Listener()]),
        max_concurrent=2,
        owner="team",
        rto=1,
    )
    served = logins.with_fallback(
        cached(ttl=600, key="session:{user}:{password}"), f"guest instead of {SECRET}"
    )(upstream)
    unserved = logins.with_fallback(cached(ttl=600, key=broken), failover(broken))(upstream)
    by_user = circuit_breaker.per_key("logins by user", "{password}", fail_max=1)(upstream)
    shared = with_fallback(cached(ttl=60, fresh_for=10), failover(broken))(
        circuit_breaker("logins on asyncio", fail_max=2)(timeout(1)(upstream_async))
    )
    full, limited = bulkhead(1), rate_limit(1, per=60)
    health.check("login check", broken, owner="team")
    health.ready()

    def respond(function: Any) -> bytes:
        expected: dict[type[Exception], str] = {LoginError: "refused", ResilientError: "missed"}
        observed = observe("login", fields=["user"], expected=expected, audit=True)(function)
        try:
            observed("bob", password=Password(SECRET))
        except Exception as error:
            said.hear_error(error)
            if isinstance(error, ResilientError):
                raise
            return b"no"
        said.hear(*degradations())
        return b"yes"

    def call(function: Any) -> None:
        for client in (ByASGI, ByWSGI):
            ask = client(partial(respond, function), default_deadline=30)
            said.hear(ask("/login", Authorization=SECRET, Cookie=SECRET, X_Password=SECRET))

    for function in [served, unserved, by_user] * 4:
        call(function)
        virtual.advance(1)

    async def all_at_once() -> None:
        users = ["bob", "bob", "alice", "carol"]
        calls = [shared(user, password=SECRET) for user in users]
        for one in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(one, BaseException)
            said.hear_error(one)

    virtual.run(all_at_once())
    call(timeout(1)(lambda user, password: virtual.sleep(60)))
    with full, limited:
        call(full(upstream))
        call(limited(upstream))
    said.read_pages()
    virtual.advance(60)
    said.read_pages()
    drain(0)
    virtual.advance(0)
    call(served)
    said.read_pages()
    said.hear(
        logins, logins.breaker, *(pipeline_of(one) for one in (served, unserved, by_user, shared))
    )
    return [logins, served, unserved, by_user, shared]


def test_a_secret_is_in_nothing_that_is_said_of_an_outage(
    virtual_time: VirtualTime, said: Said, capfd: pytest.CaptureFixture[str]
) -> None:
    """Login fails, hangs, is retried, cut, rejected, served otherwise and drained, unheard."""
    kept = outage(virtual_time, said)
    everything = said.everything() + "".join(capfd.readouterr())
    for expected in (
        "resilient.retry_scheduled",
        "resilient.call_timed_out",
        "resilient.circuit_opened",
        "resilient.fallback_served",
        "resilient.hook_failed",
        "resilient.check_failed",
        "resilient.drain_started",
        "attempts",
        "tier cached failed as well",
        'resilient_fallbacks_total{dependency="logins",tier="cached"}',
        '"logins:circuit"',
        "login_refused",
        "'Degraded': 'logins;tier=cached",
        "'Retry-After'",
        '"login check:check"',
        "LoginError",
        "process:draining",
        "status=503",
        "status=504",
    ):
        assert expected in everything, expected
    assert SECRET not in everything
    health.remove("login check")
    del kept


def test_the_search_would_find_it(virtual_time: VirtualTime, said: Said) -> None:
    """Where the operator asks for the texts of errors, the same outage says the secret."""
    health.show_details()
    kept = outage(virtual_time, said)
    assert SECRET in said.everything()
    health.remove("login check")
    del kept
