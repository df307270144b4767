"""Retries of other libraries: three attempts without a pause, also with a default at the end."""

from __future__ import annotations

from inspect import iscoroutinefunction
from typing import Any

import backoff
import hyx.fallback
import hyx.retry
import interlock
import pyresilience
import stamina
import tenacity

from benchmarks.ours import ATTEMPTS, DEFAULT
from benchmarks.peers.peer import (
    ASYNC,
    Function,
    Peer,
    default_served,
    default_served_async,
)

__all__ = [
    "HYX_ATTEMPTS",
    "RETRIES",
    "RETRIES_WITH_DEFAULT",
    "interlock_attempts",
    "pyresilience_attempts",
    "tenacity_retry",
]


#: hyx counts the attempts after the first.
HYX_ATTEMPTS = ATTEMPTS - 1


def tenacity_retry(function: Function) -> Function:
    """Try three times without a pause."""
    retrying = tenacity.retry(
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        wait=tenacity.wait_none(),
        retry=tenacity.retry_if_exception_type(ConnectionError),
        reraise=True,
    )
    guarded: Function = retrying(function)
    return guarded


def _tenacity_with_default(function: Function) -> Function:
    retrying = tenacity.retry(
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        wait=tenacity.wait_none(),
        retry=tenacity.retry_if_exception_type(ConnectionError),
        retry_error_callback=default_served,
    )
    guarded: Function = retrying(function)
    return guarded


def _stamina(function: Function) -> Function:
    guarded: Function = stamina.retry(
        on=ConnectionError, attempts=ATTEMPTS, wait_initial=0, wait_max=0, wait_jitter=0
    )(function)
    return guarded


def _backoff(function: Function) -> Function:
    return backoff.on_exception(
        backoff.constant, ConnectionError, max_tries=ATTEMPTS, jitter=None, interval=0
    )(function)


def _with_default(retried: Function) -> Function:
    """Serve a default in the end, which some libraries leave to their users."""
    if iscoroutinefunction(retried):

        async def guarded_async(key: str) -> Any:
            try:
                return await retried(key)
            except ConnectionError:
                return DEFAULT

        return guarded_async

    def guarded(key: str) -> Any:
        try:
            return retried(key)
        except ConnectionError:
            return DEFAULT

    return guarded


def _stamina_with_default(function: Function) -> Function:
    return _with_default(_stamina(function))


def _backoff_with_default(function: Function) -> Function:
    return _with_default(_backoff(function))


def pyresilience_attempts() -> pyresilience.RetryConfig:
    """Return the settings for three attempts without a pause."""
    return pyresilience.RetryConfig(
        max_attempts=ATTEMPTS, delay=0, jitter=False, retry_on=(ConnectionError,)
    )


def _pyresilience(function: Function, **more: Any) -> Function:
    guarded: Function = pyresilience.resilient(retry=pyresilience_attempts(), **more)(function)
    return guarded


def _pyresilience_with_default(function: Function) -> Function:
    return _pyresilience(function, fallback=pyresilience.FallbackConfig(handler=default_served))


def interlock_attempts(builder: interlock.PipelineBuilder) -> interlock.PipelineBuilder:
    """Add three attempts without a pause to a pipeline."""
    return builder.retry(
        attempts=ATTEMPTS,
        wait=tenacity.wait_none(),
        retry=tenacity.retry_if_exception_type(ConnectionError),
    )


def _interlock(function: Function) -> Function:
    guarded: Function = interlock_attempts(interlock.Pipeline.builder()).build()(function)
    return guarded


def _interlock_with_default(function: Function) -> Function:
    builder = interlock.Pipeline.builder().fallback(default_served)
    guarded: Function = interlock_attempts(builder).build()(function)
    return guarded


def _hyx(function: Function) -> Function:
    retrying = hyx.retry.retry(on=ConnectionError, attempts=HYX_ATTEMPTS, backoff=0)
    guarded: Function = retrying(function)
    return guarded


def _hyx_with_default(function: Function) -> Function:
    guarded: Function = hyx.fallback.fallback(default_served_async)(_hyx(function))
    return guarded


RETRIES = (
    Peer("tenacity", tenacity_retry),
    Peer("stamina", _stamina),
    Peer("backoff", _backoff),
    Peer("pyresilience", _pyresilience),
    Peer("interlock", _interlock),
    Peer("hyx", _hyx, ASYNC),
)
RETRIES_WITH_DEFAULT = (
    Peer("tenacity", _tenacity_with_default),
    Peer("stamina", _stamina_with_default),
    Peer("backoff", _backoff_with_default),
    Peer("pyresilience", _pyresilience_with_default),
    Peer("interlock", _interlock_with_default),
    Peer("hyx", _hyx_with_default, ASYNC),
)
