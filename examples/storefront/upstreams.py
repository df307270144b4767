"""The three upstreams: small services that work, until they are told to have trouble.

Run as `python upstreams.py NAME PORT`. Trouble is told on stdin, a JSON object a line.
"""

import asyncio
import random
import sys
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

import child


@dataclass(slots=True)
class Trouble:
    """What is wrong with an upstream: nothing, unless it is told otherwise."""

    error_rate: float = 0.0
    latency_seconds: float = 0.0

    def become(self, told: dict[str, float]) -> None:
        self.error_rate = told.get("error_rate", 0.0)
        self.latency_seconds = told.get("latency_seconds", 0.0)


class Troubled:
    """An app in trouble: everything that it answers, its health too, is late or a 500."""

    def __init__(self, app: ASGIApp, trouble: Trouble) -> None:
        self.app = app
        self.trouble = trouble
        self.dice = random.Random(60)  # seeded: the same trouble in every run

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(self.trouble.latency_seconds)
        answer = self.app
        if self.dice.random() < self.trouble.error_rate:
            answer = PlainTextResponse("out of order", status_code=500)
        await answer(scope, receive, send)


async def health(_: Request) -> PlainTextResponse:
    return PlainTextResponse("well")


async def recommended(request: Request) -> JSONResponse:
    visitor_id = request.path_params["visitor_id"]
    return JSONResponse([f"{thing} for {visitor_id}" for thing in ("kettle", "chair", "atlas")])


async def me(request: Request) -> JSONResponse:
    """Who the caller is: the demo's tokens are `token-<id>`, every other token is unknown."""
    kind, _, visitor_id = request.headers.get("authorization", "").partition("-")
    if kind != "token":
        return JSONResponse({"error": "unknown token"}, status_code=401)
    rights = ["browse", "buy", "member price", "order history"]
    return JSONResponse({"id": visitor_id, "rights": rights})


charged: dict[str, str] = {}
ledger: list[str] = []


async def charges(request: Request) -> JSONResponse:
    """Charge once for an idempotency key, however often it is sent."""
    key = request.headers["idempotency-key"]
    if key not in charged:
        ledger.append(key)
        charged[key] = f"charge-{len(ledger)}"
    return JSONResponse({"id": charged[key]})


async def booked(_: Request) -> JSONResponse:
    """Every charge that was made, by its idempotency key."""
    return JSONResponse(ledger)


ROUTES = {
    "recommendations": [Route("/for/{visitor_id}", recommended)],
    "auth": [Route("/me", me)],
    "payments": [Route("/charges", charges, methods=["POST"]), Route("/ledger", booked)],
}

if __name__ == "__main__":
    name, port = sys.argv[1:]
    trouble = Trouble()
    service = Starlette(routes=[Route("/health", health), *ROUTES[name]])
    child.serve(Troubled(service, trouble), port=int(port), on_message=trouble.become)
