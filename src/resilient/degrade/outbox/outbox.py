"""The outbox that users have: one SQLite file, and what is done with the calls in it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Generator, Iterable
from pathlib import Path

from resilient.degrade.outbox.calls import NewCall, QueuedCall, Receipt
from resilient.degrade.outbox.database import Database
from resilient.degrade.outbox.depth import condition_of, readings_of
from resilient.degrade.outbox.given import at_once, can_be_kept, number_of, path_of
from resilient.degrade.outbox.replay import Replay, add_replay
from resilient.degrade.outbox.table import Depth, Table
from resilient.degrade.outbox.worker import Worker
from resilient.engine import clock, settings, signals
from resilient.engine.isolation import report_broken
from resilient.engine.locks import new_lock
from resilient.engine.names import Names
from resilient.engine.reported import Condition, Reading, Reported
from resilient.errors import InvalidSetting, InvalidUse, OutboxError

__all__ = ["Outbox"]

#: What a call may come to when it is made: it is done, put off, not let through, or set aside.
OUTCOMES = ("success", "failure", "rejected", "buried")

_names: Names[Outbox] = Names("queue of calls")
#: Seconds for which what health shows may be out of date.
_FRESH_SECONDS = 1.0
#: Seconds for which it shows that the file could not be written, unless it could be since then.
_REFUSED_SECONDS = 60.0


class Outbox(Reported):
    """Keeps calls in a SQLite file until what they need is well again, and then makes them.

    A call whose `Receipt` was returned is made at least once, whatever happens to processes and
    power. Any number of threads and processes of one host may use the file.

    Arguments:
        url: Where the file is: "sqlite:///var/outbox.db" from the working directory,
            "sqlite:////var/lib/shop/outbox.db" from the root, or a `Path`. Its folder must exist.
        name: The name in metrics and health, unique; that of the file unless given.
        max_attempts: How often a call is tried before it is set aside; 1 or more.
        first_pause: Seconds after the first failed attempt; twice as many after each further one.
        max_pause: The most seconds between two attempts of a call.
        lease: Seconds for which a call belongs to the worker that makes it. Renewed while that
            lives, so calls may take longer; a call whose worker was killed is made again after it.
        patience: The most seconds to wait for other processes that use the file.
        warn_waiting: More calls than this that wait are a warning in health.
        warn_oldest: A call that has waited for more seconds than this is one, too.

    Raises:
        InvalidSetting: If an argument is outside of its range, or the folder does not exist.
        DuplicateName: If another outbox of this process has that name.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from resilient import Outbox, queued, with_fallback
        >>> folder = TemporaryDirectory()
        >>> outbox = Outbox(Path(folder.name) / "outbox.db")
        >>> gateway = iter([ConnectionError("down"), "paid"])
        >>> @with_fallback(queued(outbox, key="charge:{order_id}"))
        ... def charge(order_id: str, cents: int) -> str:
        ...     answer = next(gateway)
        ...     if isinstance(answer, Exception):
        ...         raise answer
        ...     return answer
        >>> charge("o1", 1999).key
        'charge:o1'
        >>> [(call.name.rpartition(".")[2], call.key) for call in outbox.pending()]
        [('charge', 'charge:o1')]
        >>> outbox.drain()
        0
        >>> outbox.close()
        >>> folder.cleanup()

    Where the rules come from: the transactional outbox, and leases and dead letters as in SQS.
    """

    def __init__(
        self,
        url: str | Path,
        *,
        name: str | None = None,
        max_attempts: int = 25,
        first_pause: float = 1.0,
        max_pause: float = 600.0,
        lease: float = 60.0,
        patience: float = 5.0,
        warn_waiting: int = 1000,
        warn_oldest: float = 3600.0,
    ) -> None:
        self.path = path_of(url)
        self.name = settings.text("name", self.path.stem if name is None else name)
        self.max_attempts = settings.count("max_attempts", max_attempts)
        self.first_pause = settings.seconds("first_pause", first_pause)
        self.max_pause = settings.seconds("max_pause", max_pause)
        self.warn_waiting = settings.count("warn_waiting", warn_waiting, least=0)
        self.warn_oldest = settings.seconds("warn_oldest", warn_oldest)
        self.table = Table(
            Database(self.path, settings.seconds("patience", patience, above_zero=True)),
            lease=settings.seconds("lease", lease, above_zero=True),
            max_pause=self.max_pause,
        )
        self.replays: dict[str, Replay] = {}
        self.workers: set[Worker] = set()
        self._lock = new_lock()
        self._thread: tuple[Worker, threading.Thread] | None = None
        self.replayed: dict[str, int] = dict.fromkeys(OUTCOMES, 0)
        self._depth: Depth | None = None
        self._trouble: str | None = None
        self._refused: tuple[float, str] | None = None
        self._looked: float | None = None
        #: The process in which somebody is looking how full it is, for those who do not wait.
        self._looks_in = 0
        _names.claim(self.name, self)
        self.report()

    def __repr__(self) -> str:
        return f"<Outbox {self.name}: {self.path}>"

    # What `queued` needs

    def register(self, replay: Replay) -> None:
        """Take note of a function whose calls may be put.

        Raises:
            DuplicateName: If another function has its name.
        """
        add_replay(self.replays, replay, self)

    def put(self, call: NewCall) -> Receipt:
        """Keep `call`, and return its receipt once it is on the disk.

        Raises:
            InvalidSetting: If it is no call that could be kept.
            OutboxError: If it cannot be kept; then nothing was.
        """
        if not can_be_kept(call):
            raise InvalidSetting("call", call, "a NewCall, made of texts that UTF-8 can encode")
        try:
            receipt, is_new = self.table.put(call)
        except OutboxError as error:
            self.troubled(error)
            raise
        self._refused = None
        if not is_new:
            return receipt
        replay = self.replays.get(call.name)
        signals.emit(
            "resilient.call_queued",
            dependency=None if replay is None else replay.dependency,
            function=call.name,
            id=receipt.id,
        )
        for worker in list(self.workers):
            if not worker.holds(call.name):
                worker.wake()
        return receipt

    # What operators need

    def pending(self, limit: int = 1000) -> list[QueuedCall]:
        """Return the calls that wait or are being made, the oldest first, `limit` at most."""
        return self.table.calls("waiting", settings.count("limit", limit, least=0))

    def dead(self, limit: int = 1000) -> list[QueuedCall]:
        """Return the calls that were given up, the oldest first, `limit` at most."""
        return self.table.calls("dead", settings.count("limit", limit, least=0))

    def find(self, call_id: str) -> QueuedCall | None:
        """Return the call of that number, or None if it is not there (any more)."""
        return self.table.find(number_of(call_id))

    def retry(self, call_id: str | None = None) -> int:
        """Have a dead call made again, or all of them; return how many that are."""
        revived = self.table.revive(None if call_id is None else number_of(call_id))
        for worker in list(self.workers):
            worker.wake()
        return revived

    def drop(self, call_id: str | None = None) -> int:
        """Delete a call that nobody is making, or all dead ones; return how many that were."""
        return self.table.drop(None if call_id is None else number_of(call_id))

    # Making the calls

    async def run(
        self, *, concurrency: int = 1, stop_within: float = 10.0, until_empty: bool = False
    ) -> None:
        """Make queued calls, on this event loop, until cancelled.

        Synchronous functions run on threads. When cancelled, no further call is begun; those in
        flight have `stop_within` seconds to end, and are made again some time if they do not.

        Arguments:
            concurrency: The most calls at once; 1 to 10,000.
            stop_within: Seconds for calls in flight.
            until_empty: Return when no call waits any more.

        Raises:
            OutboxError: With `until_empty`, if the file cannot be used.
        """
        seconds = settings.seconds("stop_within", stop_within)
        await self._run(self._worker(concurrency, until_empty=until_empty), seconds)

    async def _run(self, worker: Worker, stop_within: float) -> None:
        serving = asyncio.create_task(worker.run())
        try:
            await asyncio.shield(serving)
        except asyncio.CancelledError:
            worker.stop()
            await asyncio.wait([serving], timeout=stop_within)
            serving.cancel()
            await asyncio.wait([serving])
            raise

    def drain(self, timeout: float | None = None) -> int:
        """Make queued calls until none waits any more; return how many still do after `timeout`.

        Raises:
            InvalidSetting: If `timeout` is no number of seconds.
            InvalidUse: On an event loop; there it is `await outbox.run(until_empty=True)`.
            OutboxError: If the file cannot be used.
        """
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop()
            raise InvalidUse("an event loop is running: await outbox.run(until_empty=True)")
        seconds = None if timeout is None else settings.seconds("timeout", timeout)
        worker = self._worker(1, until_empty=True)
        timer = None if seconds is None else clock.current.later(seconds, worker.stop)
        try:
            asyncio.run(worker.run())
        finally:
            if timer is not None:
                timer.cancel()
        return self.table.depth().waiting

    def start(self, concurrency: int = 1) -> None:
        """Make queued calls in the background, until `stop`; harmless if that is so already.

        Asynchronous functions run on an event loop of its own. Where they use clients that belong
        to yours, `await outbox.run()` there instead.
        """
        if clock.current is not clock.system:
            raise InvalidUse("in virtual time nothing runs in the background: call drain()")
        at_once(concurrency)
        with self._lock:
            if self._thread is not None and self._thread[1].is_alive():
                return
            worker = self._worker(concurrency)
            thread = threading.Thread(
                target=asyncio.run,
                args=[worker.run()],
                name=f"resilient-outbox-{self.name}",
                daemon=True,
            )
            self._thread = worker, thread
            thread.start()

    def stop(self, timeout: float = 10.0) -> bool:
        """Begin no further call in the background; return whether those in flight have ended."""
        seconds = settings.seconds("timeout", timeout)
        with self._lock:
            running, self._thread = self._thread, None
        if running is None:
            return True
        worker, thread = running
        worker.stop()
        thread.join(min(seconds, clock.LONGEST))
        return not thread.is_alive()

    @contextlib.contextmanager
    def worker(self, concurrency: int = 1, *, stop_within: float = 10.0) -> Generator[None]:
        """Make queued calls in the background while the block runs."""
        settings.seconds("stop_within", stop_within)
        self.start(concurrency)
        try:
            yield
        finally:
            self.stop(stop_within)

    def close(self) -> None:
        """Close the file; it is opened again when it is needed."""
        self.table.database.close()

    def _worker(self, concurrency: int, *, until_empty: bool = False) -> Worker:
        return Worker(self, concurrency=at_once(concurrency), until_empty=until_empty)

    # What others see of it

    def count(self, outcome: str) -> None:
        """Count what a call came to."""
        with self._lock:
            self.replayed[outcome] += 1

    def troubled(self, error: OutboxError) -> None:
        """Have health show for a while that the file could not be written."""
        self._refused = clock.now(), str(error)

    def _look(self) -> Depth:
        """Read how full it is, if that can be done."""
        known = self._depth or Depth(0, 0, None, clock.now())
        if not self.path.exists():  # nothing was ever put, and looking makes no file
            self._depth = known = Depth(0, 0, None, clock.now())
            return known
        try:
            self._depth, self._trouble = self.table.depth(), None
        except OutboxError as error:
            report_broken("outbox", error)
            self._trouble = str(error)
        return self._depth or known

    def _look_again(self) -> None:
        """Look in the background, if nobody does: a locked file must not hold up a probe."""
        with self._lock:
            if self._looks_in == os.getpid():  # not the parent of this process, at a fork
                return
            self._looks_in = os.getpid()

        def look() -> None:
            try:
                self._look()
            finally:
                self._looks_in = 0

        if not clock.current.background(look):
            self._looks_in = 0

    def readings(self) -> Iterable[Reading]:
        """Return how many calls wait and are dead, and what calls came to."""
        return readings_of(self.name, self._look(), self.replayed)

    def conditions(self) -> Iterable[Condition]:
        """Return a warning if calls are dead, too many, or too old."""
        now = clock.now()
        if self._looked is None or now - self._looked > _FRESH_SECONDS:
            self._looked = now
            self._look_again()
        refused = self._refused
        if refused is not None and now - refused[0] > _REFUSED_SECONDS:
            refused = None
        unknown = "not looked at yet" if self._depth is None else None
        yield condition_of(
            self.name,
            self._depth or Depth(0, 0, None, now),
            self._trouble or (unknown if refused is None else refused[1]),
            most_waiting=self.warn_waiting,
            oldest=self.warn_oldest,
        )
