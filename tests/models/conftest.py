"""What all models share."""

from __future__ import annotations

import logging

import pytest


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Thousands of calls are rejected; their events say nothing that a failed test does not."""
    caplog.set_level(logging.CRITICAL + 1, logger="resilient")
