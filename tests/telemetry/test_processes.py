"""The files by which several processes share a page, where something is in the way."""

from __future__ import annotations

import os
import shutil
import struct
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.mmap_dict import MmapedDict, mmap_key

from resilient.engine.isolation import broken
from resilient.telemetry import ended, processes
from resilient.telemetry.families import Family
from resilient.telemetry.processes import Publisher
from tests.waiting import PATIENCE

FILE_OF_A_COUNTER = "counter_1.db"


def write(file: Path, value: float) -> None:
    """Write the count of one counter, as prometheus-client does."""
    files: Any = MmapedDict
    written = files(str(file))
    key = mmap_key("orders_total", "orders_total", [], [], "Orders")  # type: ignore[no-untyped-call]
    written.write_value(key, value, 0.0)
    written.close()


def total(path: Path) -> float:
    """Return what is on the page of this folder."""
    [metric] = processes._read(str(path))
    return sum(sample.value for sample in metric.samples)


# Reading


def test_a_file_that_is_being_made_is_read_when_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process has created it, and has written nothing into it yet."""
    monkeypatch.setattr(processes, "ATTEMPTS", int(PATIENCE * 100))
    write(tmp_path / "whole", 3)
    file = tmp_path / FILE_OF_A_COUNTER
    file.touch()
    writing = threading.Timer(0.02, (tmp_path / "whole").replace, [file])
    writing.start()
    assert total(tmp_path) == 3
    writing.join()


def test_a_file_that_never_gets_whole_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a number of attempts, rather than a page without its counts."""
    monkeypatch.setattr(processes, "ATTEMPTS", 2)
    (tmp_path / FILE_OF_A_COUNTER).touch()
    with pytest.raises(struct.error):
        total(tmp_path)


# Writing


@contextmanager
def written_by_another(publisher: Publisher) -> Generator[None]:
    """Another thread is writing the counts of this process, and does not come to an end."""
    holds, enough = threading.Event(), threading.Event()

    def write_on() -> None:
        with publisher._lock:
            holds.set()
            enough.wait(PATIENCE)

    thread = threading.Thread(target=write_on)
    thread.start()
    assert holds.wait(PATIENCE)
    yield
    enough.set()
    thread.join()


def test_nobody_waits_for_ever_for_another_who_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a page nor a fork; the counts are left for the next time."""
    monkeypatch.setattr(processes, "PATIENCE", 0.01)
    publisher = Publisher()
    with written_by_another(publisher):
        publisher._publish()
        publisher._before_fork()
        publisher._after_fork_in_parent()
    assert publisher._told == {}
    assert publisher._lock.acquire(blocking=False)


def test_what_is_not_there_yet_is_written_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk, to write into a hole of a mapped file ends the process by SIGBUS."""
    disk = SimpleNamespace(total=10**9, free=10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: disk)
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    publisher, failures = Publisher(), broken["metrics"]

    def told(**counts: int) -> Any:
        family = Family("roomy", "counter", "What there is room for", "dependency")
        for name, count in counts.items():
            family.add((name,), count)
        publisher._write_counts_locked([family])
        return publisher._told[family.name]

    assert told(known=1) == {("known",): (1,)}
    disk.free = 10**6
    assert told(known=2, later=3) == {("known",): (2,)}
    assert broken["metrics"] == failures + 1
    disk.free = 10**9
    assert told(known=2, later=4) == {("known",): (2,), ("later",): (4,)}


# What has ended


def test_without_room_what_has_ended_is_added_up_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own file stays until the sum can be written; no count is lost."""
    disk = SimpleNamespace(total=10**9, free=10**6)
    write(tmp_path / FILE_OF_A_COUNTER, 3)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: disk)
        with pytest.raises(ended.NoRoom, match=r"1\.0 MB are left on the disk; make room"):
            ended.forget(1, str(tmp_path))
        assert total(tmp_path) == 3
        disk.free = 10**9
        ended.forget(1, str(tmp_path))
    assert total(tmp_path) == 3
    assert not (tmp_path / FILE_OF_A_COUNTER).exists()


def test_a_sum_that_somebody_was_about_to_put_in_its_place_is_put_there(tmp_path: Path) -> None:
    """He was killed; that there is nobody else to be forgotten does not matter."""
    write(tmp_path / "counter_1.sum", 5)
    ended.forget_ended(str(tmp_path))
    assert total(tmp_path) == 5
    assert not list(tmp_path.glob("*.sum"))


def test_a_sum_whose_part_is_still_there_is_made_again(tmp_path: Path) -> None:
    """As long as the process runs its part counts, and not both."""
    own = tmp_path / f"counter_{os.getpid()}.db"
    write(own, 2)
    write(own.with_suffix(".sum"), 7)
    ended.forget_ended(str(tmp_path))
    assert total(tmp_path) == 2
    assert not list(tmp_path.glob("*.sum"))


def test_a_process_of_another_user_is_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The platform refuses to say more of it, and its counts are not those of one that ended."""

    def refuse(_pid: int, _signal: int) -> None:
        raise PermissionError

    write(tmp_path / FILE_OF_A_COUNTER, 4)
    monkeypatch.setattr(os, "kill", refuse)
    ended.forget_ended(str(tmp_path))
    monkeypatch.undo()
    assert (tmp_path / FILE_OF_A_COUNTER).exists()
    assert total(tmp_path) == 4
