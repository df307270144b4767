"""Keeps a service answering while what it depends on fails, and measures how fast it recovers.

Every public name is here, and loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resilient._version import __version__
    from resilient.degrade.cache import Cache, cache_of
    from resilient.degrade.cached import Cached, cached
    from resilient.degrade.default import Default, default
    from resilient.degrade.degradations import Degradation, degradation_scope, degradations
    from resilient.degrade.failover import Failover, failover
    from resilient.degrade.failover_to import FailoverTo, failover_to
    from resilient.degrade.fallback import Fallback, with_fallback
    from resilient.degrade.gather import gather_partial
    from resilient.degrade.marked import Marked, marked
    from resilient.degrade.outbox.calls import CallQueue, NewCall, QueuedCall, Receipt
    from resilient.degrade.outbox.outbox import Outbox
    from resilient.degrade.outbox.replay import Replay
    from resilient.degrade.partial import Partial
    from resilient.degrade.queued import Queued, queued
    from resilient.degrade.stores import Entry, Store
    from resilient.degrade.stores.codec import Codec, JSONCodec, MsgspecCodec
    from resilient.degrade.stores.memory import MemoryStore
    from resilient.degrade.stores.redis import RedisStore
    from resilient.degrade.stores.sqlite import SQLiteStore
    from resilient.dependency import Dependency
    from resilient.engine.draining import drain, draining, unit_of_work
    from resilient.engine.guard import pipeline_of
    from resilient.engine.limits import remaining
    from resilient.engine.pipeline import Pipeline
    from resilient.engine.signals import subscribe, unsubscribe
    from resilient.errors import (
        BulkheadFull,
        CallRejected,
        CallTimeout,
        DeadlineExceeded,
        Draining,
        DuplicateName,
        InvalidSetting,
        InvalidUse,
        NothingToServe,
        OutboxError,
        RateLimited,
        ResilientError,
        UnstableKey,
        WorkersSaturated,
    )
    from resilient.serving.asgi import asgi_app
    from resilient.serving.asgi_middleware import ASGIMiddleware
    from resilient.serving.deadlines import deadline_headers
    from resilient.serving.server import serve
    from resilient.serving.termination import drain_on_sigterm
    from resilient.serving.wsgi import wsgi_app
    from resilient.serving.wsgi_middleware import WSGIMiddleware
    from resilient.strategies.breaker.breaker import CircuitBreaker, circuit_breaker
    from resilient.strategies.breaker.rejection import CircuitOpen
    from resilient.strategies.bulkhead import Bulkhead, bulkhead
    from resilient.strategies.rate_limit import RateLimit, rate_limit
    from resilient.strategies.retry import Retry, retry
    from resilient.strategies.retry_budget import RetryBudget
    from resilient.strategies.retrying import Retrying, retrying
    from resilient.strategies.timeout import Deadline, Timeout, deadline, timeout
    from resilient.telemetry import health
    from resilient.telemetry.metrics import register_metrics
    from resilient.telemetry.observing import Observe, observe

_MODULES = {
    "_version": ("__version__",),
    "degrade.cache": ("Cache", "cache_of"),
    "degrade.cached": ("Cached", "cached"),
    "degrade.default": ("Default", "default"),
    "degrade.degradations": ("Degradation", "degradation_scope", "degradations"),
    "degrade.failover": ("Failover", "failover"),
    "degrade.failover_to": ("FailoverTo", "failover_to"),
    "degrade.fallback": ("Fallback", "with_fallback"),
    "degrade.gather": ("gather_partial",),
    "degrade.marked": ("Marked", "marked"),
    "degrade.partial": ("Partial",),
    "degrade.outbox.calls": ("CallQueue", "NewCall", "QueuedCall", "Receipt"),
    "degrade.outbox.outbox": ("Outbox",),
    "degrade.outbox.replay": ("Replay",),
    "degrade.queued": ("Queued", "queued"),
    "degrade.stores": ("Entry", "Store"),
    "degrade.stores.codec": ("Codec", "JSONCodec", "MsgspecCodec"),
    "degrade.stores.memory": ("MemoryStore",),
    "degrade.stores.redis": ("RedisStore",),
    "degrade.stores.sqlite": ("SQLiteStore",),
    "dependency": ("Dependency",),
    "engine.draining": ("drain", "draining", "unit_of_work"),
    "engine.guard": ("pipeline_of",),
    "engine.limits": ("remaining",),
    "engine.pipeline": ("Pipeline",),
    "engine.signals": ("subscribe", "unsubscribe"),
    "errors": (
        "BulkheadFull",
        "CallRejected",
        "CallTimeout",
        "DeadlineExceeded",
        "Draining",
        "DuplicateName",
        "InvalidSetting",
        "InvalidUse",
        "NothingToServe",
        "OutboxError",
        "RateLimited",
        "ResilientError",
        "UnstableKey",
        "WorkersSaturated",
    ),
    "serving.asgi": ("asgi_app",),
    "serving.asgi_middleware": ("ASGIMiddleware",),
    "serving.deadlines": ("deadline_headers",),
    "serving.server": ("serve",),
    "serving.termination": ("drain_on_sigterm",),
    "serving.wsgi": ("wsgi_app",),
    "serving.wsgi_middleware": ("WSGIMiddleware",),
    "strategies.breaker.breaker": ("CircuitBreaker", "circuit_breaker"),
    "strategies.breaker.rejection": ("CircuitOpen",),
    "strategies.bulkhead": ("Bulkhead", "bulkhead"),
    "strategies.rate_limit": ("RateLimit", "rate_limit"),
    "strategies.retry": ("Retry", "retry"),
    "strategies.retry_budget": ("RetryBudget",),
    "strategies.retrying": ("Retrying", "retrying"),
    "strategies.timeout": ("Deadline", "Timeout", "deadline", "timeout"),
    "telemetry.metrics": ("register_metrics",),
    "telemetry.observing": ("Observe", "observe"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "ASGIMiddleware",
    "Bulkhead",
    "BulkheadFull",
    "Cache",
    "Cached",
    "CallQueue",
    "CallRejected",
    "CallTimeout",
    "CircuitBreaker",
    "CircuitOpen",
    "Codec",
    "Deadline",
    "DeadlineExceeded",
    "Default",
    "Degradation",
    "Dependency",
    "Draining",
    "DuplicateName",
    "Entry",
    "Failover",
    "FailoverTo",
    "Fallback",
    "InvalidSetting",
    "InvalidUse",
    "JSONCodec",
    "Marked",
    "MemoryStore",
    "MsgspecCodec",
    "NewCall",
    "NothingToServe",
    "Observe",
    "Outbox",
    "OutboxError",
    "Partial",
    "Pipeline",
    "Queued",
    "QueuedCall",
    "RateLimit",
    "RateLimited",
    "Receipt",
    "RedisStore",
    "Replay",
    "ResilientError",
    "Retry",
    "RetryBudget",
    "Retrying",
    "SQLiteStore",
    "Store",
    "Timeout",
    "UnstableKey",
    "WSGIMiddleware",
    "WorkersSaturated",
    "__version__",
    "asgi_app",
    "bulkhead",
    "cache_of",
    "cached",
    "circuit_breaker",
    "deadline",
    "deadline_headers",
    "default",
    "degradation_scope",
    "degradations",
    "drain",
    "drain_on_sigterm",
    "draining",
    "failover",
    "failover_to",
    "gather_partial",
    "health",
    "marked",
    "observe",
    "pipeline_of",
    "queued",
    "rate_limit",
    "register_metrics",
    "remaining",
    "retry",
    "retrying",
    "serve",
    "subscribe",
    "timeout",
    "unit_of_work",
    "unsubscribe",
    "with_fallback",
    "wsgi_app",
]


def __getattr__(name: str) -> Any:
    if name == "health":
        return importlib.import_module("resilient.telemetry.health")
    if name not in _HOME:
        raise AttributeError(f"module 'resilient' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"resilient.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _log_signals() -> None:
    """Log every signal; the first one loads what logs them, which takes its place."""
    from resilient.engine import signals

    def load(name: str, fields: Any) -> None:
        from resilient.engine.locks import loading

        with loading:
            from resilient.telemetry.events import log

        signals.replace(load, log)
        log(name, fields)

    signals.begin_with(load)


_log_signals()
