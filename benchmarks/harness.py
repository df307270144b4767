"""How it is measured: everything in one process, in turns, many rounds, medians and quartiles.

The unit is a wrapper that does nothing, synchronous or asynchronous as the subject is. Each round
takes a sample of each subject, in a new order, and one of its unit right next to it: machines
change their speed by half from one moment to the next, and the two see the same moment. What is
reported is the median of these ratios, with the quartiles for their spread; the ratio of two
subjects is that of their ratios to the unit, round by round.

A sample is a loop of many thousands of calls, ten to a turn, in code that is compiled for its
subject alone: CPython specializes code for what it meets, and one loop for all would be specialized
for none. Calls before the first round warm that up.

The garbage collector stays on, as it is in a service: who makes garbage pays for it. What is alive
before the first round is frozen, so that nobody pays for the modules of the others.
"""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from statistics import median, quantiles
from textwrap import indent
from time import perf_counter
from typing import Any, final

__all__ = ["ARGUMENT", "Bench", "Spread", "Subject"]

#: What every subject is called with.
ARGUMENT = "u1"
UNROLLED = 10
WARM_UP_TURNS = 50


@dataclass(frozen=True, slots=True)
class Subject:
    """Something to measure: `call(ARGUMENT)`, awaited if it is asynchronous.

    `rejects` is the error that every call is expected to raise, if that is what is measured.
    `counted` tells how many calls the subject has counted by itself, to be compared at the end.
    """

    name: str
    call: Callable[..., Any]
    is_async: bool = False
    rejects: type[Exception] | None = None
    counted: Callable[[], int] | None = None


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some samples, between their quartiles."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Spread:
        """Return the spread of `samples`, of which there may be one only."""
        if len(samples) == 1:
            return cls(samples[0], samples[0], samples[0])
        low, _, high = quantiles(samples, n=4, method="inclusive")
        return cls(low, median(samples), high)


_BATCH = """
{prefix}def batch(turns, call, argument, rejected, clock, pause):
    start = clock()
    for _ in turns:
{statements}
{ending}
    return clock() - start
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
        # What a subject has left for its event loop to do is done within the measured time.
        ending="    await pause(0)" if subject.is_async else "",
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
        taken = self._batch(
            repeat(None, turns),
            subject.call,
            ARGUMENT,
            subject.rejects,
            perf_counter,
            asyncio.sleep,
        )
        self.calls += turns * UNROLLED
        return float(self._loop.run_until_complete(taken) if subject.is_async else taken)

    def prepare(self, seconds: float) -> None:
        """Warm up, and find out how many turns take about `seconds`."""
        self._seconds(WARM_UP_TURNS)
        taken = self._seconds(WARM_UP_TURNS)
        self._turns = max(1, round(seconds * WARM_UP_TURNS / taken))

    def sample(self) -> float:
        """Return the seconds for one call."""
        return self._seconds(self._turns) / (self._turns * UNROLLED)


@dataclass(slots=True)
class Bench:
    """The samples of all subjects, by name, round by round.

    `samples` are the seconds for a call, `units` how many calls of the do-nothing wrapper that is.
    """

    samples: dict[str, list[float]] = field(default_factory=dict)
    units: dict[str, list[float]] = field(default_factory=dict)

    def run(
        self,
        subjects: Sequence[Subject],
        *,
        unit: Subject,
        unit_async: Subject,
        rounds: int,
        sample_seconds: float,
    ) -> None:
        """Take `rounds` samples of each subject and of the unit of its colour, in turns."""
        loop = asyncio.new_event_loop()
        try:
            units = _Stopwatch(unit, loop), _Stopwatch(unit_async, loop)
            self._run(subjects, units, rounds, sample_seconds, loop)
        finally:
            loop.close()

    def _run(
        self,
        subjects: Sequence[Subject],
        units: tuple[_Stopwatch, _Stopwatch],
        rounds: int,
        sample_seconds: float,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        before = {one.name: one.counted() for one in subjects if one.counted is not None}
        watches = {subject.name: _Stopwatch(subject, loop) for subject in subjects}
        for watch in (*units, *watches.values()):
            watch.prepare(sample_seconds)
        gc.collect()
        gc.freeze()
        order = list(subjects)
        shuffle = random.Random(0).shuffle
        for _ in range(rounds):
            shuffle(order)
            for subject in order:
                seconds = watches[subject.name].sample()
                unit_seconds = units[subject.is_async].sample()
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
        pairs = zip(self.units[name], self.units[to], strict=True)
        return Spread.of([one / other for one, other in pairs])
