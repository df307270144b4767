"""The rules of a circuit, and how they are made of the settings of a breaker."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from resilient.engine import settings
from resilient.errors import InvalidSetting
from resilient.strategies.breaker.window import CountWindow, TimeWindow, Window

__all__ = ["Rules", "rules_of", "window_of"]


@dataclass(frozen=True, slots=True)
class Rules:
    """When a circuit opens and how it closes again; see `CircuitBreaker` for what each means."""

    fail_max: int | None
    failure_rate: float | None
    slow_call_rate: float | None
    slow_call_seconds: float
    min_calls: int
    reset_timeout: float
    max_reset_timeout: float
    probes: int
    success_threshold: int
    ramp: bool


def rules_of(
    *,
    fail_max: int | None,
    failure_rate: float | None,
    slow_call_rate: float | None,
    slow_call_seconds: float | None,
    window: int | str,
    min_calls: int | None,
    reset_timeout: float | None,
    max_reset_timeout: float | None,
    probes: int,
    success_threshold: int,
    ramp: bool,
) -> Rules:
    """Return the rules, or raise `InvalidSetting` for what is outside of its range."""
    if fail_max is None and failure_rate is None and slow_call_rate is None:
        fail_max = 5
    if (slow_call_rate is None) != (slow_call_seconds is None):
        raise InvalidSetting(
            "slow_call_seconds", slow_call_seconds, "given together with slow_call_rate"
        )
    first = 1.0 if reset_timeout is None else settings.seconds("reset_timeout", reset_timeout)
    longest = max_reset_timeout
    if longest is None:
        longest = 30.0 if reset_timeout is None else first
    if settings.seconds("max_reset_timeout", longest) < first:
        raise InvalidSetting("max_reset_timeout", longest, f"reset_timeout ({first:g}) or more")
    return Rules(
        fail_max=None if fail_max is None else settings.count("fail_max", fail_max),
        failure_rate=_rate("failure_rate", failure_rate),
        slow_call_rate=_rate("slow_call_rate", slow_call_rate),
        slow_call_seconds=inf
        if slow_call_seconds is None
        else settings.seconds("slow_call_seconds", slow_call_seconds, above_zero=True),
        min_calls=_min_calls(min_calls, window),
        reset_timeout=first,
        max_reset_timeout=longest,
        probes=settings.count("probes", probes),
        success_threshold=settings.count("success_threshold", success_threshold),
        ramp=ramp,
    )


def _rate(parameter: str, value: float | None) -> float | None:
    return None if value is None else settings.fraction(parameter, value)


def _min_calls(min_calls: int | None, window: int | str) -> int:
    if min_calls is None:
        return min(10, window) if isinstance(window, int) else 10
    least = settings.count("min_calls", min_calls)
    if isinstance(window, int) and least > window:
        raise InvalidSetting("min_calls", min_calls, f"at most the window ({window})")
    return least


def window_of(window: int | str) -> Window:
    """Return the window of the last so many calls, or of the last so many seconds."""
    if isinstance(window, str):
        return TimeWindow(settings.period("window", window))
    return CountWindow(settings.count("window", window))
