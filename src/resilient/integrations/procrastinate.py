"""Procrastinate: calls that were queued are jobs in PostgreSQL, and its workers make them."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, final

from resilient.degrade.outbox.arguments import read
from resilient.degrade.outbox.attempts import Attempts, tell_queued, tell_replayed, was_tried
from resilient.degrade.outbox.calls import NewCall, Receipt
from resilient.degrade.outbox.replay import Replay, add_replay
from resilient.engine import settings
from resilient.engine.locks import new_lock
from resilient.errors import InvalidSetting, ResilientError

if TYPE_CHECKING:
    from procrastinate import App
    from procrastinate.job_context import JobContext

__all__ = ["ProcrastinateQueue"]

_NOT_TRIED = "UPDATE procrastinate_jobs SET attempts = attempts - 1 WHERE id = %(id)s"


@final
class ProcrastinateQueue:
    """Keeps calls as jobs of a procrastinate app, in PostgreSQL, for `queued`.

    Arguments:
        app: The app; its workers must import the modules whose functions are queued.
        conninfo: The database of the app, as libpq takes it; calls are put through connections of
            the queue's own, from threads as from event loops.
        queue: The queue of procrastinate.
        prefix: What the names of the tasks begin with.
        max_attempts: How often a call is tried before its job has failed; 1 or more.
        first_pause: Seconds after the first failed attempt; twice as many after each further one.
        max_pause: The most seconds between two attempts of a call.
        patience: The most seconds to wait for a connection.

    Raises:
        InvalidSetting: If an argument is outside of its range.
        ResilientError: If procrastinate is not installed.

    Example:
        >>> from procrastinate import App, PsycopgConnector
        >>> from resilient.integrations.procrastinate import ProcrastinateQueue
        >>> conninfo = "postgresql://app@db1/shop"
        >>> app = App(connector=PsycopgConnector(conninfo=conninfo))
        >>> ProcrastinateQueue(app, conninfo, queue="mail")
        <ProcrastinateQueue mail>

    Where the rule comes from: the transactional outbox, and queueing locks for idempotency keys.
    """

    def __init__(
        self,
        app: App,
        conninfo: str,
        *,
        queue: str = "default",
        prefix: str = "resilient.",
        max_attempts: int = 25,
        first_pause: float = 1.0,
        max_pause: float = 600.0,
        patience: float = 3.0,
    ) -> None:
        _procrastinate()
        if not callable(getattr(app, "run_worker_async", None)):
            raise InvalidSetting("app", app, "a procrastinate App")
        self.app = app
        self.queue = settings.text("queue", queue)
        self.prefix = settings.text("prefix", prefix)
        self._conninfo = settings.text("conninfo", conninfo)
        self._patience = settings.seconds("patience", patience, above_zero=True)
        self._attempts = Attempts(max_attempts, first_pause, max_pause)
        self._replays: dict[str, Replay] = {}
        self._lock = new_lock()
        self._opened: tuple[int, Any, Any] | None = None

    def __repr__(self) -> str:
        return f"<ProcrastinateQueue {self.queue}>"

    def register(self, replay: Replay) -> None:
        """Make a task of a function whose calls may be put.

        Raises:
            DuplicateName: If another function has its name.
        """
        is_known = replay.name in self._replays
        add_replay(self._replays, replay, self)
        if is_known:
            return
        name = replay.name

        async def make(context: JobContext, arguments: str, queued: str) -> None:
            await self._make(context, self._replays[name], arguments, queued)

        retrying = self._retrying(name)
        self.app.task(name=self.prefix + name, queue=self.queue, pass_context=True, retry=retrying)(
            make
        )

    def put(self, call: NewCall) -> Receipt:
        """Keep `call`, and return its receipt once PostgreSQL has committed it.

        Raises:
            procrastinate.exceptions.ConnectorException: If it cannot be kept.
        """
        procrastinate = _procrastinate()
        app = self._putting()
        one = None if call.key is None else f"{self.prefix}{call.name}:{call.key}"
        put = app.configure_task(
            self.prefix + call.name, queue=self.queue, lock=call.ordered_by, queueing_lock=one
        )
        while True:
            now = datetime.now(UTC)
            try:
                number = put.defer(arguments=call.arguments, queued=now.isoformat())
            except procrastinate.exceptions.AlreadyEnqueued:
                # It may have been taken by a worker since then, and this one is put after all.
                for job in app.job_manager.list_jobs(queueing_lock=one, status="todo"):
                    then = datetime.fromisoformat(job.task_kwargs["queued"])
                    return Receipt(str(job.id), call.name, call.key, then)
            else:
                receipt = Receipt(str(number), call.name, call.key, now)
                tell_queued(self._replays[call.name], receipt)
                return receipt

    def close(self) -> None:
        """Close the connections; they are opened again when they are needed."""
        with self._lock:
            opened, self._opened = self._opened, None
        if opened is not None and opened[0] == os.getpid():
            opened[2].close()

    def _putting(self) -> Any:
        """Return an app whose connections belong to this process and to no event loop."""
        from procrastinate import SyncPsycopgConnector
        from psycopg_pool import ConnectionPool

        with self._lock:
            if self._opened is None or self._opened[0] != os.getpid():
                pool = ConnectionPool(
                    self._conninfo,
                    min_size=1,
                    max_size=4,
                    timeout=self._patience,
                    check=ConnectionPool.check_connection,
                    open=True,
                )
                app = _procrastinate().App(connector=SyncPsycopgConnector())
                app.open(pool)
                self._opened = os.getpid(), app, pool
            return self._opened[1]

    async def _make(self, context: JobContext, replay: Replay, arguments: str, queued: str) -> None:
        job, jobs = context.job, context.app.job_manager
        try:
            args, kwargs = read(arguments, replay.function)
            if replay.is_async:
                await replay(*args, **kwargs)
            else:
                result = await asyncio.to_thread(replay, *args, **kwargs)
                if inspect.isawaitable(result):
                    await result
        except Exception as error:
            if self._attempts.pause(replay, error, job.attempts) is None:
                self._attempts.tell_buried(replay, str(job.id), error, job.attempts)
                raise
            if job.queueing_lock is not None:
                lock = job.queueing_lock
                if list(await jobs.list_jobs_async(queueing_lock=lock, status="todo")):
                    return  # Put again meanwhile: that job is the call now, and two cannot wait.
            if not was_tried(error):
                with contextlib.suppress(Exception):  # then it counts as an attempt
                    await jobs.connector.execute_query_async(_NOT_TRIED, id=job.id)
            raise
        tell_replayed(replay, str(job.id), job.attempts, queued)

    def _retrying(self, name: str) -> Any:
        """Return what tells procrastinate when a call is tried again."""
        procrastinate = _procrastinate()
        attempts, replays = self._attempts, self._replays

        class Retrying(procrastinate.BaseRetryStrategy):  # type: ignore[misc, name-defined]
            def get_retry_decision(self, *, exception: BaseException, job: Any) -> Any:
                pause: float | None = 0.0  # interrupted, as its worker ends
                if isinstance(exception, Exception):
                    pause = attempts.pause(replays[name], exception, job.attempts)
                if pause is None:
                    return None
                return procrastinate.RetryDecision(
                    retry_in={"milliseconds": max(1, int(pause * 1000))}
                )

        return Retrying()


def _procrastinate() -> Any:
    try:
        import procrastinate
    except ImportError as error:
        raise ResilientError(
            'ProcrastinateQueue needs procrastinate: pip install "resilient-calls[procrastinate]"'
        ) from error
    return procrastinate
