"""Faults injected beneath all strategies, for tests and drills: what is active, by dependency."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Fault", "Passing", "active", "passing"]

#: Called instead of the guarded function, with it and its arguments.
Fault = Callable[..., Any]

active: dict[str, Fault] = {}


@dataclass(slots=True)
class Passing:
    """Whether calls pass all strategies by, and how many times over that has been asked for."""

    depth: int = 0


passing = Passing()
