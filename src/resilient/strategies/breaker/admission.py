"""What a circuit says to a call that asks to be let in."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import final

__all__ = ["Admission", "Refusal"]


@final
class Admission:
    """The permission for one call, valid in one generation; of a probe, until its lease ends."""

    __slots__ = ("expires", "generation", "is_probe", "is_ramp")

    def __init__(
        self,
        generation: int,
        *,
        is_probe: bool = False,
        is_ramp: bool = False,
        expires: float = inf,
    ) -> None:
        self.generation = generation
        self.is_probe = is_probe
        self.is_ramp = is_ramp
        self.expires = expires


@dataclass(frozen=True, slots=True)
class Refusal:
    """No permission now; seconds until there may be one, or None if nobody can tell."""

    retry_after: float | None
