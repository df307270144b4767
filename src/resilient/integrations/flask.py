"""Flask."""

from __future__ import annotations

from typing import Any, Unpack

from flask import Flask, Response, request
from prometheus_client import REGISTRY, CollectorRegistry

from resilient.errors import CallRejected, CallTimeout
from resilient.integrations.startup import startup_done
from resilient.serving.pages import mount_point
from resilient.serving.refusals import REFUSED, refusal
from resilient.serving.requests import MiddlewareSettings
from resilient.serving.wsgi import mounted, wsgi_app
from resilient.serving.wsgi_middleware import WSGIMiddleware

__all__ = ["install"]


def install(
    app: Flask,
    *,
    prefix: str | None = "/ops",
    registry: CollectorRegistry = REGISTRY,
    **settings: Unpack[MiddlewareSettings],
) -> None:
    """Give `app` the middleware, the pages, and a startup and an end that probes can follow.

    Call it last, when the application could serve: startup is done then, and SIGTERM drains.
    A handler of your own for `CallRejected` or `CallTimeout`, registered afterwards, takes the
    place of the library's.

    Arguments:
        app: The application.
        prefix: Where the pages are; whoever reaches the service reads them. None for no pages,
            where `serve` has them on a port of their own.
        registry: Where Prometheus's metrics come from; prometheus-client's default one.
        settings: Those of `WSGIMiddleware`.

    Raises:
        InvalidSetting: If an argument is outside of its range.

    Example:
        >>> from resilient.integrations.flask import install
        >>> from flask import Flask
        >>> app = Flask("shop")
        >>> install(app, max_deadline=10)  # doctest: +SKIP
    """
    served: Any = WSGIMiddleware(app.wsgi_app, **settings)
    if prefix is not None:
        served = mounted(served, prefix=mount_point(prefix), pages=wsgi_app(registry=registry))
    app.wsgi_app = served  # type: ignore[method-assign]
    # Flask answers every error itself, before a middleware could.
    for kind in REFUSED:
        app.register_error_handler(kind, _refused)
    startup_done()


def _refused(error: CallRejected | CallTimeout) -> Response:
    answer = refusal(error, request.method)
    return Response(answer.body, answer.status, list(answer.headers))
