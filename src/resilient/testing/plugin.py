"""The fixtures for pytest, found through the entry point."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

__all__ = ["virtual_time"]


def pytest_unconfigure() -> None:
    """Keep summaries of what tests have provoked from following the results."""
    events = sys.modules.get("resilient.telemetry.events")
    if events is not None:
        events.repeats.forget()


@pytest.fixture
def virtual_time() -> Iterator[object]:
    """A `resilient.testing.VirtualTime` that is the library's clock during the test."""
    from resilient.testing.virtual import VirtualTime

    with VirtualTime() as time:
        yield time
