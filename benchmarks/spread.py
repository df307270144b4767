"""A median with its quartiles: what every figure here is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles

__all__ = ["Spread"]


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some samples, between their quartiles."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Spread:
        """Return the spread of `samples`, of which there may be one only."""
        if len(samples) == 1:
            return cls(samples[0], samples[0], samples[0])
        low, _, high = quantiles(samples, n=4, method="inclusive")
        return cls(low, median(samples), high)

    @classmethod
    def of_ratios(cls, samples: Sequence[float], to: Sequence[float]) -> Spread:
        """Return the spread of the ratios of `samples` to others of the same rounds."""
        return cls.of([one / other for one, other in zip(samples, to, strict=True)])
