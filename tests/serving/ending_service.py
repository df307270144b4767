"""A service that is told to end while a request is in flight, by each kind of server.

`asgi` and `wsgi` are its applications; as a program it runs uvicorn by itself.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Any

import flask
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

import resilient
import resilient.integrations.flask
import resilient.integrations.starlette

#: A slow request is finished when this file is there.
DONE = Path(os.environ["DONE"])


async def slow(request: Any) -> PlainTextResponse:
    while not DONE.exists():
        await asyncio.sleep(0.01)
    return PlainTextResponse("finished")


def slow_too() -> str:
    while not DONE.exists():
        time.sleep(0.01)
    return "finished"


asgi = Starlette(routes=[Route("/slow", slow)])
resilient.integrations.starlette.install(asgi)

wsgi = flask.Flask("ending")
wsgi.add_url_rule("/slow", view_func=slow_too)
if "gunicorn" in sys.modules:  # by it alone, or it would say of the other that startup is done
    resilient.integrations.flask.install(wsgi)


def serve_pages() -> None:
    """Serve the pages, not on the service's own port, which is closed when the server stops."""
    resilient.serve(port=int(os.environ["OPS_PORT"]))


def post_worker_init(worker: Any) -> None:
    """Do in a worker what a preloaded application cannot: the hook of gunicorn's settings."""
    resilient.drain_on_sigterm()
    serve_pages()


if "--preload" not in sys.argv:
    serve_pages()

if __name__ == "__main__":
    import uvicorn

    resilient.drain_on_sigterm()
    uvicorn.run(asgi, host="127.0.0.1", port=int(sys.argv[1]))
