"""The pages as a WSGI application, to be mounted in another one or served by itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from prometheus_client import REGISTRY

from resilient.serving.pages import page
from resilient.telemetry.metrics import register_metrics

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication

    from prometheus_client import CollectorRegistry

__all__ = ["mounted", "wsgi_app"]


def wsgi_app(*, registry: CollectorRegistry = REGISTRY) -> WSGIApplication:
    """Return `/metrics` and the pages about health as a WSGI application.

    Arguments:
        registry: Where Prometheus's metrics come from; prometheus-client's default one.

    Raises:
        InvalidSetting: If `registry` is none.

    Example:
        >>> import resilient
        >>> from flask import Flask
        >>> from werkzeug.middleware.dispatcher import DispatcherMiddleware
        >>> app = Flask("shop")
        >>> app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/ops": resilient.wsgi_app()})
    """
    register_metrics(registry)

    def pages(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        answer = page(
            environ["REQUEST_METHOD"],
            environ.get("PATH_INFO", ""),
            environ.get("QUERY_STRING", ""),
            environ.get("HTTP_ACCEPT", ""),
            registry,
        )
        start_response(answer.status_line, list(answer.headers))
        return [answer.body]

    return pages


def mounted(app: WSGIApplication, *, prefix: str, pages: WSGIApplication) -> WSGIApplication:
    """Return `app` with `pages` below `prefix`, as a router would mount them."""

    def either(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if not path.startswith(f"{prefix}/"):
            return app(environ, start_response)
        root = environ.get("SCRIPT_NAME", "")
        below = {"SCRIPT_NAME": root + prefix, "PATH_INFO": path.removeprefix(prefix)}
        return pages({**environ, **below}, start_response)

    return either
