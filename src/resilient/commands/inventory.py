"""What an application has declared: its dependencies, their settings, and what they guard."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from typing import Any, TypeAlias

from resilient.degrade.fallback import Fallback
from resilient.dependency import Dependency, all_dependencies
from resilient.engine.callables import plain_name
from resilient.engine.guard import guarded_functions, pipeline_of
from resilient.engine.strategy import Strategy
from resilient.strategies.breaker.breaker import CircuitBreaker
from resilient.strategies.breaker.keyed import KeyedCircuitBreaker
from resilient.strategies.breaker.window import BUCKETS, Window
from resilient.strategies.retry import Retry
from resilient.strategies.timeout import Deadline, Timeout

__all__ = ["Described", "inventory"]

#: Names and plain values only, ready for JSON.
Described: TypeAlias = dict[str, Any]


def inventory() -> list[Described]:
    """Return every dependency, ordered by name; also those that only decorators name."""
    declared = {one.name: one for one in all_dependencies()}
    functions: dict[str, list[Any]] = {name: [] for name in declared}
    for function in guarded_functions():
        functions.setdefault(pipeline_of(function).name, []).append(function)
    return [_described(name, declared.get(name), functions[name]) for name in sorted(functions)]


def _described(name: str, declared: Dependency | None, functions: list[Any]) -> Described:
    said: Described = {"dependency": name}
    common: tuple[Strategy, ...] = ()
    if declared is not None:
        common = declared.strategies
        said |= {
            "critical": declared.critical,
            "rto": declared.rto,
            "owner": declared.owner,
            "runbook": declared.runbook,
            "failures": _plain(declared.failures),
        }
    said["strategies"] = [
        {
            "strategy": "total_timeout"
            if declared and part is declared.total_timeout
            else _word(part)
        }
        | _settings(part)
        for part in common
    ]
    said["functions"] = sorted(
        (_function(one, {id(part) for part in common}) for one in functions),
        key=lambda one: str(one["function"]),
    )
    return said


def _function(function: Any, common: Iterable[int]) -> Described:
    own = [part for part in pipeline_of(function).strategies if id(part) not in common]
    return {
        "function": plain_name(inspect.unwrap(function)),
        "strategies": [
            {"strategy": _word(part)} | _settings(part)
            for part in own
            if not isinstance(part, Fallback)
        ],
        "served_instead": [
            repr(tier) for part in own if isinstance(part, Fallback) for tier in part.tiers
        ],
    }


def _word(part: Strategy) -> str:
    """Return what a user writes for it: `circuit_breaker` for a `CircuitBreaker`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(part).__name__).lower()


def _settings(part: Strategy) -> Described:
    """Return the settings of a strategy by the names of its arguments; without what is not set."""
    found: dict[str, Any] = {}
    for name in inspect.signature(type(part)).parameters:
        found[name] = getattr(part, name, None)
    if isinstance(part, Timeout | Deadline):
        found["seconds"] = part.limit
    elif isinstance(part, Retry) and part.stop is not None:
        found["attempts"] = None  # the two say the same, and only one of them is meant
    elif isinstance(part, CircuitBreaker):
        found = _of_circuit(part)
    elif isinstance(part, KeyedCircuitBreaker):
        found = _of_circuit(part._keyless) | {"key": part._key, "max_keys": part._circuits._most}
    return {name: _plain(value) for name, value in found.items() if value is not None}


def _of_circuit(breaker: CircuitBreaker) -> dict[str, Any]:
    circuit, prober = breaker._circuit, breaker._prober
    rules = circuit.rules
    found: dict[str, Any] = {name: getattr(rules, name) for name in rules.__slots__}
    if rules.slow_call_rate is None:
        found["slow_call_seconds"] = None
    found["window"] = _window(circuit.window)
    if prober is not None:
        found |= {"probe": prober._probe, "probe_every": prober._every}
    return found | {"mode": breaker.mode}


def _window(window: Window) -> int | str:
    size: int | None = getattr(window, "size", None)
    return size if size is not None else f"{(window.resolution or 0) * BUCKETS:g}s"


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    if isinstance(value, type):
        return value.__name__
    if inspect.isroutine(value):
        return plain_name(value)
    *own, _ = type(value).__mro__  # the last is `object`
    says_nothing = hasattr(value, "__dict__") and not any("__repr__" in vars(one) for one in own)
    return _numbers_of(value) if says_nothing else repr(value)


def _numbers_of(value: object) -> str:
    """Return what can be said of an object that does not describe itself, as tenacity's do not."""
    said = (f"{name}={one}" for name, one in vars(value).items() if isinstance(one, int | float))
    return f"{type(value).__name__}({', '.join(said)})"
