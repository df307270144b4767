"""How calls are measured: in one process, in turns, many rounds, medians and quartiles.

The unit is a wrapper that does nothing, synchronous or asynchronous as the subject is, and called
by as many threads or tasks. Each round takes a sample of each subject, in a new order, and one of
its unit right next to it: machines change their speed by half from one moment to the next, and the
two see the same moment. What is reported is the median of these ratios, with the quartiles for
their spread; the ratio of two subjects is that of their ratios to the unit, round by round. No
sample is left out.

A sample is a loop of some thousands of calls, ten to a turn, in code that is compiled for its
subject alone: CPython specializes code for what it meets, and one loop for all would be specialized
for none. Calls before the first round warm that up. Many short samples are better than few long
ones: a system with other things to do takes the processor away every few milliseconds, and what is
shorter than that is mostly left alone.

The garbage collector stays on, as it is in a service: who makes garbage pays for it. What is alive
before the first round is frozen, so that nobody pays for the modules of the others.
"""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import repeat
from textwrap import indent
from time import perf_counter
from typing import Any, final

from benchmarks.crowds import seconds_of_tasks, seconds_of_threads
from benchmarks.spread import Spread

__all__ = ["ARGUMENT", "Bench", "Subject"]

#: What every subject is called with.
ARGUMENT = "u1"
UNROLLED = 10
WARM_UPS, WARM_UP_TURNS = 3, 50


@dataclass(frozen=True, slots=True)
class Subject:
    """Something to measure: `call(ARGUMENT)`, awaited if it is asynchronous.

    `unit` is the do-nothing wrapper to compare it with, and is None for such a wrapper itself.
    `rejects` is the error that every call is expected to raise, if that is what is measured.
    `counted` tells how many calls the subject has counted by itself, to be compared at the end.
    `tidy` is called after each sample, outside of the measured time.
    `crowd` is how many threads, or tasks if it is asynchronous, call at once.
    """

    name: str
    call: Callable[..., Any]
    unit: Subject | None = None
    is_async: bool = False
    is_ours: bool = False
    rejects: type[Exception] | None = None
    counted: Callable[[], int] | None = None
    tidy: Callable[[], None] | None = None
    crowd: int = 1

    def beside(self, name: str, call: Callable[..., Any], **more: Any) -> Subject:
        """Return a subject of which this one is the unit."""
        return replace(self, name=name, call=call, unit=self, **more)


_BATCH = """
{prefix}def batch(turns, call, argument, rejected):
    for _ in turns:
{statements}
"""
_RETURNS = "{prefix}call(argument)"
_RAISES = """\
try:
    {prefix}call(argument)
except rejected:
    pass
else:
    raise AssertionError("a call was let through")"""


def _batch_of(subject: Subject) -> Callable[..., Any]:
    """Compile the loop that calls `subject`."""
    statement = (_RETURNS if subject.rejects is None else _RAISES).format(
        prefix="await " if subject.is_async else ""
    )
    source = _BATCH.format(
        prefix="async " if subject.is_async else "",
        statements=indent("\n".join([statement] * UNROLLED), " " * 8),
    )
    found: dict[str, Any] = {}
    exec(compile(source, f"<{subject.name}>", "exec"), found)
    batch: Callable[..., Any] = found["batch"]
    return batch


@final
class _Stopwatch:
    """A subject with its loop, and how many turns of it make a sample."""

    def __init__(self, subject: Subject, loop: asyncio.AbstractEventLoop) -> None:
        self._subject = subject
        self._loop = loop
        self._batch = _batch_of(subject)
        self._turns = 1
        self.calls = 0

    def _seconds(self, turns: int) -> float:
        subject = self._subject

        def batch() -> Any:
            return self._batch(repeat(None, turns), subject.call, ARGUMENT, subject.rejects)

        if subject.is_async:
            # What a subject has left for its loop to do is done within the measured time.
            seconds = self._loop.run_until_complete(seconds_of_tasks(batch, subject.crowd))
        elif subject.crowd > 1:
            seconds = seconds_of_threads(batch, subject.crowd)
        else:
            started = perf_counter()
            batch()
            seconds = perf_counter() - started
        self.calls += turns * UNROLLED * subject.crowd
        if subject.tidy is not None:
            subject.tidy()
        return seconds

    def prepare(self, seconds: float) -> None:
        """Warm up, and find out how many turns take about `seconds`."""
        turns = max(1, WARM_UP_TURNS // self._subject.crowd)
        taken = min(self._seconds(turns) for _ in range(WARM_UPS))
        self._turns = max(1, round(seconds * turns / taken))

    def sample(self) -> float:
        """Return the seconds for one call."""
        return self._seconds(self._turns) / (self._turns * UNROLLED * self._subject.crowd)


@dataclass(slots=True)
class Bench:
    """The samples of all subjects, by name, round by round.

    `samples` are the seconds for a call, `units` how many calls of the do-nothing wrapper that is.
    """

    samples: dict[str, list[float]] = field(default_factory=dict)
    units: dict[str, list[float]] = field(default_factory=dict)

    def run(self, subjects: Sequence[Subject], *, rounds: int, sample_seconds: float) -> None:
        """Take `rounds` samples of each subject and of its unit, in turns."""
        names = [subject.name for subject in subjects]
        assert len(set(names)) == len(names), "two subjects have the same name"
        loop = asyncio.new_event_loop()
        try:
            self._run(subjects, rounds, sample_seconds, loop)
        finally:
            loop.close()

    def _run(
        self,
        subjects: Sequence[Subject],
        rounds: int,
        sample_seconds: float,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        before = {one.name: one.counted() for one in subjects if one.counted is not None}
        units = {one.name: one for one in (subject.unit or subject for subject in subjects)}
        watches = {subject.name: _Stopwatch(subject, loop) for subject in subjects}
        unit_watches = {name: _Stopwatch(unit, loop) for name, unit in units.items()}
        for watch in (*unit_watches.values(), *watches.values()):
            watch.prepare(sample_seconds)
        gc.collect()
        gc.freeze()
        order = list(subjects)
        shuffle = random.Random(0).shuffle
        for _ in range(rounds):
            shuffle(order)
            for subject in order:
                seconds = watches[subject.name].sample()
                unit_seconds = unit_watches[(subject.unit or subject).name].sample()
                self.samples.setdefault(subject.name, []).append(seconds)
                self.units.setdefault(subject.name, []).append(seconds / unit_seconds)
        gc.unfreeze()
        for subject in subjects:
            if subject.counted is not None:
                counted = subject.counted() - before[subject.name]
                made = watches[subject.name].calls
                assert counted == made, f"{subject.name}: {made} calls made, {counted} counted"

    def seconds(self, name: str) -> Spread:
        """Return how long a call takes."""
        return Spread.of(self.samples[name])

    def times(self, name: str, to: str | None = None) -> Spread:
        """Return how many calls of the unit, or of another subject, a call takes."""
        if to is None:
            return Spread.of(self.units[name])
        return Spread.of_ratios(self.units[name], self.units[to])

    def fastest(self, names: Sequence[str]) -> str:
        """Return that of `names` whose calls cost least, in their units."""
        return min(names, key=lambda name: self.times(name).median)
