"""What a type checker knows of calls that may be queued: the answer, or a receipt."""

# mypy: disable-error-code="empty-body"

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, assert_type

from resilient import Dependency, Outbox, Receipt, default, queued, with_fallback

outbox = Outbox("sqlite:///outbox.db")
payments = Dependency("payments")


@with_fallback(queued(outbox, key="charge:{order_id}"))
def charge(order_id: str) -> int: ...


@payments.with_fallback(queued(outbox, key="charge:{order_id}"))
async def charge_async(order_id: str) -> int: ...


@with_fallback(queued(outbox), default("later"))
def charge_or_say_so(order_id: str) -> int: ...


def check_what_is_served() -> None:
    """A receipt stands beside the answer, for either kind of function."""
    assert_type(charge("o1"), int | Receipt)
    asynchronous: Callable[[str], Coroutine[Any, Any, int | Receipt]] = charge_async
    assert_type(charge_or_say_so("o1"), int | Receipt | str)
    del asynchronous
