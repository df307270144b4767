"""Signals of the engine as structlog events.

The library configures neither structlog nor logging; what has been configured is respected.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog

__all__ = ["LEVELS", "log"]

#: Every event of the library, with its level.
LEVELS = {
    "resilient.circuit_opened": "error",
    "resilient.circuit_half_opened": "info",
    "resilient.circuit_closed": "info",
    "resilient.recovered": "info",
    "resilient.retry_scheduled": "info",
    "resilient.call_timed_out": "warning",
    "resilient.fallback_served": "warning",
    "resilient.part_missed": "warning",
    "resilient.hook_failed": "error",
    "resilient.check_failed": "warning",
    "resilient.check_recovered": "info",
    "resilient.stall_noticed": "error",
    "resilient.drain_started": "info",
    "resilient.drain_ended": "info",
}


def log(name: str, fields: Mapping[str, Any]) -> None:
    """Log one signal; fields without a value are left out."""
    said = {key: value for key, value in fields.items() if value is not None}
    logger = structlog.get_logger("resilient")
    getattr(logger, LEVELS.get(name, "info"))(name, **said)
