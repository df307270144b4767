"""Metrics of several processes on one page, with prometheus-client's files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.parser import text_string_to_metric_families as parse

from tests.doubles import each
from tests.servers import PATIENCE, GunicornServer

INTERVAL = 0.3
PRELOAD = {"forked, then loaded": (), "loaded, then forked": ("--preload",)}
APPLICATION = "tests.telemetry.counting_application:app"
CALLS = ("resilient_calls_total", "upstream", "success")


def workers(folder: Path, *options: str, every: float = INTERVAL, **more: str) -> GunicornServer:
    """Return gunicorn with the application that counts, and its files in `folder`."""
    pytest.importorskip("gunicorn")
    settings = {"PROMETHEUS_MULTIPROC_DIR": str(folder), "PUBLISH_EVERY": str(every)}
    return GunicornServer(APPLICATION, *options, **settings, **more)


def samples(page: str) -> dict[tuple[str, ...], float]:
    """Return the samples of a page by their names and the values of their labels."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in parse(page)
        for sample in family.samples
    }


def left_behind(folder: Path) -> dict[tuple[str, ...], float]:
    """Return what prometheus-client by itself makes of the files, when nobody runs any more."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(folder))
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in registry.collect()
        for sample in family.samples
    }


def until(holds: Callable[[], bool]) -> None:
    """Return as soon as `holds()`, which it must in a while."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@each("options", PRELOAD)
def test_counts_of_four_workers_add_up_after_a_graceful_stop(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    """Every call is in the sum once, also those before the fork, however rarely it is written."""
    warm_up = 7
    with workers(tmp_path, *options, every=600, WARM_UP=str(warm_up)) as server:
        pids = {server.get("/") for _ in range(100)}
        page = samples(server.get("/metrics"))
    loads = 1 if options else server.workers
    seen = left_behind(tmp_path)
    assert seen[CALLS] == 100 + loads * warm_up
    assert seen["resilient_call_duration_seconds_count", "upstream"] == 100 + loads * warm_up
    assert seen["resilient_attempts_total", "upstream"] == 100 + loads * warm_up
    assert seen["requests_total",] == 100
    assert 0 < page[CALLS] <= seen[CALLS]
    assert pids


@each("options", PRELOAD)
def test_an_open_circuit_in_one_worker_shows(tmp_path: Path, options: tuple[str, ...]) -> None:
    """The gauge of each state is the number of workers in it; a parent that only forks is none."""
    with workers(tmp_path, *options) as server:
        server.get("/fail")

        def states() -> list[float]:
            page = samples(server.get("/metrics"))
            name = "resilient_circuit_state", "upstream"
            return [page.get((*name, state), -1) for state in ("closed", "open", "half-open")]

        until(lambda: states() == [3, 1, 0])
        time.sleep(2 * INTERVAL)
        assert states() == [3, 1, 0]


@each("options", PRELOAD)
def test_a_killed_worker_loses_one_interval_at_the_most(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    """What was counted an interval before SIGKILL is there, and no call is there twice."""
    with workers(tmp_path, *options) as server:
        pids = {int(server.get("/")) for _ in range(60)}
        time.sleep(2 * INTERVAL)
        pids |= {int(server.get("/")) for _ in range(20)}
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        until(lambda: int(server.get("/")) not in pids)
        page = samples(server.get("/metrics"))
        assert 60 <= page[CALLS] - 1 <= 80
        until(lambda: samples(server.get("/metrics"))[CALLS] >= 61)


def test_workers_that_come_and_go_leave_no_files_behind(tmp_path: Path) -> None:
    """After each of several reloads there are as few files as before, and the sum is exact."""
    with workers(tmp_path) as server:
        sizes: list[int] = []
        for number in range(1, 4):
            pids = {server.get("/") for _ in range(20)}
            server.reload()
            until(lambda pids=pids: not any(map(is_running, pids)))  # type: ignore[misc]
            page = samples(server.get("/metrics"))
            assert page[CALLS] == 20 * number
            assert page["requests_total",] == 20 * number
            time.sleep(1)
            until(lambda: sum(states(server)) == server.workers)
            sizes.append(len(list(tmp_path.iterdir())))
        assert sizes[-1] <= sizes[0]


def is_running(pid: str) -> bool:
    return Path("/proc", pid).exists()


def states(server: GunicornServer) -> list[float]:
    """Return how many workers have their circuit in each state."""
    page = samples(server.get("/metrics"))
    return [value for (name, *_), value in page.items() if name == "resilient_circuit_state"]
