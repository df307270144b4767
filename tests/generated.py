"""How many examples a generated test takes: few in the suite, many more in `make proof`."""

from __future__ import annotations

from hypothesis import settings

__all__ = ["SUITE", "examples", "register_profiles"]

SUITE = 100
PROOF = 30 * SUITE


def register_profiles() -> None:
    """Make the two profiles known: the same examples each time, or new ones each time."""
    settings.register_profile("suite", max_examples=SUITE, derandomize=True, deadline=None)
    settings.register_profile("proof", max_examples=PROOF, print_blob=True, deadline=None)


def examples(number: int) -> settings:
    """Return the settings of a test that takes `number` examples in the suite."""
    return settings(max_examples=number * settings().max_examples // SUITE)
