"""The bounded threads on which time-limited synchronous calls run.

A thread cannot be stopped from outside. A call that is not back in time is therefore abandoned:
its caller goes on, its worker is written off until the call ends, and when `max_abandoned` calls
are in that state, further ones are rejected. Workers are daemons, so that the end of the process
does not wait for them, and a forked child starts with none.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from functools import partial
from typing import TYPE_CHECKING, final

from resilient.engine import clock
from resilient.engine.callables import plain_name
from resilient.engine.isolation import isolated
from resilient.engine.limits import Limit, ambient, tighter
from resilient.engine.outcome import Outcome
from resilient.engine.waiting import Waiter
from resilient.errors import WorkersSaturated

if TYPE_CHECKING:
    from resilient.engine.steps import Invoke

__all__ = ["Workers"]

_IDLE_SECONDS = 30.0
_LONGEST = threading.TIMEOUT_MAX
#: Whether the current context is that of a call which somebody has begun on a worker.
_on_worker: ContextVar[bool] = ContextVar("resilient_on_worker", default=False)


@final
class _Job:
    """One call on a worker; `notify` is called when it has ended."""

    __slots__ = (
        "abandoned",
        "context",
        "ended",
        "interruption",
        "notify",
        "outcome",
        "step",
    )

    def __init__(self, step: Invoke, context: Context, notify: Callable[[], object]) -> None:
        self.step = step
        self.context = context
        self.notify = notify
        self.outcome: Outcome | None = None
        self.interruption: BaseException | None = None
        self.ended = False
        self.abandoned = False

    def run(self) -> None:
        step = self.step
        started = clock.now()
        try:
            value = self.context.run(step.function, *step.args, **step.kwargs)
        except Exception as error:
            self.outcome = Outcome.failed(error, started)
        except BaseException as interruption:
            self.interruption = interruption
        else:
            self.outcome = Outcome(value, None, started, clock.now())
        finally:
            del self  # an error's traceback refers to this frame, which must not refer to the error

    def came_late(self) -> None:
        late, outcome = self.step.late, self.outcome
        if late is not None and outcome is not None:
            isolated("late result", None, late, outcome)

    def result(self) -> Outcome:
        if self.interruption is not None:
            raise self.interruption
        assert self.outcome is not None
        return self.outcome


@final
class _Worker:
    """A thread that runs one job after another."""

    __slots__ = ("_pool", "go", "job")

    def __init__(self, pool: Workers) -> None:
        # Weakly, and not while idle: a pool that nobody uses any more keeps no threads.
        self._pool = weakref.ref(pool)
        self.go = threading.Lock()
        self.go.acquire()
        self.job: _Job | None = None

    def start(self) -> None:
        clock.begin_thread(self._work, "resilient-worker")

    def take(self, job: _Job) -> None:
        self.job = job
        self.go.release()

    def _work(self) -> None:
        wait = self.go.acquire
        while True:
            if not wait(True, _IDLE_SECONDS):
                if self._is_retired():
                    return
                wait()  # somebody has just taken this worker, and will say so
            job, self.job = self.job, None
            if job is None:  # the pool is gone
                return
            job.run()
            pool = self._pool()
            needed, notify = pool is not None and pool._finish(self, job), job.notify
            pool = None
            if job.abandoned:
                notify()
                job.came_late()
                if not needed:
                    return
                job = None
            else:
                job = None
                notify()  # and hardly more: whoever has been woken needs the interpreter next
            del notify

    def _is_retired(self) -> bool:
        pool = self._pool()
        return pool is None or pool._retire(self)


@final
class Workers:
    """A pool of at most `max_workers` threads, grown as needed, plus those that are abandoned."""

    __slots__ = (
        "__weakref__",
        "_idle",
        "_lock",
        "_queue",
        "_size",
        "abandoned",
        "max_abandoned",
        "max_workers",
    )

    def __init__(self, *, max_workers: int, max_abandoned: int) -> None:
        self.max_workers = max_workers
        self.max_abandoned = max_abandoned
        self._forget_threads()
        _pools.add(self)

    def __del__(self) -> None:
        # At any moment, in any thread: idle workers, which wait for a job, are sent home.
        # They are taken out for this, as another destructor may make a call of this pool after it.
        idle = getattr(self, "_idle", [])
        while idle:
            self._size -= 1
            idle.pop().go.release()

    def _forget_threads(self) -> None:
        self.abandoned = 0
        self._lock = threading.RLock()  # a signal handler may make a call within one of ours
        self._idle: list[_Worker] = []
        self._size = 0
        self._queue: list[threading.Lock] = []

    def run(self, step: Invoke, limit: Limit) -> Outcome:
        """Make the call of `step` on a worker; return its outcome, or the timeout at its `limit`.

        The limit is this call's own. The time for which the call waits for a worker is not.
        """
        started = clock.now()
        try:
            worker = self._idle.pop() if self.abandoned < self.max_abandoned else None
        except IndexError:
            worker = None
        if worker is None:
            asked, outer = started, limit.outer
            worker = self._another_worker(outer)
            started = clock.now()
            if worker is None:
                if outer is not None and outer.expired:
                    return Outcome(None, outer.too_late(), asked, started)
                saturated = WorkersSaturated(limit.name, self.abandoned)
                return Outcome(None, saturated, asked, started)
            limit = limit.postponed(started - asked)
            if outer is not None:
                limit = tighter(outer, limit)
            limit = limit.for_one_call()
        context = copy_context()
        context.run(ambient.set, limit)
        done = threading.Lock()
        done.acquire()
        job = _Job(step, context, done.release)
        seconds = min(max(limit.expires - started, 0.0), _LONGEST)
        worker.job = job
        worker.go.release()
        try:
            in_time = done.acquire(True, seconds)
        except BaseException:
            self._abandon(job)
            raise
        if not in_time and self._abandon(job):
            return Outcome(None, limit.overrun(), started, clock.now())
        limit.ended = True
        return job.result()

    async def run_async(self, step: Invoke) -> Outcome:
        """Run a blocking call for a task, which its own timer cancels at the limit.

        A task does not wait for a worker: it is for the caller to see to it that there are enough.
        """
        assert step.limit is not None
        worker = self._another_worker(None, waits=False)
        if worker is None:
            now = clock.now()
            return Outcome(None, WorkersSaturated(step.limit.name, self.abandoned), now, now)
        ended = Waiter()
        job = _Job(step, copy_context(), ended.wake)
        worker.take(job)
        try:
            await clock.current.wait_async(ended, None)
        except BaseException:
            self._abandon(job)
            raise
        return job.result()

    def begin(
        self, step: Invoke, ended: Callable[[Outcome | BaseException], object]
    ) -> Callable[[], bool]:
        """Begin a call without waiting for it; return what abandons it, if it has not ended.

        `ended` is called with what the call came to, from its worker, unless it was abandoned. A
        call that is itself on a worker does not wait for another one, which might wait for it.
        """
        limit = step.limit
        worker = self._another_worker(limit, waits=not _on_worker.get())
        if worker is None:
            now = clock.now()
            name = plain_name(step.function) if limit is None else limit.name
            saturated = WorkersSaturated(name, self.abandoned)
            too_late = limit.too_late() if limit is not None and limit.expired else None
            ended(Outcome(None, too_late or saturated, now, now))
            return lambda: False
        context = copy_context()
        context.run(_on_worker.set, True)
        if limit is not None:
            context.run(ambient.set, limit)

        def tell() -> None:
            if not job.abandoned:
                if limit is not None:
                    limit.ended = True
                ended(job.interruption or job.result())

        job = _Job(step, context, tell)
        worker.take(job)
        return partial(self._abandon, job)

    def _another_worker(self, outer: Limit | None, *, waits: bool = True) -> _Worker | None:
        """Return a worker, waiting for one if all are busy; None if saturated, or after `outer`."""
        while True:
            with self._lock:
                if self.abandoned >= self.max_abandoned or (outer is not None and outer.expired):
                    # A turn that this caller has been given is for the next one.
                    self._next_turn_locked()
                    return None
                try:
                    return self._idle.pop()
                except IndexError:
                    pass
                if self._size < self.max_workers:
                    self._size += 1
                    break
                if not waits:
                    return None
                turn = threading.Lock()
                turn.acquire()
                self._queue.append(turn)
            self._wait_for(turn, outer)
        return self._new_worker()

    def _new_worker(self) -> _Worker | None:
        """Return a worker that has been counted already, or None if there is no thread for it."""
        worker = _Worker(self)
        try:
            worker.start()
        except RuntimeError:  # the platform has no thread to give, or the process is ending
            with self._lock:
                self._size -= 1
                self._next_turn_locked()  # whoever waits for this one waits in vain
            return None
        return worker

    def stand_by(self) -> None:
        """Have a worker ready: while a process ends, no thread can begin (from Python 3.12 on)."""
        with self._lock:
            if self._idle or self._size >= self.max_workers:
                return
            self._size += 1
        worker = self._new_worker()
        if worker is not None:
            with self._lock:
                self._idle.append(worker)
                self._next_turn_locked()

    def _wait_for(self, turn: threading.Lock, outer: Limit | None) -> None:
        try:
            clock.current.acquire(turn, None if outer is None else outer.expires - clock.now())
        finally:
            with self._lock:
                if turn in self._queue:
                    self._queue.remove(turn)
                elif not turn.locked():
                    # Woken and interrupted at once: the turn is somebody else's now.
                    self._next_turn_locked()

    def _finish(self, worker: _Worker, job: _Job) -> bool:
        """Give the job back to its caller; return whether the worker is still needed."""
        with self._lock:
            job.ended = True
            needed = True
            if job.abandoned:
                self.abandoned -= 1
                needed = self._size < self.max_workers
                self._size += needed
            if needed:
                self._idle.append(worker)
            if self._queue:
                self._next_turn_locked()
        return needed

    def _abandon(self, job: _Job) -> bool:
        """Write the job's worker off; return False if the job has ended after all."""
        with self._lock:
            if job.ended:
                return False
            job.abandoned = True
            self.abandoned += 1
            self._size -= 1
            self._next_turn_locked()
        return True

    def _next_turn_locked(self) -> None:
        saturated = self.abandoned >= self.max_abandoned
        while self._queue:
            self._queue.pop(0).release()
            if not saturated:
                return

    def _retire(self, worker: _Worker) -> bool:
        """End a worker that has been idle for long; return False if it was just given a job."""
        with self._lock:
            try:
                self._idle.remove(worker)
            except ValueError:  # taken meanwhile, for which nobody needs the lock
                return False
            self._size -= 1
            return True


_pools: weakref.WeakSet[Workers] = weakref.WeakSet()


def _forget_all_threads() -> None:
    for pool in list(_pools):
        pool._forget_threads()


os.register_at_fork(after_in_child=_forget_all_threads)
