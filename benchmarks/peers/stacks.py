"""Several strategies of other libraries around one function."""

from __future__ import annotations

from inspect import iscoroutinefunction

import hyx.circuitbreaker
import hyx.fallback
import hyx.retry
import interlock
import pybreaker
import pyresilience

from benchmarks.peers.breakers import interlock_breaker
from benchmarks.peers.peer import (
    ASYNC,
    Function,
    Peer,
    default_served,
    default_served_async,
)
from benchmarks.peers.retries import (
    HYX_ATTEMPTS,
    interlock_attempts,
    pyresilience_attempts,
    tenacity_retry,
)

__all__ = ["FALLBACKS", "STACKS", "TENACITY_AROUND_PYBREAKER", "tenacity_around_pybreaker"]

TENACITY_AROUND_PYBREAKER = "tenacity around pybreaker"


def tenacity_around_pybreaker(function: Function) -> Function:
    """Try three times, through a breaker that opens after five failures in a row."""
    breaker = pybreaker.CircuitBreaker(fail_max=5, reset_timeout=60)
    return tenacity_retry(breaker(function))


def _pyresilience(function: Function) -> Function:
    guarded: Function = pyresilience.resilient(
        retry=pyresilience_attempts(),
        circuit_breaker=pyresilience.CircuitBreakerConfig(
            sliding_window_size=100, minimum_calls=10
        ),
        fallback=pyresilience.FallbackConfig(handler=default_served),
    )(function)
    return guarded


def _interlock(function: Function) -> Function:
    builder = interlock_attempts(interlock.Pipeline.builder().fallback(default_served))
    pipeline = builder.circuit_breaker(interlock_breaker()).build()
    guarded: Function = pipeline(function)
    return guarded


def _hyx(function: Function) -> Function:
    protected = hyx.circuitbreaker.consecutive_breaker()(function)
    retried = hyx.retry.retry(on=ConnectionError, attempts=HYX_ATTEMPTS, backoff=0)(protected)
    guarded: Function = hyx.fallback.fallback(default_served_async)(retried)
    return guarded


def _pyresilience_fallback(function: Function) -> Function:
    served = pyresilience.FallbackConfig(handler=default_served)
    guarded: Function = pyresilience.resilient(fallback=served)(function)
    return guarded


def _interlock_fallback(function: Function) -> Function:
    guarded: Function = interlock.Pipeline.builder().fallback(default_served).build()(function)
    return guarded


def _hyx_fallback(function: Function) -> Function:
    assert iscoroutinefunction(function)
    guarded: Function = hyx.fallback.fallback(default_served_async)(function)
    return guarded


#: Fallback, retry and breaker.
STACKS = (
    Peer("pyresilience", _pyresilience),
    Peer("interlock", _interlock),
    Peer("hyx", _hyx, ASYNC),
)
#: A default alone.
FALLBACKS = (
    Peer("pyresilience", _pyresilience_fallback),
    Peer("interlock", _interlock_fallback),
    Peer("hyx", _hyx_fallback, ASYNC),
)
