"""Starlette and FastAPI."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Unpack

from prometheus_client import REGISTRY, CollectorRegistry
from starlette.applications import Starlette

from resilient.integrations.startup import startup_done
from resilient.serving.asgi import asgi_app, mounted
from resilient.serving.asgi_middleware import ASGIMiddleware
from resilient.serving.pages import mount_point
from resilient.serving.requests import MiddlewareSettings

__all__ = ["install"]


def install(
    app: Starlette,
    *,
    prefix: str | None = "/ops",
    registry: CollectorRegistry = REGISTRY,
    **settings: Unpack[MiddlewareSettings],
) -> None:
    """Give `app` the middleware, the pages, and a startup and an end that probes can follow.

    Call it last, when routes and other middlewares are there. Startup is done when the
    application's own lifespan has begun; SIGTERM drains from then on.

    Arguments:
        app: The application, FastAPI's as well.
        prefix: Where the pages are; whoever reaches the service reads them. None for no pages,
            where `serve` has them on a port of their own.
        registry: Where Prometheus's metrics come from; prometheus-client's default one.
        settings: Those of `ASGIMiddleware`.

    Raises:
        InvalidSetting: If an argument is outside of its range.

    Example:
        >>> from resilient.integrations.starlette import install
        >>> from starlette.applications import Starlette
        >>> app = Starlette()
        >>> install(app, max_deadline=10)
    """
    app.add_middleware(ASGIMiddleware, **settings)
    if prefix is not None:
        pages = asgi_app(registry=registry)
        app.add_middleware(mounted, prefix=mount_point(prefix), pages=pages)
    own = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(served: Any) -> AsyncGenerator[Any]:
        async with own(served) as state:
            startup_done()
            yield state

    app.router.lifespan_context = lifespan
