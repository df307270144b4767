"""Whether traffic may come."""

from __future__ import annotations

from typing import Any

from resilient.engine.draining import draining
from resilient.engine.reported import all_conditions
from resilient.telemetry.health.checks import begin_checks
from resilient.telemetry.health.dependencies import dependency_checks
from resilient.telemetry.health.report import Report, worst

__all__ = ["ready"]


def ready() -> Report:
    """Return whether traffic may come.

    An open breaker is a warning, unless it belongs to a critical dependency of which no function
    has a fallback; then, while a critical check does not pass, and while draining, it is a no.
    """
    begin_checks()
    checks: dict[str, list[dict[str, Any]]] = {}
    if draining():
        checks["process:draining"] = [{"status": "fail"}]
    checks.update(dependency_checks())
    for one in all_conditions():
        checks.setdefault(one.name, []).append({"status": one.status, **one.details})
    return Report(worst(one["status"] for found in checks.values() for one in found), checks)
