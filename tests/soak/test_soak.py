"""The soak finds nothing wrong in some seconds, and finds what is planted."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import structlog

from tests.soak.soak import Soak

SECONDS = 2.0


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.configure(**before)


def test_nothing_grows_and_all_counts_are_exact(tmp_path: Path) -> None:
    """Threads and tasks through all strategies, with faults: what was made is what was counted."""
    soak = Soak(SECONDS, tmp_path)
    assert soak.run() == []
    assert sum(soak.made.values()) > 100


def test_what_grows_is_found(tmp_path: Path) -> None:
    """Memory, descriptors and threads that each call leaves behind are told, each by its name."""
    kept: list[bytes] = []
    enough = threading.Event()
    with ExitStack() as undo:

        def leak(_number: int) -> None:
            if len(kept) % 10 == 0 and len(kept) < 4000:
                descriptor = os.open(os.devnull, os.O_RDONLY)
                undo.callback(os.close, descriptor)
                threading.Thread(target=enough.wait, daemon=True).start()
            kept.append(bytes(10_000))

        undo.callback(enough.set)
        problems = Soak(SECONDS, tmp_path, leak).run()
    told = {problem.split()[0] for problem in problems}
    assert {"memory", "threads", "descriptors"} <= told


def test_a_call_that_is_not_counted_is_found(tmp_path: Path) -> None:
    """One outcome more or less than what was called is told, with all numbers."""
    soak = Soak(1.0, tmp_path)
    soak.on_threads(1)
    assert any(problem.startswith("threads: ") for problem in soak.run())
