"""What is served while a dependency is down."""

from __future__ import annotations

from resilient.degrade.fallback import Fallback
from resilient.engine.measures import Measures

__all__ = ["served_instead"]


def served_instead(name: str) -> list[str]:
    """Return the tiers of the functions of a dependency, in order, each once."""
    found: dict[str, None] = {}
    for pipeline in Measures.of(name).pipelines:
        for strategy in pipeline.strategies:
            if isinstance(strategy, Fallback):
                found.update((tier.name, None) for tier in strategy.tiers)
    return list(found)
