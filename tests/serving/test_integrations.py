"""The frameworks' own ways with errors, prefixes and startup; the examples show the rest."""

from __future__ import annotations

import asyncio
import gc
import signal
import warnings
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import django
import flask
import pytest
from django.conf import settings as project
from django.http import StreamingHttpResponse
from django.urls import path
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from resilient import CallTimeout, CircuitOpen, InvalidSetting, InvalidUse, health
from resilient.integrations import django as for_django
from resilient.integrations import flask as for_flask
from resilient.integrations import starlette as for_starlette
from tests.doubles import Scripted, each
from tests.serving.clients import Answer, ask_asgi, ask_asgi_app, ask_wsgi, scope_of


@pytest.fixture(autouse=True)
def startup() -> Iterator[None]:
    """A process that has not started, before each test and after it."""
    health.started(False)
    yield
    health.started(False)


refuse = Scripted(CircuitOpen("payments", 2))


def by_starlette(**settings: Any) -> Any:
    async def view(request: Any) -> PlainTextResponse:
        refuse()
        raise AssertionError

    app = Starlette(routes=[Route("/refuse", view)])
    for_starlette.install(app, registry=CollectorRegistry(), **settings)
    return lambda path: ask_asgi(app, path)


def by_flask(**settings: Any) -> Any:
    app = flask.Flask("shop")
    app.add_url_rule("/refuse", view_func=refuse, endpoint="refuse")
    for_flask.install(app, registry=CollectorRegistry(), **settings)
    return lambda path: ask_wsgi(app, path)


def stream(request: Any) -> StreamingHttpResponse:
    return StreamingHttpResponse(iter([b"one", b"two"]))


urlpatterns = [path("refuse", lambda request: refuse()), path("stream", stream)]


@pytest.fixture(scope="module", autouse=True)
def django_project() -> None:
    """A project of this file alone; Django has one in a process."""
    if not project.configured:
        middleware = ["resilient.integrations.django.Refusals"]
        project.configure(
            ROOT_URLCONF=__name__, MIDDLEWARE=middleware, ALLOWED_HOSTS=["*"], SECRET_KEY="key"
        )
        django.setup()


def by_django_wsgi(**settings: Any) -> Any:
    from django.core.wsgi import get_wsgi_application

    registry = CollectorRegistry()
    app = for_django.install(get_wsgi_application(), registry=registry, **settings)
    return lambda path: ask_wsgi(app, path)


def by_django_asgi(**settings: Any) -> Any:
    from django.core.asgi import get_asgi_application

    registry = CollectorRegistry()
    app = for_django.install(get_asgi_application(), registry=registry, **settings)
    return lambda path: ask_asgi(app, path)


by_all = each(
    "installed",
    {
        "Starlette": by_starlette,
        "Flask": by_flask,
        "Django, WSGI": by_django_wsgi,
        "Django, ASGI": by_django_asgi,
    },
)


@by_all
def test_a_rejected_call_is_503_and_not_the_frameworks_500(installed: Any) -> None:
    """The framework's own handling of errors does not come first."""
    answer: Answer = installed()("/refuse")
    assert (answer.status, answer.headers["Retry-After"]) == (503, "2")
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert "x-request-id" in {name.lower() for name in answer.headers}


@by_all
def test_the_pages_are_below_the_prefix_or_nowhere(installed: Any) -> None:
    """`prefix` says where; None leaves them to `serve`."""
    elsewhere = installed(prefix="/-/ops")
    assert elsewhere("/-/ops/health/live").status == 200
    assert b"resilient_calls_total" in elsewhere("/-/ops/metrics").body
    assert elsewhere("/ops/health/live").status == 404
    assert installed(prefix=None)("/ops/health/live").status == 404


@by_all
@each("prefix", {"relative": "ops", "with a slash at its end": "/ops/", "the root": "/", "": ""})
def test_a_prefix_that_is_none_is_told_at_once(installed: Any, prefix: str) -> None:
    """A page that could never be found is a wrong setting."""
    with pytest.raises(InvalidSetting, match="prefix"):
        installed(prefix=prefix)


@by_all
def test_no_handler_is_set_where_no_server_is(installed: Any) -> None:
    """In tests and commands SIGTERM does what it always did."""
    before = signal.getsignal(signal.SIGTERM)
    installed()
    assert signal.getsignal(signal.SIGTERM) is before


def test_startup_is_done_when_the_applications_own_lifespan_has_begun() -> None:
    """What the application sets up first is waited for, and its state survives."""
    seen: list[str] = []

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[dict[str, str]]:
        seen.append(health.startup().status)
        yield {"pool": "open"}
        seen.append("closed")

    async def live() -> None:
        async with app.router.lifespan_context(app) as state:
            assert state == {"pool": "open"}
            seen.append(health.startup().status)

    app = Starlette(lifespan=lifespan)
    for_starlette.install(app)
    before = signal.getsignal(signal.SIGTERM)
    asyncio.run(live())
    assert signal.getsignal(signal.SIGTERM) is before
    assert seen == ["fail", "pass", "closed"]


@each("installed", {"Flask": by_flask, "Django": by_django_wsgi})
def test_startup_is_done_with_the_application(installed: Any) -> None:
    """A WSGI application that is installed can serve."""
    assert health.startup().status == "fail"
    installed()
    assert health.startup().status == "pass"


def test_a_handler_of_ones_own_takes_the_place_of_the_librarys() -> None:
    """What an application registers afterwards for these errors is what its clients get."""
    app = flask.Flask("shop")
    app.add_url_rule("/slow", view_func=Scripted(CallTimeout("x", 1)), endpoint="slow")
    for_flask.install(app)
    app.register_error_handler(CallTimeout, lambda error: ("come again", 418))
    assert ask_wsgi(app, "/slow").status == 418


def test_django_without_its_middleware_is_told() -> None:
    """Django would answer 500; the message has the line to add."""
    from django.test import override_settings

    with override_settings(MIDDLEWARE=[]), pytest.raises(InvalidUse, match=r"django\.Refusals"):
        for_django.install(lambda environ, start_response: [])


def test_django_streams_to_the_end() -> None:
    """A streaming response goes through the middleware piece by piece."""
    assert by_django_wsgi()("/stream").body == b"onetwo"


def test_a_deadline_ends_an_asynchronous_view_of_django() -> None:
    """A view that is still busy does not send a second response."""
    from django.core.asgi import get_asgi_application

    async def slow(request: Any) -> Any:
        await asyncio.sleep(0.2)
        raise AssertionError

    urlpatterns.append(path("slow", slow))
    app = for_django.install(get_asgi_application())

    async def ask() -> Answer:
        answer = await ask_asgi_app(app, scope_of("/slow", X_Request_Timeout_Ms="30"))
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for one in others:
            one.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        return answer

    with warnings.catch_warnings():  # Django leaves the request's body open when it is cancelled
        warnings.simplefilter("ignore", ResourceWarning)
        assert asyncio.run(ask()).status == 504
        gc.collect()
