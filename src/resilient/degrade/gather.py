"""Several parts of one answer at once, without those that cannot be had in time."""

from __future__ import annotations

import asyncio
import inspect
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from functools import partial
from types import CoroutineType
from typing import Any, TypeVar, final, overload

from resilient.degrade.partial import Partial, note_missing, note_wanted
from resilient.engine import clock, settings
from resilient.engine.callables import is_async_function, plain_name
from resilient.engine.drivers import drive, drive_async, needs_a_loop
from resilient.engine.limits import Limit, ambient, current_limit, tighter
from resilient.engine.locks import new_lock
from resilient.engine.outcome import Outcome
from resilient.engine.steps import Invoke, Steps, Wait
from resilient.engine.waiting import Waiter
from resilient.engine.workers import Workers
from resilient.errors import InvalidSetting, InvalidUse, ResilientError

__all__ = ["gather_partial"]

T = TypeVar("T")

#: How much sooner the parts must be back than the whole: the fallback of a part that is cut by the
#: limit still answers in time. A share of what is left, and at most so many seconds.
HEADROOM_SHARE, HEADROOM_SECONDS = 0.05, 0.01
#: Parts of more names than this share the workers of the last one.
MOST_POOLS = 50


@overload
def gather_partial(
    *, required: Collection[str] = ..., timeout: float | None = ..., **parts: Awaitable[T]
) -> Coroutine[Any, Any, Partial[T]]: ...
@overload
def gather_partial(
    *, required: Collection[str] = ..., timeout: float | None = ..., **parts: Callable[[], T]
) -> Partial[T]: ...
def gather_partial(
    *, required: Collection[str] = (), timeout: float | None = None, **parts: Any
) -> Any:
    """Return the parts of an answer that can be had in time, and why the others cannot.

    Parts are awaitables, or functions without arguments. Awaitables run as tasks, and the result
    is to be awaited. Functions run on worker threads with the caller's context variables; each
    name has workers of its own, so that a part that hangs takes none away from the others.

    Arguments:
        required: The names of parts without which there is no answer. The first of them that fails
            ends the rest, and its error is raised as it was.
        timeout: Seconds for all of it; above 0, or None for no limit but those around.
        parts: What to gather, by name.

    At the limit, tasks are cancelled and awaited, and calls on threads are abandoned. Each part
    that is missing is a `Degradation`, an event and a count in `resilient_parts_missed_total`.

    Raises:
        CallTimeout: If a required part is not back in time.
        InvalidSetting: If `timeout` is outside of its range, or `required` names no part.
        InvalidUse: If there are no parts, or awaitables among functions.

    Example:
        >>> from resilient import gather_partial
        >>> def reviews() -> str:
        ...     raise ConnectionError("reviews are down")
        >>> page = gather_partial(product=lambda: "lamp", reviews=reviews, required={"product"})
        >>> page["product"], page.get("reviews", "none today"), page.missing
        ('lamp', 'none today', mappingproxy({'reviews': ConnectionError('reviews are down')}))

    Where the rule comes from: partial responses in Michael Nygard's "Release It!", and structured
    concurrency: no part outlives the answer where it can be helped.
    """
    try:
        is_async = _checked(parts, required)
        seconds = None if timeout is None else settings.seconds("timeout", timeout, above_zero=True)
    except ResilientError:
        _close(parts)
        raise
    note_wanted(parts)
    if is_async:
        return _awaited(_Tasks(parts, frozenset(required), seconds))
    gathering = _Threads(parts, frozenset(required), seconds)
    drive(gathering.steps())
    return gathering.answer()


async def _awaited(gathering: _Gathering) -> Partial[Any]:
    await drive_async(gathering.steps())
    return gathering.answer()


def _checked(parts: Mapping[str, Any], required: Collection[str]) -> bool:
    """Whether the parts are awaitables, after a check that all are of one kind."""
    if not parts:
        raise InvalidUse("gather_partial() needs at least one part, such as reviews=reviews(id)")
    expected = f"a set of names among {', '.join(parts)}"
    names = settings.items("required", required, expected)
    if not all(isinstance(name, str) and name in parts for name in names):
        raise InvalidSetting("required", required, expected)
    awaitables = [name for name, part in parts.items() if inspect.isawaitable(part)]
    if len(awaitables) == len(parts):
        return True
    for name, part in parts.items():
        if name in awaitables or not callable(part):
            raise InvalidUse(
                f"gather_partial({name}=...): parts are all awaitables, or all functions without "
                "arguments"
            )
        if is_async_function(part):
            raise InvalidUse(
                f"gather_partial({name}={plain_name(part)}): the function is asynchronous; "
                "hand over what it returns when it is called"
            )
    return False


def _close(parts: Mapping[str, Any]) -> None:
    """Let go of coroutines that nobody is going to await."""
    for part in parts.values():
        if isinstance(part, CoroutineType):
            part.close()


class _Gathering(ABC):
    """Parts that are under way, and what each has come to."""

    def __init__(
        self, parts: dict[str, Any], required: frozenset[str], seconds: float | None
    ) -> None:
        self._names = tuple(parts)
        self._required = required
        self._seconds = seconds
        # Those that must not be missing are begun first.
        self._waiting = dict(sorted(parts.items(), key=lambda part: part[0] not in required))
        self._limit: Limit | None = None
        self._part_limits: list[Limit] = []
        self._overrun = False
        self._outcomes: dict[str, Outcome] = {}
        self._interruption: BaseException | None = None
        self._lock = new_lock()
        self._decided = Waiter()
        self._all_ended = Waiter()

    def __del__(self) -> None:
        # A task that is cancelled before it has begun never comes to its steps.
        _close(self._waiting)

    def steps(self) -> Steps[None]:
        """Gather until all parts have ended, a required one has failed, or time is up."""
        outer = self._limit = current_limit()
        if self._seconds is not None:
            own = Limit(clock.now() + self._seconds, self._seconds, "gather_partial", self)
            self._limit = tighter(outer, own)
        stops: list[Callable[[], object]] = []
        try:
            until = None if self._limit is None else self._limit.expires
            for name in [*self._waiting]:
                if self._decided.woken or (until is not None and clock.now() >= until):
                    break
                stops.append(self._begin(name, self._waiting.pop(name), self._limit_of(name)))
            self._overrun = not (yield Wait(self._decided, until))
        except BaseException as interruption:
            self._stop(stops)
            if not isinstance(interruption, GeneratorExit):
                yield Wait(self._all_ended)
            raise
        self._stop(stops)
        yield Wait(self._all_ended)

    def _limit_of(self, name: str) -> Limit | None:
        limit = self._limit
        if limit is None:
            return None
        headroom = min(HEADROOM_SECONDS, HEADROOM_SHARE * (limit.expires - clock.now()))
        own = Limit(limit.expires - headroom, limit.seconds, name, limit.owner).for_one_call()
        self._part_limits.append(own)
        return own

    @abstractmethod
    def _begin(self, name: str, part: Any, limit: Limit | None) -> Callable[[], object]:
        """Begin a part, and return what stops it; `_ended` is told of its end in any case."""

    def _stop(self, stops: list[Callable[[], object]]) -> None:
        for limit in self._part_limits:  # what cannot be stopped begins nothing any more
            limit.expires = min(limit.expires, clock.now())
        for stop in stops:
            stop()
        _close(self._waiting)
        while self._waiting:
            name, _ = self._waiting.popitem()
            self._ended(name, self._cut(name))

    def _cut(self, name: str) -> Outcome:
        """Return the outcome of a part that was stopped."""
        now, error = clock.now(), ResilientError(f"{name}: cancelled")
        if self._overrun and self._limit is not None:
            error = Limit(now, self._limit.seconds, name, self._limit.owner).overrun()
        return Outcome(None, error, now, now)

    def _ended(self, name: str, end: Outcome | BaseException) -> None:
        """Take note of what a part came to, from whatever thread."""
        with self._lock:
            if name in self._outcomes:
                return
            if not isinstance(end, Outcome):
                self._interruption = self._interruption or end
                end = self._cut(name)
            self._outcomes[name] = end
            all_ended = len(self._outcomes) == len(self._names)
        if all_ended or (end.error is not None and name in self._required) or self._interruption:
            self._decided.wake()
        if all_ended:
            self._all_ended.wake()

    def answer(self) -> Partial[Any]:
        """Return what there is, or raise what there is no answer without."""
        if self._interruption is not None:
            raise self._interruption
        for name, outcome in self._outcomes.items():  # the first that failed stopped the others
            if name in self._required:
                outcome.result()
        ends = {name: self._outcomes[name] for name in self._names}
        missing = {name: end.error for name, end in ends.items() if end.error is not None}
        note_missing(missing)
        return Partial({name: end.value for name, end in ends.items() if end.ok}, missing)


@final
class _Tasks(_Gathering):
    """Parts that are tasks on the running loop."""

    def _begin(self, name: str, part: Any, limit: Limit | None) -> Callable[[], object]:
        token = ambient.set(ambient.get() if limit is None else limit)
        try:
            task: asyncio.Future[Any] = asyncio.ensure_future(part)  # inherits the limit
        finally:
            ambient.reset(token)
        task.add_done_callback(partial(self._task_ended, name, clock.now(), limit))
        return task.cancel

    def _task_ended(
        self, name: str, started: float, limit: Limit | None, task: asyncio.Future[Any]
    ) -> None:
        if task.cancelled():
            self._ended(name, self._cut(name))
            return
        if limit is not None:
            limit.ended = True
        match task.exception():
            case None:
                self._ended(name, Outcome(task.result(), None, started, clock.now()))
            case Exception() as error:
                self._ended(name, Outcome.failed(error, started))
            case interruption:
                self._ended(name, interruption)


@final
class _Threads(_Gathering):
    """Parts that are calls on worker threads."""

    def _begin(self, name: str, part: Any, limit: Limit | None) -> Callable[[], object]:
        workers = _workers_of(name)
        ended = partial(self._call_ended, name, part)
        abandon = clock.current.begin(workers, Invoke(part, limit=limit, workers=workers), ended)

        def stop() -> None:
            if abandon():
                self._ended(name, self._cut(name))

        return stop

    def _call_ended(self, name: str, part: Callable[[], Any], end: Outcome | BaseException) -> None:
        if isinstance(end, Outcome) and type(end.value) is CoroutineType:
            end.value.close()
            end = Outcome.failed(needs_a_loop(part), end.started)
        self._ended(name, end)


_pools: dict[str, Workers] = {}
_pools_lock = new_lock()


def _workers_of(name: str) -> Workers:
    with _pools_lock:
        if name not in _pools and len(_pools) >= MOST_POOLS:
            name = next(reversed(_pools))
        if name not in _pools:
            _pools[name] = Workers(max_workers=32, max_abandoned=8)
        return _pools[name]
