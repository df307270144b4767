"""What of other libraries is measured, made as their documentation has it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import circuitbreaker
import pybreaker
import stamina
import tenacity

from benchmarks.ours import ATTEMPTS, DEFAULT, FOR_LONG

__all__ = [
    "CIRCUITBREAKER_OPEN",
    "PYBREAKER_OPEN",
    "asyncio_timeout",
    "circuitbreaker_alone",
    "circuitbreaker_opened",
    "circuitbreaker_opened_with_default",
    "executor_timeout",
    "pybreaker_alone",
    "pybreaker_opened",
    "stamina_attempts",
    "tenacity_around_pybreaker",
    "tenacity_attempts",
]

Function = Callable[..., Any]

CIRCUITBREAKER_OPEN: type[Exception] = circuitbreaker.CircuitBreakerError
PYBREAKER_OPEN: type[Exception] = pybreaker.CircuitBreakerError


#: circuitbreaker comes without types, and its code promises too many.
_circuit: Callable[..., Callable[[Function], Function]] = cast("Any", circuitbreaker.circuit)


def _default(*_: object) -> str:
    return DEFAULT


def pybreaker_alone(function: Function) -> Function:
    """Break the circuit after five failures in a row."""
    guarded: Function = pybreaker.CircuitBreaker(fail_max=5, reset_timeout=60)(function)
    return guarded


def circuitbreaker_alone(function: Function) -> Function:
    """Break the circuit after five failures in a row."""
    return _circuit(failure_threshold=5, recovery_timeout=60)(function)


def tenacity_around_pybreaker(function: Function) -> Function:
    """Try three times, through a breaker that opens after five failures in a row."""
    retrying = tenacity.retry(
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        retry=tenacity.retry_if_exception_type(ConnectionError),
        reraise=True,
    )
    guarded: Function = retrying(pybreaker_alone(function))
    return guarded


def pybreaker_opened(function: Function) -> Function:
    """Break the circuit at the first failure, for long."""
    guarded: Function = pybreaker.CircuitBreaker(fail_max=1, reset_timeout=FOR_LONG)(function)
    return guarded


def circuitbreaker_opened(function: Function) -> Function:
    """Break the circuit at the first failure, for long."""
    return _circuit(failure_threshold=1, recovery_timeout=FOR_LONG)(function)


def circuitbreaker_opened_with_default(function: Function) -> Function:
    """Do the same, and serve a default while it is open."""
    return _circuit(failure_threshold=1, recovery_timeout=FOR_LONG, fallback_function=_default)(
        function
    )


def tenacity_attempts(function: Function) -> Function:
    """Try three times without a pause, then serve a default."""
    retrying = tenacity.retry(
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        wait=tenacity.wait_none(),
        retry=tenacity.retry_if_exception_type(ConnectionError),
        retry_error_callback=_default,
    )
    guarded: Function = retrying(function)
    return guarded


def stamina_attempts(function: Function) -> Function:
    """Try three times without a pause, then serve a default, which stamina leaves to its user."""
    retried: Function = stamina.retry(
        on=ConnectionError, attempts=ATTEMPTS, wait_initial=0, wait_max=0, wait_jitter=0
    )(function)

    def guarded(key: str) -> Any:
        try:
            return retried(key)
        except ConnectionError:
            return DEFAULT

    return guarded


def executor_timeout(function: Function, seconds: float = 2) -> Function:
    """Call on a thread of the standard library's pool, and wait for so many seconds."""
    pool = ThreadPoolExecutor()

    def guarded(*args: Any, **kwargs: Any) -> Any:
        return pool.submit(function, *args, **kwargs).result(timeout=seconds)

    return guarded


def asyncio_timeout(function: Function, seconds: float = 2) -> Function:
    """Call within the standard library's time limit."""

    async def guarded(*args: Any, **kwargs: Any) -> Any:
        async with asyncio.timeout(seconds):
            return await function(*args, **kwargs)

    return guarded
