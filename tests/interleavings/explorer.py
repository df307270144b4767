"""Runs real threads one step at a time, in every order that a few preemptions can make.

Each thread of a scenario stops before every operation of the traced code that may touch what is
shared (an attribute, an item, a call, a lock), and goes on only when it is chosen. One run is one
list of choices; all runs with at most so many preemptions are made one after the other, as CHESS
does it (Musuvathi and Qadeer, "Iterative context bounding", PLDI 2007): most races need one or two.

Blocked threads are never chosen, as the locks of the library are replaced by ones that the
scheduler knows. A wait with a limit may end at any moment: whether a limit has come is a choice
too. Code that is not traced is one step.
"""

from __future__ import annotations

import gc
import random
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from types import CodeType, SimpleNamespace
from typing import Any

from resilient.engine import clock, signals
from tests.interleavings.steps import gone_through, tell

__all__ = ["Deadlock", "Failed", "Plan", "Report", "explore", "random_walks", "steered"]

#: A run that takes more steps than this goes in circles.
MOST_STEPS = 20_000


class Deadlock(AssertionError):
    """Some threads wait, and none of those that could wake them can go on."""


class Unrepeatable(AssertionError):
    """The same choices have led elsewhere: something outside of the scenario has a say."""


class Failed(AssertionError):
    """A scenario went wrong; says in which order of steps."""


class _Aborted(BaseException):
    """Ends a thread of a run that is over."""


@dataclass
class Plan:
    """One scenario, made anew for each run: what runs at once, and what must hold afterwards.

    `check` is given what each thread returned, or the error that it raised.
    """

    threads: Sequence[Callable[[], Any]]
    check: Callable[[list[Any]], None]


@dataclass
class Report:
    """How many runs there were, and whether they were all that there are."""

    runs: int = 0
    steps: int = 0
    complete: bool = False


@dataclass
class _Choice:
    options: list[int]
    chosen: int = 0


def _told(at: tuple[CodeType, int] | None) -> str:
    if at is None:
        return "its beginning"
    code, offset = at
    lines = (line for begin, end, line in code.co_lines() if begin <= offset < end)
    return f"{Path(code.co_filename).name}:{next(lines, None)} in {code.co_name}"


@dataclass(eq=False)
class _Thread:
    """A thread of a scenario, or one that the library has started."""

    number: int
    body: Callable[[], Any]
    is_daemon: bool
    go: Any = field(default_factory=threading.Lock)
    is_alive: bool = True
    waits_for: Lock | None = None
    is_timed: bool = False
    timed_out: bool = False
    result: Any = None
    #: The code and the offset of its next step.
    at: tuple[CodeType, int] | None = None

    def __post_init__(self) -> None:
        self.go.acquire()

    @property
    def where(self) -> str:
        """The line of its next step."""
        return _told(self.at)

    @property
    def can_go_on(self) -> bool:
        return self.is_alive and (self.waits_for is None or self.waits_for.is_free_for(self))


class _Run:
    """One execution of a plan, under the choices that are given; beyond them, the first options."""

    def __init__(
        self,
        chooser: Callable[[list[_Thread], bool], int],
        is_decided: Callable[[], bool] = lambda: False,
    ) -> None:
        self.chooser = chooser
        #: Whether no thread that can go on is going to be preempted any more.
        self.is_decided = is_decided
        self.threads: list[_Thread] = []
        self.current: _Thread | None = None
        self.over = threading.Lock()
        self.over.acquire()
        self.is_aborted = False
        self.deadlock: str | None = None
        self.steps = 0
        self.journey: list[tuple[int, tuple[CodeType, int] | None]] = []
        self.real: list[threading.Thread] = []

    def add(self, body: Callable[[], Any], *, is_daemon: bool) -> None:
        thread = _Thread(len(self.threads), body, is_daemon)
        self.threads.append(thread)
        real = threading.Thread(target=self._live, args=(thread,), daemon=True)
        self.real.append(real)
        real.start()

    def _live(self, thread: _Thread) -> None:
        _here.thread, _here.run = thread, self
        thread.go.acquire()
        try:
            if not self.is_aborted:
                tell(partial(self.step, thread))
                thread.result = thread.body()
        except _Aborted:
            pass
        except BaseException as error:
            thread.result = error
        finally:
            tell(None)
            thread.is_alive = False
            if not self.is_aborted:
                self._next(thread)

    def start(self) -> None:
        self._next(None)
        self.over.acquire()
        self.is_aborted = True
        for thread in self.threads:
            if thread.is_alive:
                thread.go.release()
        for real in self.real:
            real.join()

    def step(self, thread: _Thread, code: CodeType, offset: int) -> None:
        """Let another thread go on, if that is what is chosen."""
        if self.is_aborted:
            raise _Aborted
        self.steps += 1
        if self.steps > MOST_STEPS:
            self.deadlock = f"no end after {MOST_STEPS} steps"
            self._end()
            self._park(thread)
        thread.at = (code, offset)
        if not self.is_decided():
            self._next(thread)

    def _next(self, thread: _Thread | None) -> None:
        ready = [one for one in self.threads if one.can_go_on]
        if not any(one.is_alive and not one.is_daemon for one in self.threads):
            if thread is not None and thread in ready:
                return
            if ready:  # what the library has begun in the background comes to an end
                self._hand_over(thread, ready[0])
                return
            self._end()
            if thread is not None and thread.is_alive:
                self._park(thread)
            return
        # Limits that may come now: another choice, as long as something else can happen.
        timed = [one for one in self.threads if one.is_timed and one not in ready]
        if not ready and not timed:
            waiting = [
                f"thread {one.number} at {one.where}" for one in self.threads if one.is_alive
            ]
            self.deadlock = ", ".join(waiting)
            self._end()
            if thread is not None and thread.is_alive:
                self._park(thread)
            return
        awaited = not ready
        if thread is not None and thread in ready:
            ready.remove(thread)
            options, is_free = [thread, *ready, *timed], False
        else:
            options, is_free = [*ready, *timed], len(ready) != 1
        try:
            number = self.chooser(options, is_free) if len(options) > 1 else 0
        except Unrepeatable as error:
            self.deadlock = str(error)
            self._end()
            if thread is not None and thread.is_alive:
                self._park(thread)
            return
        chosen = options[number]
        if chosen in timed:
            chosen.timed_out = True
            still.awaited += awaited
        if chosen is not thread:
            self._hand_over(thread, chosen)

    def _hand_over(self, thread: _Thread | None, chosen: _Thread) -> None:
        self.journey.append((chosen.number, chosen.at))
        self.current = chosen
        chosen.go.release()
        if thread is not None and thread.is_alive:
            self._park(thread)

    def _park(self, thread: _Thread) -> None:
        thread.go.acquire()
        if self.is_aborted:
            raise _Aborted

    def _end(self) -> None:
        if self.over.locked():
            self.over.release()


class _Here(threading.local):
    thread: _Thread | None = None
    run: _Run | None = None


_here = _Here()


class Lock:
    """A lock that the scheduler knows, with the methods of `threading.Lock`."""

    _re_entrant = False

    def __init__(self) -> None:
        self._owner: Any = None
        self._depth = 0

    def is_free_for(self, who: object) -> bool:
        return self._owner is None or (self._re_entrant and self._owner is who)

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        thread, run = _here.thread, _here.run
        if thread is None or run is None:  # what prepares or checks a run, while nothing else runs
            if not self.is_free_for(_here):
                if blocking and timeout < 0:
                    raise Deadlock("a lock is held after the end of all threads")
                return False
            self._owner, self._depth = _here, self._depth + 1
            return True
        run.step(thread, *_caller())
        if not self.is_free_for(thread):
            if not blocking or timeout == 0:
                return False
            thread.waits_for, thread.is_timed = self, timeout >= 0
            thread.timed_out = False
            try:
                run._next(thread)  # comes back when the lock is free, or the time is over
            finally:
                thread.waits_for, thread.is_timed = None, False
            if not self.is_free_for(thread):
                assert thread.timed_out
                still.pass_time(timeout)
                return False
        self._owner, self._depth = thread, self._depth + 1
        return True

    def release(self) -> None:
        if self._owner is None:
            raise RuntimeError("release unlocked lock")
        self._depth -= 1
        if not self._depth or not self._re_entrant:
            self._depth, self._owner = 0, None

    def locked(self) -> bool:
        return self._owner is not None

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *error: object) -> None:
        self.release()

    def _at_fork_reinit(self) -> None:
        self._owner, self._depth = None, 0


class RLock(Lock):
    """The same, for a thread that may have it already."""

    _re_entrant = True


class Thread:
    """A thread that the library starts: one more for the scheduler."""

    def __init__(self, target: Callable[..., Any], name: str = "", daemon: bool = True) -> None:
        self._target = target
        self.name = name

    def start(self) -> None:
        assert _here.run is not None, "a thread is started outside of a run"
        _here.run.add(self._target, is_daemon=True)


class _StillClock(clock.SystemClock):
    """A clock that moves when a limit comes, and when it is told to; its timers never ring."""

    def __init__(self) -> None:
        super().__init__()
        self.time = 1000.0
        #: How many limits came as nobody could go on before: somebody was not woken.
        self.awaited = 0
        self.timers: list[Callable[[], object]] = []

    def now(self) -> float:  # type: ignore[override]
        return self.time

    def pass_time(self, seconds: float) -> None:
        self.time += max(0.0, seconds)

    def sleep(self, seconds: float, /) -> None:
        self.pass_time(seconds)

    def later(self, seconds: float, callback: Callable[[], object]) -> Any:
        self.timers.append(callback)
        return clock.SystemTimer(callback)

    def background(self, function: Callable[[], object]) -> bool:
        Thread(function).start()
        return True


still = _StillClock()


def _caller() -> tuple[CodeType, int]:
    frame = sys._getframe(2)
    while frame.f_code.co_filename == __file__ and frame.f_back is not None:
        frame = frame.f_back
    return frame.f_code, frame.f_lasti


def _attributes(value: object) -> list[str]:
    slots = [one for kind in type(value).__mro__ for one in vars(kind).get("__slots__", ())]
    return [*getattr(value, "__dict__", ()), *slots]


@contextmanager
def steered(*more: str) -> Generator[None]:
    """Replace the library's locks, threads and clock by ones that a scheduler knows.

    `more` are files besides the library's that are gone through step by step.
    """
    re_entrant, plain = type(threading.RLock()), type(threading.Lock())
    replaced: list[tuple[Any, str, Any]] = []

    def replace(where: Any, name: str, by: Any) -> None:
        replaced.append((where, name, getattr(where, name)))
        setattr(where, name, by)

    threads = SimpleNamespace(**{**vars(threading), "Lock": Lock, "RLock": RLock, "Thread": Thread})
    for module in [one for name, one in sys.modules.items() if name.startswith("resilient")]:
        for name, value in list(vars(module).items()):
            if value is threading:
                replace(module, name, threads)
            elif value is threading.RLock or value is re_entrant:
                replace(module, name, RLock)
            elif value is threading.Lock:
                replace(module, name, Lock)
            elif isinstance(value, re_entrant):
                replace(module, name, RLock())
            elif isinstance(value, plain):
                replace(module, name, Lock())
            elif type(value).__module__.startswith("resilient"):
                for attribute in _attributes(value):
                    if isinstance(getattr(value, attribute, None), re_entrant):
                        replace(value, attribute, RLock())
    replace(signals, "_listeners", ())  # what is logged depends on what has been before
    before = clock.install(still)
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()  # destructors run where the last reference goes, and nowhere else
    try:
        with gone_through(*more):
            yield
    finally:
        if collecting:
            gc.enable()
        clock.install(before)
        for where, name, value in reversed(replaced):
            setattr(where, name, value)


_runs = count()


def _sweep() -> None:
    if next(_runs) % 500 == 499:
        gc.collect()


def _run_once(
    scenario: Callable[[], Plan],
    chooser: Callable[[list[_Thread], bool], int],
    is_decided: Callable[[], bool] = lambda: False,
) -> _Run:
    random.seed(0)
    _sweep()
    still.time, still.awaited = 1000.0, 0
    still.timers.clear()
    plan = scenario()
    run = _Run(chooser, is_decided)
    for body in plan.threads:
        run.add(body, is_daemon=False)
    run.start()
    way = "\n  ".join(f"thread {number} goes on at {_told(at)}" for number, at in run.journey)
    if run.deadlock is not None:
        raise Deadlock(f"nobody can go on: {run.deadlock}\n  {way}")
    try:
        plan.check([one.result for one in run.threads[: len(plan.threads)]])
    except AssertionError as error:
        raise Failed(f"{error}\n  {way}") from error
    return run


def explore(scenario: Callable[[], Plan], *, preemptions: int = 2, most: int = 10**9) -> Report:
    """Run `scenario` in every order with at most so many preemptions, at most `most` times."""
    report = Report()
    path: list[_Choice] = []
    _run_once(scenario, lambda _options, _is_free: 0)  # fills what is kept for the next time
    while True:
        depth = 0
        spent = 0

        def choose(options: list[_Thread], is_free: bool) -> int:
            nonlocal depth, spent
            if not is_free and spent >= preemptions:
                return 0
            numbers = [one.number for one in options]
            if depth == len(path):
                path.append(_Choice(numbers))
            choice = path[depth]
            if choice.options != numbers:
                raise Unrepeatable(f"choice {depth} was {choice.options} before, and is {numbers}")
            depth += 1
            spent += not is_free and choice.chosen > 0
            return choice.chosen

        run = _run_once(scenario, choose, lambda: spent >= preemptions)  # noqa: B023 - same round
        report.runs += 1
        report.steps += run.steps
        while path and path[-1].chosen + 1 >= len(path[-1].options):
            path.pop()
        if not path:
            report.complete = True
            return report
        if report.runs >= most:
            return report
        path[-1].chosen += 1


def random_walks(scenario: Callable[[], Plan], *, seeds: Iterable[int]) -> Report:
    """Run `scenario` once for each seed, with a thread drawn every so often."""
    report = Report()
    for seed in seeds:
        draw = random.Random(seed)
        often = draw.choice((0.02, 0.1, 0.3))

        def choose(
            options: list[_Thread],
            is_free: bool,
            draw: random.Random = draw,
            often: float = often,
        ) -> int:
            if not is_free and draw.random() > often:
                return 0
            return draw.randrange(len(options))

        try:
            run = _run_once(scenario, choose)
        except AssertionError as error:
            raise type(error)(f"seed {seed}: {error}") from error
        report.runs += 1
        report.steps += run.steps
    return report
