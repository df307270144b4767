"""How long a request may take, from the one who asks and to those who are asked in turn."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import final

from resilient.engine import settings
from resilient.engine.limits import remaining
from resilient.engine.locks import new_lock
from resilient.engine.reported import Reading, Reported
from resilient.engine.timers import Cuts
from resilient.strategies.timeout import Deadline

__all__ = ["DEADLINE_HEADER", "RequestDeadline", "deadline_headers", "seconds_in"]

DEADLINE_HEADER = "X-Request-Timeout-Ms"

#: Up to eight digits, and the unit of gRPC; milliseconds without one.
_TIME_LEFT = re.compile(r"([0-9]{1,8})([HMSmun]?)")
_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "": 1e-3, "u": 1e-6, "n": 1e-9}
_MOST_MILLISECONDS = 99_999_999
#: One timer for many requests: with one each, those would stay until their deadlines.
_cuts = Cuts()


def seconds_in(value: str) -> float | None:
    """Return the seconds that a header grants, or None, and count it, if it cannot be read."""
    match = _TIME_LEFT.fullmatch(value.strip())
    if match is None:
        _ignored.add()
        return None
    return int(match[1]) * _UNITS[match[2]]


def deadline_headers(header: str = DEADLINE_HEADER) -> dict[str, str]:
    """Return the header that tells an outgoing request how much time its caller has left.

    Arguments:
        header: Its name. The value is in whole milliseconds, rounded down, or for a name that ends
            in "grpc-timeout" in gRPC's form.

    Returns:
        Nothing where no limit is in force.

    Raises:
        InvalidSetting: If the name is empty.

    Example:
        >>> from resilient import deadline, deadline_headers
        >>> deadline_headers()
        {}
        >>> with deadline(2):
        ...     int(deadline_headers()["X-Request-Timeout-Ms"]) <= 2000
        True

    Where the rule comes from: gRPC's deadline propagation, and the header
    `x-envoy-expected-rq-timeout-ms` by which Envoy does the same for HTTP.
    """
    settings.text("header", header)
    left = remaining()
    if left is None:
        return {}
    unit = "m" if header.lower().endswith("grpc-timeout") else ""
    return {header: f"{min(int(left * 1000), _MOST_MILLISECONDS)}{unit}"}


class RequestDeadline(Deadline):
    """The deadline of a request, which has a name of its own where a function would have one."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.cuts = _cuts

    @property
    def label(self) -> str:
        """What is said to have been too slow."""
        return "request"


@final
class _Ignored(Reported):
    """How many headers could not be read."""

    __slots__ = ("_count", "_lock")

    def __init__(self) -> None:
        self._lock = new_lock()
        self._count = 0
        self.report()

    def add(self) -> None:
        with self._lock:
            self._count += 1

    def readings(self) -> Iterable[Reading]:
        """Return the count."""
        help_ = "Deadlines of requests that could not be read"
        yield Reading("ignored_deadlines", help_, "counter", {}, self._count)


_ignored = _Ignored()
