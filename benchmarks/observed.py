"""An observed call next to one that tells the same events by hand, and metrics on against off.

By hand is what people write with the standard library: two lines with `extra=`, and a formatter
that makes JSON of a record. Both write to a stream that throws
lines away.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from time import monotonic
from typing import Any

import structlog

from benchmarks.ours import stack
from resilient import observe, pipeline_of
from resilient.engine.leftovers import Leftovers
from resilient.engine.locks import new_lock

__all__ = [
    "Lines",
    "by_hand",
    "observed",
    "observed_stack",
    "same_events",
    "without_metrics",
]

Function = Callable[..., Any]

_STANDARD = frozenset(vars(logging.makeLogRecord({})))


class Lines:
    """A stream that throws lines away, or keeps them if asked to."""

    def __init__(self, *, keep: bool = False) -> None:
        self.kept: list[str] = []
        self._keep = keep

    def write(self, text: str) -> None:
        """Take one line."""
        if self._keep:
            self.kept.append(text)

    def flush(self) -> None:
        """Do nothing: nothing is held back."""


class JSONFormatter(logging.Formatter):
    """The formatter of many services: what was handed over as `extra`, as JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        fields = {key: one for key, one in vars(record).items() if key not in _STANDARD}
        fields["event"] = record.getMessage()
        fields["level"] = record.levelname.lower()
        fields["timestamp"] = datetime.fromtimestamp(record.created, tz=UTC).isoformat()
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields)


def by_hand(function: Function, lines: Lines) -> Function:
    """Tell two events for each call, as one writes them with the standard library."""
    # A logger of a tree of its own, as logging is switched off for the other rows.
    logger = logging.Manager(logging.RootLogger(logging.INFO)).getLogger("by hand")
    logger.propagate = False
    handler = logging.StreamHandler(lines)
    handler.setFormatter(JSONFormatter())
    logger.addHandler(handler)

    def call(key: str) -> Any:
        logger.info("payment_started", extra={"key": key})
        start = monotonic()
        try:
            value = function(key)
        except Exception as error:
            duration = round((monotonic() - start) * 1000, 3)
            failed = {"key": key, "duration_ms": duration, "error": type(error).__name__}
            logger.exception("payment_failed", extra=failed)
            raise
        duration = round((monotonic() - start) * 1000, 3)
        logger.info("payment_succeeded", extra={"key": key, "duration_ms": duration})
        return value

    return call


def observed(function: Function, lines: Lines) -> Function:
    """Tell the same by `observe`, with what structlog's users configure for JSON."""
    logger = structlog.wrap_logger(
        structlog.WriteLogger(lines),  # type: ignore[arg-type]
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    )

    @observe("payment", fields=["key"], logger=logger)
    def call(key: str) -> Any:
        return function(key)

    return call


def observed_stack(function: Function) -> Function:
    """Tell of a call through `stack`, below the level that structlog is set to show."""
    return observe("payment", fields=["key"])(stack(function))


def same_events() -> None:
    """Show that both tell the same: events, keys and values, but for times and tracebacks."""

    def answer(key: str) -> str:
        if key == "bad":
            raise ValueError(key)
        return key

    told = []
    for make in (by_hand, observed):
        lines = Lines(keep=True)
        call = make(answer, lines)
        assert call("good") == "good"
        try:
            call("bad")
        except ValueError:
            told.append([_without_times(json.loads(line)) for line in lines.kept if line.strip()])
    assert told[0] == told[1], f"{told[0]} is not {told[1]}"
    assert [one["event"] for one in told[0]] == [
        "payment_started",
        "payment_succeeded",
        "payment_started",
        "payment_failed",
    ]


def _without_times(event: dict[str, Any]) -> dict[str, Any]:
    assert datetime.fromisoformat(event.pop("timestamp")).tzinfo is not None
    assert ("duration_ms" in event) == (event["event"] != "payment_started")
    assert event.pop("duration_ms", 0) >= 0
    assert event.pop("exception", "").endswith("bad") == (event["event"] == "payment_failed")
    return event


class _Uncounted:
    """Measures that count nothing: what is left of a guarded call without its metrics."""

    def __init__(self) -> None:
        self.leftovers = Leftovers()
        self.lock = new_lock()

    def __getattr__(self, _: str) -> Callable[..., None]:
        return _nothing


def _nothing(*_: Any, **__: Any) -> None:
    """Stand for every way of counting."""


def without_metrics(function: Function) -> Function:
    """Guard `function` as `stack` does, and count nothing.

    There is no such setting: metrics are settled from the journal, with the breaker's window, in
    batches. This takes them out all the same, to measure what they cost.
    """
    call = stack(function)
    pipeline_of(call).measures = _Uncounted()  # type: ignore[assignment]
    return call
