"""Whether traffic may come."""

from __future__ import annotations

from typing import Any

from resilient.engine.draining import draining
from resilient.telemetry.health.dependencies import circuits
from resilient.telemetry.health.report import Report, worst

__all__ = ["ready"]


def ready() -> Report:
    """Return whether traffic may come.

    An open breaker is a warning, unless it belongs to a critical dependency of which no function
    has a fallback; then, and while draining, the answer is no.
    """
    checks: dict[str, list[dict[str, Any]]] = {}
    if draining():
        checks["process:draining"] = [{"status": "fail"}]
    checks.update(circuits())
    return Report(worst(one["status"] for found in checks.values() for one in found), checks)
