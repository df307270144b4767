"""Outboxes in files of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from resilient import Outbox

MakeOutbox = Callable[..., Outbox]


@pytest.fixture
def make_outbox(tmp_path: Path) -> Iterator[MakeOutbox]:
    """A function that makes an outbox, which is stopped and closed at the end."""
    made: list[Outbox] = []

    def make(file: str = "outbox.db", **settings: Any) -> Outbox:
        outbox = Outbox(tmp_path / file, name=f"{tmp_path.name}-{file}-{len(made)}", **settings)
        made.append(outbox)
        return outbox

    yield make
    for outbox in made:
        outbox.stop()
        outbox.close()
        # It may be kept by a cycle for a while, and would warn in the tests of health.
        outbox.conditions = tuple  # type: ignore[method-assign]


@pytest.fixture
def outbox(make_outbox: MakeOutbox) -> Outbox:
    """An outbox with the settings that are given to users who give none."""
    return make_outbox()
