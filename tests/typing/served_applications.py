"""What type checkers must be able to tell of middlewares and integrations; checked, never run."""

from __future__ import annotations

from fastapi import FastAPI
from flask import Flask
from starlette.applications import Starlette

import resilient
from resilient.integrations import flask, starlette

app = Starlette()
app.mount("/ops", resilient.asgi_app())
app.add_middleware(resilient.ASGIMiddleware)
app.add_middleware(resilient.ASGIMiddleware, max_deadline=10, default_deadline=None)
app.add_middleware(resilient.ASGIMiddleware, maximum=10)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
starlette.install(app, prefix=None, deadline_header="Grpc-Timeout")
starlette.install(app, maximum=10)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

fast = FastAPI()
fast.mount("/ops", resilient.asgi_app())
fast.add_middleware(resilient.ASGIMiddleware, request_id_header=None)
starlette.install(fast, max_deadline=2.5)

shop = Flask("shop")
flask.install(shop, max_deadline=10)
application = resilient.WSGIMiddleware(resilient.wsgi_app(), default_deadline=2)
