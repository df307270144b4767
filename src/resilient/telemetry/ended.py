"""The files of processes that have ended: their counts stay, and they do not pile up.

prometheus-client leaves two files for each process for ever, as its counts belong to the sum. Here
the counts of ended processes are added up in one file, and gauges, which are about what is now, go.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import mark_process_dead

from resilient.errors import ResilientError

__all__ = ["NoRoom", "check_room", "forget", "forget_ended", "reading"]

_OF_A_PROCESS = re.compile(r"(counter|histogram|summary|gauge_live[a-z]*)_(?P<pid>\d+)\.db")
#: The kinds of metrics that add up over processes, living and dead.
_COUNTING = ("counter", "histogram", "summary")
#: So much of a disk is left alone, in bytes, and at most such a part of it.
RESERVE, RESERVED_PART = 1024 * 1024, 1 / 8


class NoRoom(ResilientError, OSError):
    """A disk is as full as it may be."""


def check_room(path: str | Path) -> None:
    """Make sure that something may be added to the files in `path`.

    They are mapped into memory, and have holes where nothing has been written yet. To write there
    when the disk is full is no error: the process is ended by SIGBUS.

    Raises:
        NoRoom: If the disk is nearly full.
    """
    disk = shutil.disk_usage(path)
    if disk.free < min(RESERVE, disk.total * RESERVED_PART):
        raise NoRoom(
            f"{path}: {disk.free / 1e6:.1f} MB are left on the disk; make room, until then metrics "
            "that are not there yet are not written, and counts of ended processes not added up"
        )


@contextmanager
def reading(path: str) -> Generator[None]:
    """Keep the files as they are while a page is made from them, if this process may do so."""
    with ExitStack() as held:
        with suppress(OSError):
            held.enter_context(_lock(path))
        yield


def forget_ended(path: str) -> None:
    """Forget every process that has files here and does not run any more."""
    files = (_OF_A_PROCESS.fullmatch(file.name) for file in Path(path).iterdir())
    for pid in {int(file["pid"]) for file in files if file is not None}:
        if not _is_running(pid):
            forget(pid, path)
    if _begun(path):
        with _lock(path, alone=True):
            _finish(path)


def forget(pid: int, path: str) -> None:
    """Keep what the ended process `pid` has counted, in the file of all that have ended."""
    with _lock(path, alone=True):
        _finish(path)
        mark_process_dead(pid, path)  # type: ignore[no-untyped-call]
        for kind in _COUNTING:
            own = Path(path, f"{kind}_{pid}.db")
            if own.exists():
                sum_ = _sum(own, Path(path, f"{kind}_ended.db"))
                # Whoever is killed here leaves the sum and its part, and the sum is made again;
                own.unlink()
                # and here the sum alone, which then takes its place.
                sum_.replace(_place(sum_))


def _sum(own: Path, everybody: Path) -> Path:
    """Return a file with the values of both, complete from the moment at which it is there."""
    check_room(everybody.parent)
    draft = everybody.with_suffix(".draft")
    if everybody.exists():
        shutil.copyfile(everybody, draft)
    else:
        draft.unlink(missing_ok=True)
    files: Any = MmapedDict
    values = files(str(draft))
    for key, value, _, _ in files.read_all_values_from_file(str(own)):
        there, _ = values.read_value(key)
        values.write_value(key, there + value, 0.0)
    values.close()
    return draft.replace(own.with_suffix(".sum"))


def _place(sum_: Path) -> Path:
    return sum_.with_name(f"{sum_.stem.partition('_')[0]}_ended.db")


def _begun(path: str) -> list[Path]:
    """Return the sums that somebody has made, and has not put in their places."""
    return list(Path(path).glob("*.sum"))


def _finish(path: str) -> None:
    """Carry on for whoever was killed while forgetting: no count is lost, and none is twice."""
    for sum_ in _begun(path):
        if sum_.with_suffix(".db").exists():
            sum_.unlink()
        else:
            sum_.replace(_place(sum_))


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def _lock(path: str, *, alone: bool = False) -> Generator[None]:
    import fcntl  # there is none on Windows, where nobody forks

    file = os.open(Path(path, "resilient.lock"), os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(file, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield
    finally:
        os.close(file)
