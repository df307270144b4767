"""What readiness says about the circuits before dependencies."""

from __future__ import annotations

from typing import Any

from resilient.dependency import all_dependencies
from resilient.engine.guard import guarded_under
from resilient.strategies.breaker.circuit import CLOSED
from resilient.strategies.breaker.interface import Shown, all_breakers
from resilient.telemetry.health.report import Status

__all__ = ["circuits"]


def circuits() -> dict[str, list[dict[str, Any]]]:
    """Return one check for each circuit breaker."""
    checks: dict[str, list[dict[str, Any]]] = {}
    critical = {one.name for one in all_dependencies() if one.critical}
    owners = {id(one.breaker): one.name for one in all_dependencies() if one.breaker is not None}
    for breaker in all_breakers():
        name = owners.get(id(breaker), breaker.name or "")
        status = _status(breaker, is_vital=name in critical and not guarded_under(name, "Fallback"))
        checks[f"{name}:circuit"] = [_described(breaker, status)]
    return checks


def _status(breaker: Shown, *, is_vital: bool) -> Status:
    if breaker.current_state == CLOSED:
        return "pass"
    return "fail" if is_vital and breaker.current_state == "open" else "warn"


def _described(breaker: Shown, status: Status) -> dict[str, Any]:
    described: dict[str, Any] = {
        "componentType": "component",
        "status": status,
        "observedValue": breaker.current_state,
    }
    if breaker.failing_since is not None:
        described["failingForSeconds"] = round(breaker.failing_since, 3)
    if breaker.retry_after is not None:
        described["retryInSeconds"] = round(breaker.retry_after, 3)
    if breaker.last_failure is not None:
        described["lastFailure"] = type(breaker.last_failure).__name__
    return described
