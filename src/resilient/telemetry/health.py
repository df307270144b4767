"""Health: may traffic come (ready), has startup ended, is the process alive.

Answered from memory. Liveness never looks at dependencies: a restart would not mend them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from resilient.dependency import all_dependencies
from resilient.engine.guard import guarded_under
from resilient.engine.locks import new_lock
from resilient.strategies.breaker.circuit import CLOSED
from resilient.strategies.breaker.interface import Shown, all_breakers

__all__ = ["Report", "draining", "live", "ready", "started", "startup"]

Status = Literal["pass", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Report:
    """The answer to one question about the health of the process."""

    status: Status
    checks: dict[str, list[dict[str, Any]]] = field(default_factory=dict[str, list[dict[str, Any]]])

    @property
    def http_status(self) -> int:
        """200, or 503 when the answer is no."""
        return 503 if self.status == "fail" else 200

    def as_dict(self) -> dict[str, Any]:
        """Return the answer in the form of application/health+json."""
        body: dict[str, Any] = {"status": self.status}
        if self.checks:
            body["checks"] = self.checks
        return body


@dataclass(slots=True)
class _Process:
    started: bool = False
    draining: bool = False


_process = _Process()
_lock = new_lock()


def started(value: bool = True) -> None:
    """Say that startup is done."""
    with _lock:
        _process.started = value


def draining(value: bool = True) -> None:
    """Say that the process takes no new work."""
    with _lock:
        _process.draining = value


def startup() -> Report:
    """Return whether startup is done."""
    return Report("pass" if _process.started else "fail")


def live() -> Report:
    """Return that the process is alive: it has answered."""
    return Report("pass")


def ready() -> Report:
    """Return whether traffic may come.

    An open breaker is a warning, unless it belongs to a critical dependency of which no function
    has a fallback; then, and while draining, the answer is no.
    """
    checks: dict[str, list[dict[str, Any]]] = {}
    statuses: list[Status] = ["fail"] if _process.draining else ["pass"]
    if _process.draining:
        checks["process:draining"] = [{"status": "fail"}]
    critical = {one.name for one in all_dependencies() if one.critical}
    owners = {id(one.breaker): one.name for one in all_dependencies() if one.breaker is not None}
    for breaker in all_breakers():
        name = owners.get(id(breaker), breaker.name or "")
        status = _status(breaker, is_vital=name in critical and not guarded_under(name, "Fallback"))
        statuses.append(status)
        checks[f"{name}:circuit"] = [_described(breaker, status)]
    worst: Status = "fail" if "fail" in statuses else "warn" if "warn" in statuses else "pass"
    return Report(worst, checks)


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
