"""The fixtures for pytest, found through the entry point."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

__all__ = ["virtual_time"]


@pytest.fixture
def virtual_time() -> Iterator[object]:
    """A `resilient.testing.VirtualTime` that is the library's clock during the test."""
    from resilient.testing.virtual import VirtualTime

    with VirtualTime() as time:
        yield time
