"""What readiness says about dependencies: their circuits, their bulkheads, what is served instead.

All of it is read from where calls leave it; nothing is asked.
"""

from __future__ import annotations

from typing import Any

from resilient.dependency import Dependency, all_dependencies
from resilient.strategies.breaker.keyed import KeyedCircuitBreaker
from resilient.strategies.breaker.registry import Shown, all_breakers
from resilient.strategies.breaker.states import CLOSED, OPEN
from resilient.strategies.bulkhead import Bulkhead
from resilient.telemetry.health.details import described
from resilient.telemetry.health.report import Status
from resilient.telemetry.served import served_instead

__all__ = ["dependency_checks"]


def dependency_checks() -> dict[str, list[dict[str, Any]]]:
    """Return one check for each circuit breaker, and one for each bulkhead of a dependency."""
    checks: dict[str, list[dict[str, Any]]] = {}
    dependencies = {one.name: one for one in all_dependencies()}
    named = {id(one.breaker): one.name for one in dependencies.values() if one.breaker is not None}
    for breaker in all_breakers():
        name = named.get(id(breaker), breaker.name or "")
        checks[f"{name}:circuit"] = [_circuit(name, breaker, dependencies.get(name))]
    for name, dependency in dependencies.items():
        if dependency.bulkhead is not None:
            checks[f"{name}:bulkhead"] = [_bulkhead(dependency.bulkhead, dependency)]
    return checks


def _circuit(name: str, breaker: Shown, dependency: Dependency | None) -> dict[str, Any]:
    state, failing_for, tiers = breaker.current_state, breaker.failing_since, served_instead(name)
    is_vital = dependency is not None and dependency.critical and not tiers
    said: dict[str, Any] = {
        "componentType": "component",
        "status": _status(state, rejects=is_vital and _rejects(breaker)),
        "observedValue": state,
    }
    if isinstance(breaker, KeyedCircuitBreaker):
        said["circuits"] = breaker.states
    if failing_for is not None:
        said["failingForSeconds"] = round(failing_for, 3)
    if state != CLOSED and (retry_in := breaker.retry_after) is not None:
        said["retryInSeconds"] = round(retry_in, 3)
    said |= described(breaker.last_failure)
    if tiers:
        said["servedInstead"] = tiers
    if dependency is not None:
        _add_for_people(said, dependency)
        if dependency.rto is not None and failing_for is not None:
            said["rtoExceeded"] = failing_for > dependency.rto
    return said


def _status(state: str, *, rejects: bool) -> Status:
    if state == CLOSED:
        return "pass"
    return "fail" if rejects and state == OPEN else "warn"


def _rejects(breaker: Shown) -> bool:
    """Whether an open circuit turns calls away: a shadow only says what it would have done."""
    return getattr(breaker, "mode", "enforce") != "shadow"


def _bulkhead(bulkhead: Bulkhead, dependency: Dependency) -> dict[str, Any]:
    in_flight = bulkhead.in_flight
    said: dict[str, Any] = {
        "componentType": "component",
        "status": "warn" if in_flight >= bulkhead.max_concurrent else "pass",
        "observedValue": in_flight,
        "observedUnit": "calls",
        "limit": bulkhead.max_concurrent,
        "waiting": bulkhead.waiting,
    }
    _add_for_people(said, dependency)
    return said


def _add_for_people(said: dict[str, Any], dependency: Dependency) -> None:
    said["critical"] = dependency.critical
    if dependency.owner is not None:
        said["owner"] = dependency.owner
    if dependency.runbook is not None:
        said["runbook"] = dependency.runbook
    if dependency.rto is not None:
        said["rtoSeconds"] = dependency.rto
