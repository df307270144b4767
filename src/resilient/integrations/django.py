"""Django, served by WSGI or ASGI."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar, Unpack, cast, final

from asgiref.sync import markcoroutinefunction
from django.core.handlers.asgi import ASGIHandler
from django.http import HttpResponse
from prometheus_client import REGISTRY, CollectorRegistry

from resilient.errors import InvalidUse
from resilient.integrations.startup import startup_done
from resilient.serving import asgi, wsgi
from resilient.serving.asgi_middleware import ASGIMiddleware
from resilient.serving.pages import mount_point
from resilient.serving.refusals import REFUSED, refusal
from resilient.serving.requests import MiddlewareSettings
from resilient.serving.wsgi_middleware import WSGIMiddleware

__all__ = ["Refusals", "install"]

App = TypeVar("App", bound=Callable[..., Any])

_REFUSALS = "resilient.integrations.django.Refusals"


def install(
    app: App,
    *,
    prefix: str | None = "/ops",
    registry: CollectorRegistry = REGISTRY,
    **settings: Unpack[MiddlewareSettings],
) -> App:
    """Return `app` with the middleware, the pages, and what probes follow.

    For `wsgi.py` and `asgi.py`. Startup is done then, and SIGTERM drains.

    Arguments:
        app: What `get_wsgi_application()` or `get_asgi_application()` returns.
        prefix: Where the pages are; whoever reaches the service reads them. None for no pages,
            where `serve` has them on a port of their own.
        registry: Where Prometheus's metrics come from; prometheus-client's default one.
        settings: Those of `WSGIMiddleware` and `ASGIMiddleware`.

    Raises:
        InvalidSetting: If an argument is outside of its range.
        InvalidUse: If `Refusals` is not among the project's `MIDDLEWARE`.

    Example:
        >>> from django.core.wsgi import get_wsgi_application
        >>> from resilient.integrations.django import install
        >>> application = install(get_wsgi_application())  # doctest: +SKIP
    """
    from django.conf import settings as project

    if _REFUSALS not in project.MIDDLEWARE:
        raise InvalidUse(f'add "{_REFUSALS}" to MIDDLEWARE: without it Django answers 500')
    if isinstance(app, ASGIHandler):
        served: Any = ASGIMiddleware(app, **settings)
        if prefix is not None:
            pages = asgi.asgi_app(registry=registry)
            served = asgi.mounted(served, prefix=mount_point(prefix), pages=pages)
    else:
        served = WSGIMiddleware(app, **settings)
        if prefix is not None:
            answers = wsgi.wsgi_app(registry=registry)
            served = wsgi.mounted(served, prefix=mount_point(prefix), pages=answers)
    startup_done()
    return cast("App", served)


@final
class Refusals:
    """Django's own middleware, which answers a rejected call before Django makes it a 500.

    Put it last in `MIDDLEWARE`, next to the views.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        self._get_response = get_response
        if inspect.iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: Any) -> Any:
        """Hand the request on, or what will become its response."""
        return self._get_response(request)

    def process_exception(self, request: Any, error: Exception) -> Any:
        """Return the response for a view that came to `error`, or None for Django to do so."""
        if not isinstance(error, REFUSED):
            return None
        answer = refusal(error, request.method)
        return HttpResponse(answer.body, status=answer.status, headers=dict(answer.headers))
