"""Faults injected beneath all strategies, for tests and drills: what is active, by dependency."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Fault", "Passing", "active", "disabled", "passing"]

#: Called instead of the guarded function, with it and its arguments.
Fault = Callable[..., Any]

active: dict[str, Fault] = {}


@dataclass(slots=True)
class Passing:
    """Whether calls pass all strategies by, and how many times over that has been asked for."""

    depth: int = 0


def disabled() -> bool:
    """Whether RESILIENT_DISABLED=1 has made every guard a plain call."""
    return os.environ.get("RESILIENT_DISABLED", "") not in ("", "0")


# What is not decorated, such as a block, finds out here.
passing = Passing(depth=int(disabled()))
