"""What type checkers must be able to tell of dependencies; checked, never run."""

# mypy: disable-error-code="empty-body"

from __future__ import annotations

from typing import assert_type

from resilient import (
    Dependency,
    Fallback,
    Pipeline,
    cached,
    circuit_breaker,
    failover,
    retry,
    timeout,
)


class PaymentGatewayError(Exception): ...


class Charge: ...


class Receipt: ...


def ping_gateway() -> bool: ...


payments = Dependency(
    "payments",
    critical=True,
    failures=(PaymentGatewayError, ConnectionError, TimeoutError),
    total_timeout=5,
    timeout=2,
    retry=retry(attempts=3),
    breaker=circuit_breaker(failure_rate=0.5, window="10s", probe=ping_gateway, probe_every=1),
    max_concurrent=20,
)


@payments
def charge(order_id: str, amount_cents: int) -> Charge: ...


@payments
async def charge_async(order_id: str, amount_cents: int) -> Charge: ...


def receipt_for(order_id: str, amount_cents: int) -> Receipt: ...


@payments.with_fallback(receipt_for)
async def charge_later_if_down(order_id: str, amount_cents: int) -> Charge: ...


@payments.with_fallback(cached(ttl=60, key="charge:{order_id}"), failover(receipt_for), None)
def charge_somehow(order_id: str, amount_cents: int) -> Charge: ...


assert_type(charge("o1", 500), Charge)
charge("o1", "500")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
charge("o1")  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
assert_type(charge_somehow("o1", 500), Charge | Receipt | None)
assert_type(payments.call(charge, "o1", 500), Charge)
assert_type(payments.call(charge, "o1", amount_cents=500), Charge)
payments.call(charge, "o1")  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]

with payments:
    charge("o1", 500)


async def awaits() -> None:
    """Await what is asynchronous."""
    assert_type(await charge_async("o1", 500), Charge)
    assert_type(await charge_later_if_down("o1", 500), Charge | Receipt)
    assert_type(await payments.call(charge_async, "o1", 500), Charge)
    async with payments:
        pass


class Checkout:
    """Methods under a dependency."""

    @payments
    def pay(self, order_id: str) -> Charge: ...

    @payments.with_fallback(Receipt)
    async def pay_or_queue(self, order_id: str) -> Charge: ...


assert_type(Checkout().pay("o1"), Charge)


async def awaits_a_method() -> None:
    """Await a method with a fallback."""
    assert_type(await Checkout().pay_or_queue("o1"), Charge | Receipt)


# A pipeline of ones own.

careful = Pipeline(timeout(5), retry(on=ConnectionError), timeout(2))


@careful
def fetch(url: str) -> bytes: ...


assert_type(fetch("https://example.org"), bytes)
assert_type(careful.call(str.upper, "a"), str)

fallback: Fallback[Receipt] = payments.with_fallback(receipt_for)
