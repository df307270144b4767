"""The application of the tests of several processes once more, for servers of ASGI."""

import os

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from resilient import ASGIMiddleware
from tests.hard_cases.counting_application import ask


async def answer(_: Request) -> PlainTextResponse:
    """Call the dependency and answer with the process."""
    ask(fails=False)
    return PlainTextResponse(str(os.getpid()))


app = Starlette(routes=[Route("/", answer)], middleware=[Middleware(ASGIMiddleware)])
