"""Faults injected beneath all strategies, for tests and drills: what is active, by dependency."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from resilient.errors import InvalidSetting

__all__ = ["Fault", "Passing", "active", "disabled", "passing"]

#: Called instead of the guarded function, with it and its arguments.
Fault = Callable[..., Any]

active: dict[str, Fault] = {}

_YES = {"1", "true", "yes", "on"}
_NO = {"", "0", "false", "no", "off"}


@dataclass(slots=True)
class Passing:
    """Whether calls pass all strategies by, and how many times over that has been asked for."""

    depth: int = 0


def disabled() -> bool:
    """Whether RESILIENT_DISABLED=1 has made every guard a plain call.

    Raises:
        InvalidSetting: If it is neither 1 nor 0: what was meant must not be guessed.
    """
    value = os.environ.get("RESILIENT_DISABLED", "")
    if value.strip().lower() not in _YES | _NO:
        raise InvalidSetting("RESILIENT_DISABLED", value, "1 or 0")
    return value.strip().lower() in _YES


# What is not decorated, such as a block, finds out here.
passing = Passing(depth=int(disabled()))
