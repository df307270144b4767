"""Orders with FastAPI in PostgreSQL: a primary that dies, and a replica that takes its place."""

import os
from typing import Any

import psycopg
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from psycopg.rows import dict_row
from pydantic import BaseModel

import resilient
from resilient import Dependency, cached, circuit_breaker, retry
from resilient.integrations.postgres import PostgresServers
from resilient.integrations.starlette import install

SERVERS = os.environ.get(
    "ORDERS_DB", "host=127.0.0.1,127.0.0.1 port=5432,5433 user=postgres dbname=postgres"
)
FAILURES = (psycopg.OperationalError, TimeoutError)

# Whoever takes writes now, whichever server that is; and for reading, the replica if it is there.
primary = PostgresServers(SERVERS, target_session_attrs="read-write", name="orders-primary")
readers = PostgresServers(SERVERS, target_session_attrs="prefer-standby", name="orders-readers")


async def takes_writes() -> None:
    async with await primary.connect_async():
        pass


writing = Dependency(
    "orders-writing",
    failures=FAILURES,
    total_timeout=8,
    timeout=5,  # two servers, two seconds each: what one connection may cost
    retry=retry(attempts=3),
    breaker=circuit_breaker(fail_max=3, probe=takes_writes, probe_every=1, probe_timeout=5),
    max_concurrent=20,
    owner="team-orders",
    runbook="https://runbooks.example/orders",
)
reading = Dependency(
    "orders-reading",
    failures=FAILURES,
    total_timeout=8,
    timeout=5,
    retry=retry(attempts=2),
    breaker=circuit_breaker(fail_max=3),
    max_concurrent=20,
)


class Order(BaseModel):
    item: str


# A connection for each statement keeps this short. With a pool, hand `connect_async` to it, and let
# it check connections: those to a dead server learn of its death from their own call.
@writing
async def place(order_id: str, item: str) -> None:
    """Write an order down, once: that it may be there already is what makes the retry right."""
    async with await primary.connect_async() as connection:
        await connection.execute(
            "INSERT INTO orders (id, item) VALUES (%s, %s) ON CONFLICT (id) DO NOTHING",
            [order_id, item],
        )


@reading.with_fallback(cached(ttl=300, key="order:{order_id}"), on=FAILURES)
async def order_of(order_id: str) -> dict[str, Any] | None:
    async with (
        await readers.connect_async(row_factory=dict_row) as connection,
        await connection.execute("SELECT id, item FROM orders WHERE id = %s", [order_id]) as found,
    ):
        row: dict[str, Any] | None = await found.fetchone()
        return row


app = FastAPI()


@app.put("/orders/{order_id}", status_code=201)
async def put_order(order_id: str, order: Order) -> dict[str, str]:
    await place(order_id, order.item)
    return {"id": order_id}


@app.get("/orders/{order_id}")
async def get_order(order_id: str) -> dict[str, Any]:
    found = await order_of(order_id)
    if found is None:
        raise HTTPException(404)
    return found


@app.exception_handler(psycopg.OperationalError)
async def not_confirmed(_: Request, __: Exception) -> JSONResponse:
    """The order may be there or not; to send it again is right in both cases."""
    said = {"error": "not confirmed; send the same order again"}
    return JSONResponse(said, status_code=503, headers={"Retry-After": "1"})


install(app, max_deadline=10)

if __name__ == "__main__":
    resilient.drain_on_sigterm()  # before uvicorn's own handling, so that the process ends with 0
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")))
