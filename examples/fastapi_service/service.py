"""A shop that stays up while what it calls is down, with FastAPI."""

import os

import httpx
import uvicorn
from fastapi import FastAPI

import resilient
from resilient import Dependency, circuit_breaker, deadline_headers
from resilient.integrations.starlette import install

upstream = httpx.AsyncClient(base_url=os.environ.get("UPSTREAM", "http://127.0.0.1:9001"))
FAILURES = (httpx.TransportError, httpx.HTTPStatusError, TimeoutError)

recommendations = Dependency(
    "recommendations", failures=FAILURES, timeout=0.5, breaker=circuit_breaker(fail_max=3)
)
payments = Dependency(
    "payments", critical=True, failures=FAILURES, timeout=1, breaker=circuit_breaker(fail_max=3)
)


async def fetch(path: str) -> str:
    # What the visitor's client has left is what the upstream is given.
    response = await upstream.get(path, headers=deadline_headers())
    return response.raise_for_status().text


@recommendations.with_fallback("what is popular")
async def recommended() -> str:
    return await fetch("/recommended")


@payments
async def charge() -> str:
    return await fetch("/charge")


app = FastAPI()


@app.get("/product")
async def product() -> dict[str, str]:
    return {"product": "teapot", "recommended": await recommended()}


@app.post("/pay")
async def pay() -> dict[str, str]:
    return {"paid": await charge()}


install(app, max_deadline=10)

if __name__ == "__main__":
    resilient.drain_on_sigterm()  # before uvicorn's own handling, so that the process ends with 0
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")))
