"""The library's own events: all of them, with their levels and keys, and how often they are told.

An event is a signal of the engine that is logged. Keys without a value are left out. What can
repeat itself with every call is limited, and then says how often it has happened.
"""

from __future__ import annotations

import atexit
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, final

from resilient.engine.isolation import isolated
from resilient.engine.locks import loading
from resilient.telemetry.logs import Log
from resilient.telemetry.repeats import Limit, Repeats

__all__ = ["EVENTS", "REPEAT_KEYS", "Event", "log", "repeats"]

#: Added to the summary of an event that repeats itself: how many it stands for, and since when.
REPEAT_KEYS = ("count", "for_seconds")


@final
@dataclass(frozen=True, slots=True)
class Event:
    """How an event is told.

    Attributes:
        level: The level at which it is logged.
        keys: All keys that it can have, those of repeats left out.
        limit: What tells one kind from another of which only the first is told; None if each is.
    """

    level: Literal["info", "warning", "error"]
    keys: tuple[str, ...]
    limit: Limit | None = None


def _event(level: Literal["info", "warning", "error"], keys: str, limited_by: str = "") -> Event:
    return Event(level, tuple(keys.split()), Limit(*limited_by.split()) if limited_by else None)


#: Every event of the library, by name.
EVENTS = {
    "resilient.circuit_opened": _event(
        "error",
        "dependency reason failures calls error failing_for_seconds retry_in_seconds "
        "served_instead owner runbook mode would_have_rejected",
    ),
    "resilient.circuit_half_opened": _event("info", "dependency reason mode would_have_rejected"),
    "resilient.circuit_closed": _event("info", "dependency reason mode would_have_rejected"),
    "resilient.recovered": _event("info", "dependency detection_seconds recovery_seconds"),
    "resilient.call_rejected": _event(
        "warning", "dependency reason retry_in_seconds", "dependency reason"
    ),
    "resilient.call_timed_out": _event("warning", "dependency seconds", "dependency"),
    "resilient.retry_scheduled": _event(
        "info", "dependency attempt wait_seconds error", "dependency error"
    ),
    "resilient.fallback_served": _event(
        "warning", "dependency tier age_seconds reason", "dependency tier reason"
    ),
    "resilient.failed_over": _event("warning", "dependency to reason"),
    "resilient.failed_back": _event("info", "dependency to"),
    "resilient.call_queued": _event("info", "dependency function id", "dependency function"),
    "resilient.call_replayed": _event("info", "dependency function id attempts waited_seconds"),
    "resilient.call_buried": _event("error", "dependency function id attempts reason"),
    "resilient.part_missed": _event("warning", "part reason", "part reason"),
    "resilient.check_failed": _event("warning", "check critical error"),
    "resilient.check_recovered": _event("info", "check critical"),
    "resilient.stall_noticed": _event("error", "watch silent_for_seconds at"),
    "resilient.hook_failed": _event("error", "hook error detail"),
    "resilient.store_replaced": _event("warning", "store kept_as"),
    "resilient.drain_started": _event("info", "left timeout_seconds"),
    "resilient.drain_ended": _event("info", "left duration_seconds"),
}
_UNLISTED = Event("info", ())
_log = Log("resilient")


def log(name: str, fields: Mapping[str, Any]) -> None:
    """Log one signal, or count it if it is one of many."""
    event = EVENTS.get(name, _UNLISTED)
    if event.limit is not None:
        if not repeats.is_first(name, event.limit, fields):
            return
    elif name == "resilient.circuit_opened":
        fields = {**fields, **isolated("event", {}, _for_those_on_call, fields["dependency"])}
    elif name == "resilient.circuit_closed":
        repeats.end(fields["dependency"])
    _tell(name, fields)


def _tell(name: str, fields: Mapping[str, Any]) -> None:
    said = {
        key: round(value, 3) if type(value) is float else value
        for key, value in fields.items()
        if value is not None
    }
    _log.tell(EVENTS.get(name, _UNLISTED).level, name, said)


def _for_those_on_call(dependency: str) -> dict[str, Any]:
    """Return what is served while a dependency is down, whose it is, and what to do."""
    with loading:
        from resilient.dependency import all_dependencies
        from resilient.telemetry.served import served_instead

    known: dict[str, Any] = {"served_instead": ", ".join(served_instead(dependency)) or "nothing"}
    for one in all_dependencies():
        if one.name == dependency:
            known |= {"owner": one.owner, "runbook": one.runbook}
    return known


#: What repeats itself now.
repeats = Repeats(_tell)
# What has been counted since the last summary is not lost with the process.
atexit.register(repeats.flush)
