"""The storefront: a web service that stays up while what it calls does not.

This file is what a user of the library writes; `dependencies.py` is where the upstreams are named.
"""

import asyncio
import math
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from contract import DRAIN, GUEST_RIGHTS, LIMITS
from dependencies import (
    FAILURES,
    auth,
    auth_api,
    payments,
    payments_api,
    recommendations,
    recommendations_api,
)
from resilient import (
    CallRejected,
    Degradation,
    Outbox,
    Receipt,
    cached,
    deadline,
    degradation_scope,
    queued,
)

LIST_PRICE_CENTS = 2_000
MEMBER_PRICE_CENTS = 1_800


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who is asking, and what they may do."""

    id: str
    rights: frozenset[str]

    @property
    def price_cents(self) -> int:
        return MEMBER_PRICE_CENTS if "member price" in self.rights else LIST_PRICE_CENTS


def guest() -> Visitor:
    return Visitor("guest", GUEST_RIGHTS)


def popular_items() -> list[str]:
    return ["teapot", "lamp", "notebook"]


# No cache here: a remembered answer could give back rights that were taken away since.
@auth.with_fallback(guest)
async def visitor_of(token: str) -> Visitor:
    """Whoever `token` belongs to; a guest when it belongs to nobody."""
    response = await auth_api.get("/me", headers={"Authorization": token})
    if response.is_client_error:
        return guest()
    found = response.json()
    return Visitor(found["id"], frozenset(found["rights"]))


@recommendations.with_fallback(cached(ttl=60, key="rec:{visitor_id}"), popular_items)
async def recommended_to(visitor_id: str) -> list[str]:
    response = await recommendations_api.get(f"/for/{visitor_id}")
    items: list[str] = response.json()
    return items


outbox = Outbox(Path(os.environ["OUTBOX"]))


@payments.with_fallback(queued(outbox, key="charge:{order_id}"))
async def charge(order_id: str, cents: int) -> str:
    """Charge an order, once: the upstream knows a repeated attempt by its idempotency key."""
    response = await payments_api.post(
        "/charges", json={"cents": cents}, headers={"Idempotency-Key": order_id}
    )
    charge_id: str = response.json()["id"]
    return charge_id


async def page_about(product_id: str, token: str) -> dict[str, object]:
    """Everything about a product; parts that cannot be had are replaced, never the page."""
    with deadline(LIMITS["page"]), degradation_scope() as degraded:
        visitor = await visitor_of(token)
        items = await recommended_to(visitor.id)
    return {
        "product": product_id,
        "visitor": visitor.id,
        "rights": sorted(visitor.rights),
        "price_cents": visitor.price_cents,
        "recommended": items,
        "degraded": described(degraded),
    }


async def product_page(request: Request) -> JSONResponse:
    token = request.headers.get("authorization", "")
    return JSONResponse(await page_about(request.path_params["product_id"], token))


async def pay(request: Request) -> JSONResponse:
    """Charge an order, now or later; a refusal is immediate and says when to try again."""
    order_id = request.path_params["order_id"]
    with deadline(LIMITS["payment"]), degradation_scope() as degraded:
        visitor = await visitor_of(request.headers.get("authorization", ""))
        answer: dict[str, object] = {"order": order_id, "rights": sorted(visitor.rights)}
        try:
            charged = await charge(order_id, visitor.price_cents)
        except CallRejected as rejected:
            return JSONResponse(
                answer | {"error": "payments are down", "degraded": described(degraded)},
                status_code=503,
                headers={"Retry-After": str(math.ceil(rejected.retry_after or 1))},
            )
        except FAILURES:
            return JSONResponse(
                answer | {"error": "not confirmed; repeat it", "degraded": described(degraded)},
                status_code=502,
            )
    answer["degraded"] = described(degraded)
    if isinstance(charged, Receipt):
        return JSONResponse(answer | {"receipt": charged.id}, status_code=202)
    return JSONResponse(answer | {"charge": charged})


def described(degraded: list[Degradation]) -> list[dict[str, object]]:
    return [
        {"dependency": each.dependency, "tier": each.tier, "age": each.age, "reason": each.reason}
        for each in degraded
    ]


@asynccontextmanager
async def making_queued_payments(_: Starlette) -> AsyncGenerator[None]:
    """Charge what waits in the outbox, as soon as the circuit lets calls through."""
    making = asyncio.create_task(outbox.run(concurrency=4, stop_within=DRAIN["outbox"]))
    yield
    making.cancel()
    with suppress(asyncio.CancelledError):
        await making


app = Starlette(
    lifespan=making_queued_payments,
    routes=[
        Route("/product/{product_id}", product_page),
        Route("/pay/{order_id}", pay, methods=["POST"]),
    ],
)
