"""What type checkers must be able to tell of observed functions; checked, never run."""

# mypy: disable-error-code="empty-body"

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, assert_type

from resilient import observe, retry, with_fallback


class Charge:
    id: str


class CardDeclined(Exception): ...


@observe(
    "payment",
    fields=["user_id", "amount"],
    result=lambda charge: {"transaction_id": charge.id},
    expected={CardDeclined: "declined"},
    error_fields=["decline_code"],
)
def pay(user_id: str, amount: int = 5, *, card: str) -> Charge: ...


assert_type(pay("u1", card="4111"), Charge)
pay("u1", card=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
pay()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


@observe("payment", sample=0.1, started=False)
@with_fallback(None)
@retry(on=ConnectionError)
async def pay_later(user_id: str) -> Charge: ...


later: Callable[[str], Coroutine[Any, Any, Charge | None]] = pay_later


@observe("stream")
def stream(count: int) -> Iterator[int]: ...


@observe("stream")
async def stream_async(count: int) -> AsyncIterator[int]:
    yield count


assert_type(stream(1), Iterator[int])
assert_type(stream_async(1), AsyncIterator[int])


class Shop:
    @observe("order", fields=["item"])
    def order(self, item: str) -> Charge: ...


assert_type(Shop().order("book"), Charge)


async def blocks() -> None:
    with observe("payment", user_id="u1") as event:
        event.add(transaction_id="t1")
    async with observe("payment", logger=None, audit=True, user_id="u1") as event:
        assert_type(event.add(transaction_id="t1"), None)
