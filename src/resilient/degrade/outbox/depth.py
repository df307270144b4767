"""How full an outbox is, for metrics and health."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from resilient.engine.reported import Condition, Reading

if TYPE_CHECKING:
    from resilient.degrade.outbox.table import Depth

__all__ = ["condition_of", "readings_of"]


def readings_of(name: str, depth: Depth, replays: Mapping[str, int]) -> Iterator[Reading]:
    """Return the numbers of an outbox for metrics."""
    gauges = (
        ("outbox_waiting", "Calls that wait to be made", depth.waiting),
        ("outbox_dead", "Calls that were given up", depth.dead),
        ("outbox_oldest_seconds", "How long the oldest call has been waiting", depth.oldest_age),
    )
    for what, help_text, value in gauges:
        # All processes read the same file.
        yield Reading(what, help_text, "gauge", {"outbox": name}, value, "max")
    for outcome, count in replays.items():
        yield Reading(
            "outbox_replays",
            "What queued calls came to when this process made them",
            "counter",
            {"outbox": name, "outcome": outcome},
            count,
        )


def condition_of(
    name: str, depth: Depth, trouble: str | None, *, most_waiting: int, oldest: float
) -> Condition:
    """Return the line about an outbox in the answer about health."""
    full = depth.waiting > most_waiting or depth.oldest_age > oldest or depth.dead > 0
    details: dict[str, object] = {
        "componentType": "datastore",
        "observedValue": depth.waiting,
        "observedUnit": "calls",
        "oldestSeconds": round(depth.oldest_age, 3),
        "dead": depth.dead,
    }
    if trouble is not None:
        details["output"] = trouble
    return Condition(f"{name}:outbox", "warn" if full or trouble else "pass", details)
