"""Those who use one outbox while they are killed: `python participants.py FOLDER LEASE`.

Each line on stdin names a role; the answer is the process id of who has it now. What happens is
appended to one ledger with a single write, so that its order is the order in which it happened:
"acked N", "ran N" and "done N".
"""

from __future__ import annotations

import os
import random
import resource
import signal
import sys
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import structlog

from resilient import Outbox, Receipt, queued, with_fallback
from resilient.degrade.outbox.table import Claimed
from resilient.engine import signals

folder = Path(sys.argv[1])
outbox = Outbox(folder / "outbox.db", lease=float(sys.argv[2]))
ledger = os.open(folder / "ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
working = False


def write(what: str, number: object) -> None:
    os.write(ledger, f"{what} {number}\n".encode())


@with_fallback(queued(outbox, key="{number}", name="charge"))
def charge(number: str) -> None:
    """Charge, which is possible for workers only."""
    if not working:
        raise ConnectionError
    write("ran", number)
    time.sleep(random.uniform(0.0, 0.01))


def produce() -> None:
    """Queue calls, and note each that has a receipt."""
    for turn in range(1_000_000):
        number = f"{os.getpid()}-{time.monotonic_ns()}-{turn}"
        if isinstance(charge(number), Receipt):
            write("acked", number)
        time.sleep(random.uniform(0.0, 0.02))


def produce_on_a_full_disk() -> None:
    """Queue calls while files may grow no further, and again when they may."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    while True:
        most = max(file.stat().st_size for file in folder.glob("outbox.db*"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
        outcomes = [_charged(f"full-{os.getpid()}-{time.monotonic_ns()}") for _ in range(5)]
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        # The ledger is as if it were on another disk.
        outcomes.append(_charged(f"room-{os.getpid()}-{time.monotonic_ns()}"))
        for what, number in outcomes:
            write(what, number)
        time.sleep(random.uniform(0.0, 0.05))


def _charged(number: str) -> tuple[str, str]:
    try:
        return ("acked" if isinstance(charge(number), Receipt) else "charged"), number
    except ConnectionError:
        return "refused", number


def work() -> None:
    """Make queued calls, and note each that is done for good."""
    global working
    working = True
    numbers: dict[str, str | None] = {}
    claim = outbox.table.claim

    def noted(owner: str, held: Collection[str]) -> Claimed | None:
        claimed = claim(owner, held)
        if claimed is not None:
            numbers[claimed.call.id] = claimed.call.key
        return claimed

    def listen(name: str, fields: Mapping[str, Any]) -> None:
        if name == "resilient.call_replayed":
            write("done", numbers[fields["id"]])

    outbox.table.claim = noted  # type: ignore[method-assign]
    signals.subscribe(listen)
    outbox.start(concurrency=2)
    while True:
        time.sleep(60)


ROLES = {"producer": produce, "full": produce_on_a_full_disk, "worker": work}


def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries those that are killed
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                random.seed()
                ROLES[line.strip()]()
            finally:
                os._exit(1)
        print(child, flush=True)


if __name__ == "__main__":
    main()
