"""The response to a request that came to nothing because a call was rejected or took too long."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from http import HTTPStatus
from typing import final

from resilient.engine.locks import new_lock
from resilient.engine.reported import Reading, Reported
from resilient.errors import CallRejected, CallTimeout, Draining
from resilient.serving.pages import Page

__all__ = ["REFUSED", "refusal"]

#: The errors that are answered; any other is the service's own.
REFUSED = (CallRejected, CallTimeout)


def refusal(error: CallRejected | CallTimeout, method: str, *, may_close: bool = False) -> Page:
    """Return 503 for what was not called, and 504 for what was not back in time, and count it.

    The body says nothing about the error: which dependency failed, and why, is in the logs.

    Arguments:
        error: What the request came to.
        method: That of the request; the response to HEAD has no body.
        may_close: Whether the protocol lets a response end its connection.
    """
    further: list[tuple[str, str]] = []
    status = HTTPStatus.GATEWAY_TIMEOUT
    if isinstance(error, CallRejected):
        status = HTTPStatus.SERVICE_UNAVAILABLE
        further.append(("Retry-After", _whole_seconds(error.retry_after)))
        if may_close and isinstance(error, Draining):
            further.append(("Connection", "close"))
    _refusals.add(status)
    body = json.dumps({"type": "about:blank", "title": status.phrase, "status": status.value})
    return Page.of(method, status, "application/problem+json", body.encode(), *further)


def _whole_seconds(retry_after: float | None) -> str:
    if retry_after is None or not math.isfinite(retry_after):
        return "1"
    return str(max(1, math.ceil(retry_after)))


@final
class _Refusals(Reported):
    """How many requests were answered here."""

    __slots__ = ("_counts", "_lock")

    def __init__(self) -> None:
        self._lock = new_lock()
        self._counts = Counter({503: 0, 504: 0})
        self.report()

    def add(self, status: int) -> None:
        with self._lock:
            self._counts[status] += 1

    def readings(self) -> Iterable[Reading]:
        """Return the count of each status."""
        help_ = "Requests that were answered because a call was rejected or took too long"
        for status, count in self._counts.items():
            yield Reading("refused_requests", help_, "counter", {"status": str(status)}, count)


_refusals = _Refusals()
