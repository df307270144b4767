"""Breakers of other libraries: made to open after so many failures, for so many seconds."""

from __future__ import annotations

from datetime import timedelta
from inspect import iscoroutinefunction
from itertools import count
from typing import Any, cast

import aiobreaker
import circuitbreaker
import hyx.circuitbreaker
import hyx.circuitbreaker.exceptions
import hyx.fallback
import interlock
import purgatory
import pybreaker
import pyresilience
from purgatory.domain.model import OpenedState

from benchmarks.peers.peer import (
    ASYNC,
    SYNC,
    Function,
    Peer,
    default_served,
    default_served_async,
)

__all__ = ["BREAKERS", "BREAKERS_WITH_DEFAULT", "forget_traceback", "interlock_breaker"]

#: What peers open after and for, unless told otherwise.
FAILURES, SECONDS = 5, 60.0

#: circuitbreaker comes without types, and its code promises too many.
_circuit = cast("Any", circuitbreaker.circuit)
_purgatory_sync = purgatory.SyncCircuitBreakerFactory()
_purgatory_async = purgatory.AsyncCircuitBreakerFactory()
_names = map("circuit-{}".format, count())


def _pybreaker(function: Function, failures: int = FAILURES, seconds: float = SECONDS) -> Function:
    guarded: Function = pybreaker.CircuitBreaker(fail_max=failures, reset_timeout=seconds)(function)
    return guarded


def _circuitbreaker(
    function: Function, failures: int = FAILURES, seconds: float = SECONDS, **more: Any
) -> Function:
    guarded: Function = _circuit(failure_threshold=failures, recovery_timeout=seconds, **more)(
        function
    )
    return guarded


def _circuitbreaker_with_default(
    function: Function, failures: int = FAILURES, seconds: float = SECONDS
) -> Function:
    served = default_served_async if iscoroutinefunction(function) else default_served
    return _circuitbreaker(function, failures, seconds, fallback_function=served)


def _purgatory(function: Function, failures: int = FAILURES, seconds: float = SECONDS) -> Function:
    factory = _purgatory_async if iscoroutinefunction(function) else _purgatory_sync
    name = next(_names)
    guarded: Function = factory(name, threshold=failures, ttl=seconds)(function)
    guarded.__dict__["circuit"] = name
    return guarded


def forget_traceback(guarded: Function) -> None:
    """Cut the traceback of the one error that purgatory raises for all rejections of a circuit.

    It grows by some frames with each of them, until there is no memory left.
    """
    circuits: dict[str, Any] = {}
    for factory in (_purgatory_sync, _purgatory_async):
        circuits |= cast("Any", factory.uow.contexts).breakers
    state = circuits[guarded.__dict__["circuit"]]._state
    assert isinstance(state, OpenedState)
    state.__traceback__ = None


def _aiobreaker(function: Function, failures: int = FAILURES, seconds: float = SECONDS) -> Function:
    breaker = aiobreaker.CircuitBreaker(
        fail_max=failures, timeout_duration=timedelta(seconds=seconds)
    )
    guarded: Function = breaker(function)
    return guarded


def _hyx(function: Function, failures: int = FAILURES, seconds: float = SECONDS) -> Function:
    return hyx.circuitbreaker.consecutive_breaker(
        failure_threshold=failures, recovery_time_secs=seconds
    )(function)


def _hyx_with_default(
    function: Function, failures: int = FAILURES, seconds: float = SECONDS
) -> Function:
    guarded: Function = hyx.fallback.fallback(default_served_async)(
        _hyx(function, failures, seconds)
    )
    return guarded


def _pyresilience(
    function: Function, failures: int = FAILURES, seconds: float = SECONDS, **more: Any
) -> Function:
    breaker = pyresilience.CircuitBreakerConfig(
        failure_threshold=failures, recovery_timeout=seconds
    )
    guarded: Function = pyresilience.resilient(circuit_breaker=breaker, **more)(function)
    return guarded


def _pyresilience_with_default(
    function: Function, failures: int = FAILURES, seconds: float = SECONDS
) -> Function:
    served = pyresilience.FallbackConfig(handler=default_served)
    return _pyresilience(function, failures, seconds, fallback=served)


def interlock_breaker(
    failures: int = FAILURES, seconds: float = SECONDS
) -> interlock.CircuitBreaker:
    """Return a breaker with interlock's own window of 100 calls."""
    config = interlock.Config(minimum_number_of_calls=failures, wait_duration_in_open=seconds)
    return interlock.CircuitBreaker(name=next(_names), config=config)


def _interlock(function: Function, failures: int = FAILURES, seconds: float = SECONDS) -> Function:
    guarded: Function = interlock_breaker(failures, seconds)(function)
    return guarded


def _interlock_with_default(
    function: Function, failures: int = FAILURES, seconds: float = SECONDS
) -> Function:
    pipeline = (
        interlock.Pipeline.builder()
        .fallback(default_served)
        .circuit_breaker(interlock_breaker(failures, seconds))
        .build()
    )
    guarded: Function = pipeline(function)
    return guarded


_HYX_OPEN = hyx.circuitbreaker.exceptions.BreakerFailing

BREAKERS = (
    Peer("circuitbreaker", _circuitbreaker, rejection=circuitbreaker.CircuitBreakerError),
    Peer("pybreaker", _pybreaker, SYNC, pybreaker.CircuitBreakerError),
    Peer("purgatory", _purgatory, rejection=OpenedState),
    Peer("pyresilience", _pyresilience, rejection=pyresilience.CircuitOpenError),
    Peer("interlock", _interlock, rejection=interlock.CircuitOpenError),
    Peer("aiobreaker", _aiobreaker, ASYNC, aiobreaker.CircuitBreakerError),
    Peer("hyx", _hyx, ASYNC, _HYX_OPEN),
)
BREAKERS_WITH_DEFAULT = (
    Peer("circuitbreaker", _circuitbreaker_with_default),
    Peer("pyresilience", _pyresilience_with_default),
    Peer("interlock", _interlock_with_default),
    Peer("hyx", _hyx_with_default, ASYNC),
)
