"""What of this library is measured, made from what its users write."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

from prometheus_client import CollectorRegistry

from resilient import (
    CircuitBreaker,
    Dependency,
    bulkhead,
    cached,
    circuit_breaker,
    deadline,
    pipeline_of,
    rate_limit,
    register_metrics,
    retry,
    timeout,
    with_fallback,
)

__all__ = [
    "ATTEMPTS",
    "DEFAULT",
    "FOR_LONG",
    "breaker_alone",
    "breaker_of",
    "bulkhead_alone",
    "cached_alone",
    "cached_stack",
    "counted",
    "deadline_alone",
    "dependency",
    "fallback_alone",
    "limited_stack",
    "opened",
    "opened_with_default",
    "rate_limit_alone",
    "registry",
    "retry_alone",
    "stack",
    "three_attempts",
    "timeout_alone",
    "tolerant_breaker",
]

Function = Callable[..., Any]

DEFAULT = "something popular"
ATTEMPTS = 3
#: Longer than any run: what is open stays open while it is measured.
FOR_LONG = 3600

#: Of a call that was not cancelled.
OUTCOMES = ("success", "degraded", "failure", "timeout", "rejected")

registry = CollectorRegistry()
register_metrics(registry)
_numbers = count(1)


def _name() -> str:
    return f"service-{next(_numbers)}"


def stack(function: Function) -> Function:
    """Fallback, retry, a breaker with a window of 100 calls; metrics are counted for all of it."""
    protected = circuit_breaker(_name(), failure_rate=0.5, window=100)(function)
    return with_fallback(DEFAULT)(retry(on=ConnectionError, wait_initial=0)(protected))


def cached_stack(function: Function) -> Function:
    """Keep each answer in memory as well, under a key that is made from the argument."""
    protected = circuit_breaker(_name(), failure_rate=0.5, window=100)(function)
    retried = retry(on=ConnectionError, wait_initial=0)(protected)
    return with_fallback(cached(ttl=FOR_LONG, key="answer:{key}"))(retried)


def limited_stack(function: Function) -> Function:
    """Limit the time of each attempt and of the whole call as well."""
    protected = circuit_breaker(_name(), failure_rate=0.5, window=100)(timeout(2)(function))
    retried = retry(on=ConnectionError, wait_initial=0)(protected)
    return with_fallback(DEFAULT)(timeout(5)(retried))


def breaker_alone(function: Function, window: int = 100) -> Function:
    """Break the circuit by the failure rate of the last 100 calls."""
    return circuit_breaker(_name(), failure_rate=0.5, window=window)(function)


def tolerant_breaker(function: Function, window: int = 100) -> Function:
    """Stay closed while nine calls of ten fail."""
    return circuit_breaker(_name(), failure_rate=0.95, window=window)(function)


def breaker_of(call: Function) -> CircuitBreaker:
    """Return the breaker that guards `call`."""
    return next(one for one in pipeline_of(call).strategies if isinstance(one, CircuitBreaker))


def retry_alone(function: Function) -> Function:
    """Try three times."""
    return retry(on=ConnectionError, attempts=ATTEMPTS, wait_initial=0)(function)


def dependency(function: Function) -> Function:
    """Guard by a dependency with everything that is free while all is well."""
    found = Dependency(
        _name(),
        retry=retry(on=ConnectionError, wait_initial=0),
        breaker=circuit_breaker(failure_rate=0.5, window=100),
        max_concurrent=20,
    )
    return found(function)


def fallback_alone(function: Function) -> Function:
    """Serve a default instead of a failure."""
    return with_fallback(DEFAULT)(function)


def timeout_alone(function: Function, seconds: float = 2) -> Function:
    """Take control back after so many seconds."""
    return timeout(seconds)(function)


def cached_alone(function: Function) -> Function:
    """Keep each answer in memory, for when a call fails."""
    return with_fallback(cached(ttl=FOR_LONG, key="answer:{key}"))(function)


def deadline_alone(function: Function, seconds: float = 2) -> Function:
    """Let everything within know what time is left."""
    return deadline(seconds)(function)


def bulkhead_alone(function: Function, at_once: int = 20) -> Function:
    """Let so many calls in at once."""
    return bulkhead(at_once)(function)


def rate_limit_alone(function: Function, limit: int = 10_000_000) -> Function:
    """Let so many calls in for each second: more than are made, unless told otherwise."""
    return rate_limit(limit)(function)


def opened(function: Function) -> Function:
    """Break the circuit at the first failure, for long."""
    return circuit_breaker(_name(), fail_max=1, reset_timeout=FOR_LONG)(function)


def opened_with_default(function: Function) -> Function:
    """Do the same, and serve a default while it is open."""
    return with_fallback(DEFAULT)(opened(function))


def three_attempts(function: Function) -> Function:
    """Try three times without a pause, whatever fails, then serve a default."""
    retried = retry(on=ConnectionError, attempts=ATTEMPTS, wait_initial=0, budget=None)(function)
    return with_fallback(DEFAULT)(retried)


def counted(call: Function, *outcomes: str) -> int:
    """Return how many calls the metrics have counted, as a scrape sees them."""
    labels = {"dependency": pipeline_of(call).name}
    total = 0.0
    for metric in registry.collect():
        for sample in metric.samples:
            if sample.name == "resilient_calls_total" and labels.items() <= sample.labels.items():
                total += sample.value if sample.labels["outcome"] in (outcomes or OUTCOMES) else 0
    return round(total)
