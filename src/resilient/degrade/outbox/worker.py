"""What makes the queued calls: tasks on an event loop, which is the user's or a thread's own."""

from __future__ import annotations

import asyncio
import inspect
import os
import random
import secrets
import socket
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, final

from resilient.degrade.outbox.arguments import read
from resilient.degrade.outbox.calls import QueuedCall
from resilient.degrade.outbox.replay import Replay
from resilient.degrade.outbox.table import Claimed, wall
from resilient.engine import clock, signals
from resilient.engine.isolation import isolated, report_broken
from resilient.engine.limits import Limit
from resilient.engine.outcome import Outcome
from resilient.engine.steps import Invoke
from resilient.engine.waiting import Waiter
from resilient.engine.workers import Workers
from resilient.errors import CallRejected, InvalidUse, OutboxError

if TYPE_CHECKING:
    from resilient.degrade.outbox.outbox import Outbox

__all__ = ["Worker"]

T = TypeVar("T")

#: Seconds after which a worker looks for what other processes have put.
POLL_SECONDS = 1.0
#: How often a name that nobody has registered is looked up before its call is buried: a worker may
#: have started before the modules that it serves were imported.
TRIES_TO_FIND = 5
#: How often it is tried at once to note in the file what a call came to; then with each renewal.
TRIES_TO_NOTE = 10
#: For so long at most a call waits whose own circuit is open, while those of other keys are made.
KEY_SECONDS = 10.0
#: Seconds after which a worker that leaves the file alone looks whether it is to stop.
_STOPS_WITHIN = 0.1
_FAR = 1e9
_WELL_AGAIN = {
    "resilient.circuit_closed",
    "resilient.circuit_half_opened",
    "resilient.recovered",
}


@final
class Worker:
    """Makes queued calls, `concurrency` at a time, until it is stopped or nothing is left."""

    def __init__(self, outbox: Outbox, *, concurrency: int, until_empty: bool = False) -> None:
        self._outbox = outbox
        self._table = outbox.table
        self._concurrency = concurrency
        self._until_empty = until_empty
        # Said to be its own, also where containers have the same process ids.
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._process = os.getpid()
        self._threads = Workers(max_workers=concurrency * 2, max_abandoned=concurrency * 2)
        self._stopping = False
        #: One looks for all who have nothing to do: there is one file, and one connection to it.
        self._looking = asyncio.Lock()
        self._waiter = Waiter()
        #: Names that a circuit keeps from being called, and until when it does at the latest.
        self._held: dict[str, float] = {}
        #: What calls came to that could not be noted yet, and what is to be told then.
        self._unnoted: list[tuple[Callable[[], object], Callable[[], object]]] = []
        self._timer: clock.Timer | None = None

    async def run(self) -> None:
        """Make calls until told to stop; cancelled, leave those in flight to be made again."""
        listener = self._listen  # one object, which is known again when it goes
        signals.subscribe(listener)
        self._outbox.workers.add(self)
        self._schedule_renewal()
        isolated("outbox", None, self._table.mend)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._concurrency):
                    group.create_task(self._serve())
        except* OutboxError as errors:
            raise errors.exceptions[0] from None
        finally:
            self._outbox.workers.discard(self)
            signals.unsubscribe(listener)
            timer, self._timer = self._timer, None
            assert timer is not None
            timer.cancel()

    def stop(self) -> None:
        """Begin no further call."""
        self._stopping = True
        self.wake()

    def wake(self) -> None:
        """Have whoever has nothing to do look for calls; those who are busy will by themselves."""
        self._waiter.wake()

    def holds(self, name: str) -> bool:
        """Whether calls of `name` are held back, so that a further one is nothing to look for."""
        return name in self._held

    # One call after the other

    async def _serve(self) -> None:
        while True:
            async with self._looking:
                claimed = await self._next()
            if claimed is None:
                return
            await self._take(claimed)

    async def _next(self) -> Claimed | None:
        """Wait for a call that is due; None if there will be no more."""
        while True:
            self._waiter = waiter = Waiter()  # before looking: what is put from now on wakes it
            if self._stopping:
                return None
            try:
                began = clock.now()
                claimed = await self._claim()
                if claimed is not None and clock.now() - began > self._table.lease / 2:
                    # After so long a stall another may be about to make it, too.
                    await self._note(partial(self._table.give_back, claimed.call.id, self._owner))
                elif claimed is not None:
                    return claimed
                elif self._until_empty and (await self._off_loop(self._table.depth)).waiting == 0:
                    return None
                else:
                    pause = await self._pause()
                    await self._leave_to_others(clock.now() - began)
                    await clock.current.wait_async(waiter, clock.now() + pause)
            except OutboxError as error:
                if self._until_empty:
                    raise
                self._outbox.troubled(error)
                report_broken("outbox", error)
                await clock.current.wait_async(waiter, clock.now() + POLL_SECONDS)

    async def _leave_to_others(self, seconds: float) -> None:
        """Leave the file alone for as long as it took to look through it, whoever wakes the worker.

        Through a long queue of calls that cannot be made, this takes long; meanwhile nobody puts.
        """
        until = clock.now() + seconds
        while not self._stopping and (left := until - clock.now()) > 0:
            await clock.current.sleep_async(min(left, _STOPS_WITHIN))

    async def _claim(self) -> Claimed | None:
        now = clock.now()
        self._held = {name: until for name, until in self._held.items() if until > now}
        return await self._off_loop(self._table.claim, self._owner, tuple(self._held))

    async def _pause(self) -> float:
        held = tuple(self._held)
        due = await self._off_loop(self._table.next_due, held)
        moments = [POLL_SECONDS, *(until - clock.now() for until in self._held.values())]
        return max(0.0, min(moments if due is None else [*moments, due]))

    async def _take(self, claimed: Claimed) -> None:
        call = claimed.call
        replay = self._outbox.replays.get(call.name)
        if claimed.broken is not None:
            await self._bury(call, replay, claimed.broken)
        elif replay is None:
            why = "unknown: no function is registered under its name"
            if call.attempts + 1 >= TRIES_TO_FIND:
                await self._bury(call, None, why)
            else:
                await self._put_off(call, why)
        elif call.attempts >= self._outbox.max_attempts:
            await self._bury(call, replay, "given up: its worker ended each time")
        else:
            try:
                args, kwargs = read(call.arguments, replay.function)
            except InvalidUse as error:
                await self._bury(call, replay, f"broken: {error}")
                return
            await self._make(call, replay, args, kwargs)

    async def _make(
        self, call: QueuedCall, replay: Replay, args: list[Any], kwargs: Mapping[str, Any]
    ) -> None:
        try:
            if replay.is_async:
                # In a task, so that the context variables which it sets are gone with it.
                await asyncio.create_task(_answered(replay(*args, **kwargs)))
            else:
                result = await _answered(self._off_loop(replay, *args, **kwargs))
                if inspect.isawaitable(result):
                    await _answered(result)
        except CallRejected as rejected:
            self._outbox.count("rejected")
            pause = rejected.retry_after or POLL_SECONDS
            give_back = partial(self._table.give_back, call.id, self._owner)
            if replay.rejects_only_some(rejected):
                give_back = partial(give_back, after=min(pause, KEY_SECONDS))
            else:
                self._held[call.name] = clock.now() + pause
            await self._note(give_back)
        except _EndedError as ended:
            await self._try_again(call, replay, ended.kind)
        except Exception as error:
            await self._failed(call, replay, error)
        except BaseException:
            # Leave now, and do not leave the call to its lease; it may have been made.
            isolated("outbox", None, self._table.put_off, call.id, self._owner, 0.0, "interrupted")
            raise
        else:
            made = partial(self._tell_made, call, replay)
            await self._note(partial(self._table.done, call), made)

    def _tell_made(self, call: QueuedCall, replay: Replay) -> None:
        self._outbox.count("success")
        signals.emit(
            "resilient.call_replayed",
            dependency=replay.dependency,
            function=call.name,
            id=call.id,
            attempts=call.attempts + 1,
            waited_seconds=round(max(0.0, wall() - call.queued.timestamp()), 3),
        )

    async def _failed(self, call: QueuedCall, replay: Replay, error: Exception) -> None:
        what = type(error).__name__
        if not replay.pipeline.is_failure(error):
            # A declined card is an answer; to ask again and again would not make it another one.
            await self._bury(call, replay, f"answered: {what}")
        else:
            await self._try_again(call, replay, what)

    async def _try_again(self, call: QueuedCall, replay: Replay, what: str) -> None:
        if call.attempts + 1 >= self._outbox.max_attempts:
            await self._bury(call, replay, f"given up after {call.attempts + 1} attempts: {what}")
        else:
            self._outbox.count("failure")
            await self._put_off(call, what)

    async def _put_off(self, call: QueuedCall, why: str) -> None:
        pause = min(
            self._outbox.max_pause, self._outbox.first_pause * 2.0 ** min(call.attempts, 60)
        )
        # Between half and all of it: calls that failed together do not come back together.
        pause *= random.uniform(0.5, 1.0)
        await self._note(partial(self._table.put_off, call.id, self._owner, pause, why))

    async def _bury(self, call: QueuedCall, replay: Replay | None, why: str) -> None:
        buried = partial(self._tell_buried, call, replay, why)
        await self._note(partial(self._table.bury, call.id, self._owner, why), buried)

    def _tell_buried(self, call: QueuedCall, replay: Replay | None, why: str) -> None:
        self._outbox.count("buried")
        signals.emit(
            "resilient.call_buried",
            dependency=None if replay is None else replay.dependency,
            function=call.name,
            id=call.id,
            attempts=call.attempts + 1,
            reason=why,
        )

    async def _note(
        self, change: Callable[[], object], tell: Callable[[], object] = lambda: None
    ) -> None:
        """Note in the file what a call came to, and tell of it.

        While that cannot be done the call stays this worker's, so that nobody makes it again.
        """
        for _ in range(TRIES_TO_NOTE):
            try:
                await self._off_loop(change)
            except OutboxError as error:
                report_broken("outbox", error)
                if self._stopping:
                    break
                await clock.current.sleep_async(POLL_SECONDS)
            else:
                tell()
                return
        self._unnoted.append((change, tell))

    async def _off_loop(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call what may block on a thread, and wait for as long as it takes."""
        limit = Limit(clock.now() + _FAR, _FAR, "outbox")
        step = Invoke(function, args, kwargs, limit)
        outcome: Outcome = await clock.current.run_limited_async(self._threads, step)
        result: T = outcome.result()
        return result

    # What happens meanwhile

    def _listen(self, name: str, fields: Mapping[str, Any]) -> None:
        if name in _WELL_AGAIN:
            well = fields.get("dependency")
            replays = self._outbox.replays
            for held in list(self._held):
                if held in replays and replays[held].dependency == well:
                    self._held.pop(held, None)
            self.wake()

    def _schedule_renewal(self) -> None:
        self._timer = clock.current.later(self._table.lease / 3, self._renewal_due)

    def _renewal_due(self) -> None:
        # A forked child has inherited the timer, but makes none of the calls.
        if self._process == os.getpid() and not clock.current.background(self._renew):
            self._schedule_renewal()

    def _renew(self) -> None:
        isolated("outbox", None, self._table.renew, self._owner)
        self._note_at_last()
        isolated("outbox", None, self._table.mend)
        if self._timer is not None:
            self._schedule_renewal()

    def _note_at_last(self) -> None:
        for one in list(self._unnoted):
            change, tell = one
            try:
                change()
            except OutboxError as error:
                report_broken("outbox", error)
            else:
                self._unnoted.remove(one)
                tell()


@final
class _EndedError(Exception):
    """Stands for what is no `Exception`, and has ended a call but not its worker."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


async def _answered(answer: Awaitable[T]) -> T:
    """Await a call, in which nothing but Ctrl-C and a worker that is stopped is an interruption.

    A call may raise an exit, or a cancellation of its own; the others are to be made all the same.
    """
    try:
        return await answer
    except Exception:
        raise
    except BaseException as interruption:
        task = asyncio.current_task()
        is_stopped = task is not None and task.cancelling() > 0
        if is_stopped or isinstance(interruption, KeyboardInterrupt | GeneratorExit):
            raise
        raise _EndedError(type(interruption).__name__) from interruption
