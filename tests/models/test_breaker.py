"""The circuit breaker, and a model of it that is written from its page and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from itertools import count
from math import inf
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from resilient import CircuitBreaker, CircuitOpen, pipeline_of
from resilient.strategies.breaker import circuit
from tests.generated import examples
from tests.models.world import Excluded, Failed, Running, World

numbers = count(1)

#: After a hundred good calls what is usual forgets the oldest, which is not modelled.
MOST_LEARNED = 100
#: What a call may come to.
HOW = ["well", "well", "failed", "failed", "excluded", "cancelled"]


@dataclass
class Admitted:
    """A call that was let through: when, in which stretch of the circuit's life, and until when."""

    began: float
    stretch: int
    is_probe: bool = False
    lease_ends: float = inf


@dataclass
class Way:
    """The way back from an outage: which of the calls pass, and what has come of those that did."""

    since: float
    share: Fraction = Fraction(1, 10)
    passed: int = 0
    #: What the calls since the last that passed add up to: at 1, one passes.
    due: Fraction = Fraction(0)
    good: int = 0
    bad: int = 0
    bad_in_a_row: int = 0

    def admits(self) -> bool:
        if self.passed >= 10:
            self.due += self.share
            if self.due < 1:
                return False
            self.due -= 1
        self.passed += 1
        return True

    def came_to(self, *, good: bool) -> None:
        self.good += good
        self.bad += not good
        self.bad_in_a_row = 0 if good else self.bad_in_a_row + 1

    def checked(self, *, good: bool) -> None:
        """A check stands for calls where there are none, and never for fewer than a tenth."""
        if good:
            self.share = max(self.share, Fraction(1, 10)) if self.passed else Fraction(1)
        self.came_to(good=good)

    def leads_to(self, now: float) -> str | None:
        """Return the state that it ends in at `now`, if it does; go on by a quarter of a second."""
        if self.bad_in_a_row >= 5:
            return "open"
        seen = self.good + self.bad
        if now - self.since >= 0.25 and seen:
            if 10 * self.bad <= seen:
                self.share, self.due = 2 * self.share, Fraction(1)
            else:
                self.share /= 2
            self.since, self.good, self.bad = now, 0, 0
        if self.share >= 1:
            return "closed"
        return "open" if self.share < Fraction(1, 80) else None


@dataclass
class Model:
    """What the page says of `CircuitBreaker`, as plainly as it can be said."""

    fail_max: int | None
    failure_rate: float | None
    slow_call_rate: float | None
    slow_call_seconds: float | None
    window: int | str
    min_calls: int
    reset_timeout: float
    max_reset_timeout: float
    probes: int
    success_threshold: int
    ramp: bool
    probe_every: float | None
    mode: str

    state: str = "closed"
    forced: bool = False
    #: How often the state has changed: what was admitted in another stretch decides nothing.
    stretch: int = 0
    #: Each call that counts: when it ended, whether it failed, whether it was slow.
    seen: list[tuple[float, bool, bool]] = field(default_factory=list)
    in_a_row: int = 0
    opened_until: float = -inf
    period: float = 0.0
    #: Probes that have failed since the circuit was closed last.
    failed_probes: int = 0
    good_probes: int = 0
    probing: list[Admitted] = field(default_factory=list)
    way: Way | None = None
    #: When the dependency is asked next in the background, and what it is going to say.
    next_check: float | None = None
    is_well: bool = True
    #: The durations of good calls while it is closed: what is usual.
    durations: list[float] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)
    would_have_rejected: int = 0
    #: What is drawn for a period that has grown, so that a fleet does not come back at once.
    jitter: float = 1.0

    # What is asked of it

    def admits(self, now: float) -> Admitted | float | None:
        """Return the admission, or the seconds until there may be one; None if nobody knows."""
        self.look(now)
        if self.state == "closed":
            return Admitted(now, self.stretch)
        if self.state == "open":
            return None if self.forced else self.earliest(self.opened_until, now)
        if self.way is not None:
            if self.way.admits():
                return Admitted(now, self.stretch)
            return self.earliest(self.way.since + 0.25, now)
        if len(self.probing) == self.probes:
            return self.earliest(min(one.lease_ends for one in self.probing), now)
        lease = max(self.period, self.reset_timeout) or 1.0
        probe = Admitted(now, self.stretch, is_probe=True, lease_ends=now + lease)
        self.probing.append(probe)
        return probe

    def ended(self, call: Admitted, now: float, *, failed: bool) -> None:
        """Take note of a call that says something about the dependency."""
        self.look(now)
        if call.stretch != self.stretch:
            return
        seconds = now - call.began
        slow = self.slow_call_seconds is not None and seconds >= self.slow_call_seconds
        if self.way is not None:
            self.way.came_to(good=not failed and not slow and seconds <= self.most_usual())
            self.follow_way(now)
        elif not call.is_probe:
            if not failed:
                self.durations.append(seconds)
            self.counted(now, failed, slow)
        elif failed or slow:
            self.probe_failed(now)
        else:
            self.probing.remove(call)
            self.probe_succeeded(now)
        self.ask_from(now)

    def left(self, call: Admitted, now: float) -> None:
        """Take note of a call that says nothing: it was cancelled, or its error is excluded."""
        self.look(now)  # too late for a lease that has ended, whether or not somebody has looked
        if call in self.probing:
            self.probing.remove(call)

    def look(self, now: float) -> None:
        """Let the time pass until `now`, with all checks that are due."""
        while self.next_check is not None and self.next_check <= now:
            when = self.next_check
            self.pass_time(when)
            self.checked(when)
            self.next_check = when + (self.probe_every or 0)
            self.ask_from(when)
        self.pass_time(now)
        self.ask_from(now)

    def pass_time(self, now: float) -> None:
        if self.state == "open" and now >= self.opened_until:
            self.enter("half-open")
        elif self.state == "half-open":
            first = min((one.lease_ends for one in self.probing), default=inf)
            if now >= first:
                self.probe_failed(first)
            self.follow_way(now)
            if self.state == "open":
                self.pass_time(now)

    def checked(self, now: float) -> None:
        """Ask the dependency in the background."""
        if self.way is not None:
            self.way.checked(good=self.is_well)
            self.follow_way(now)
        elif self.is_well and self.state != "closed":
            if self.state == "open":
                self.enter("half-open")
            self.probe_succeeded(now)
        elif self.state == "half-open":
            self.probe_failed(now)

    def ask_from(self, now: float) -> None:
        """Begin to ask in the background, or stop."""
        if self.state == "closed" or self.forced or self.probe_every is None:
            self.next_check = None
        elif self.next_check is None:
            self.next_check = now + self.probe_every

    def earliest(self, when: float, now: float) -> float:
        """Return in how many seconds a call may pass: at `when`, or after the next check."""
        return max(0.0, (when if self.next_check is None else min(when, self.next_check)) - now)

    def most_usual(self) -> float:
        """Return the longest duration that is not unusual."""
        if not self.durations:
            return inf
        usual = sum(self.durations) / len(self.durations)
        return max(3 * usual, usual + 0.05)

    # What follows

    def counted(self, now: float, failed: bool, slow: bool) -> None:
        self.seen.append((now, failed, slow))
        self.in_a_row = self.in_a_row + 1 if failed else 0
        if not self.forced and self.trips(now, failed, slow):
            self.open(now)

    def trips(self, now: float, failed: bool, slow: bool) -> bool:
        calls, failures, slow_calls = self.in_window(now)
        if failed and self.fail_max is not None and self.in_a_row >= self.fail_max:
            return True
        if calls < self.min_calls:
            return False
        if failed and self.failure_rate is not None and failures / calls >= self.failure_rate:
            return True
        return (
            slow and self.slow_call_rate is not None and slow_calls / calls >= self.slow_call_rate
        )

    def in_window(self, now: float) -> tuple[int, int, int]:
        """Count the calls in the window, those of them that failed, and those that were slow."""
        if isinstance(self.window, int):
            inside = self.seen[-self.window :]
        else:  # in ten parts, of which the oldest leaves as a whole
            part = float(self.window.removesuffix("s")) / 10
            inside = [one for one in self.seen if one[0] // part > now // part - 10]
        return len(inside), sum(one[1] for one in inside), sum(one[2] for one in inside)

    def probe_succeeded(self, now: float) -> None:
        self.good_probes += 1
        if self.good_probes < self.success_threshold:
            return
        if self.ramp:
            self.stretch += 1
            self.probing.clear()
            self.way = Way(now)
        else:
            self.close()

    def follow_way(self, now: float) -> None:
        end = None if self.way is None else self.way.leads_to(now)
        if end == "closed":
            self.close()
        elif end == "open":
            self.probe_failed(now)

    def probe_failed(self, when: float) -> None:
        self.failed_probes += 1
        self.open(when)

    def open(self, now: float) -> None:
        self.enter("open")
        grown = min(self.max_reset_timeout, self.reset_timeout * 2**self.failed_probes)
        grows = self.failed_probes > 0 and self.max_reset_timeout > self.reset_timeout
        self.period = grown * self.jitter if grows else self.reset_timeout
        self.opened_until = now + self.period

    def close(self) -> None:
        self.enter("closed")
        self.failed_probes = 0
        self.forget()

    def forget(self) -> None:
        self.seen.clear()
        self.in_a_row = 0

    def enter(self, state: str) -> None:
        self.state = state
        self.stretch += 1
        self.good_probes = 0
        self.probing.clear()
        self.way = None
        self.changes.append(state)

    # By hand

    def force_open(self, now: float) -> None:
        self.open(now)
        self.forced = True
        self.opened_until = inf
        self.ask_from(now)

    def force_closed(self) -> None:
        self.reset()
        self.forced = True

    def reset(self) -> None:
        self.forced = False
        if self.state == "closed":
            self.forget()
        else:
            self.close()
        self.next_check = None


def chosen(draw: Any) -> dict[str, Any]:
    """Draw the settings of a breaker."""
    window = draw(st.sampled_from([1, 3, 6, "2s", "10s"]))
    kinds = draw(st.sets(st.sampled_from(["row", "rate", "slow"]), min_size=1))
    reset_timeout = draw(st.sampled_from([0, 1, 2, 2, 4]))
    rates = st.sampled_from([0.3, 0.5, 1.0])
    return {
        "fail_max": draw(st.integers(1, 3)) if "row" in kinds else None,
        "failure_rate": draw(rates) if "rate" in kinds else None,
        "slow_call_rate": draw(rates) if "slow" in kinds else None,
        "slow_call_seconds": draw(st.sampled_from([0.5, 1.5])) if "slow" in kinds else None,
        "window": window,
        "min_calls": draw(st.integers(1, 4 if isinstance(window, str) else window)),
        "reset_timeout": reset_timeout,
        "max_reset_timeout": draw(st.sampled_from([reset_timeout, 4, 8])),
        "probes": draw(st.integers(1, 3)),
        "success_threshold": draw(st.integers(1, 3)),
        "ramp": draw(st.booleans()),
        "probe_every": draw(st.sampled_from([None, None, 0.5, 1.5])),
        "mode": draw(st.sampled_from(["enforce", "enforce", "enforce", "shadow"])),
    }


class Drawn:
    """Stands for `random` where the breaker draws how much shorter a period is that has grown."""

    def __init__(self, part: float) -> None:
        self.part = part

    def uniform(self, least: float, most: float) -> float:
        assert 0.8 == least <= self.part <= most == 1.0
        return self.part


class Breaker(RuleBasedStateMachine):
    """The real breaker and the model, through the same calls at the same times."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.patch = pytest.MonkeyPatch()
        #: The calls that are at the dependency, with their admissions in the model.
        self.calls: list[tuple[Running, Admitted | None]] = []

    @initialize(data=st.data())
    def made(self, data: st.DataObject) -> None:
        rules = chosen(data.draw)
        drawn = data.draw(st.sampled_from([0.8, 0.875, 1.0]))
        self.patch.setattr(circuit, "random", Drawn(drawn))
        self.hands_on = data.draw(st.sampled_from([False, False, True]))
        self.model = Model(**rules, jitter=drawn)
        if rules["probe_every"] is None:
            del rules["probe_every"]
        else:
            rules["probe"] = lambda: self.model.is_well
        self.real = CircuitBreaker(f"model {next(numbers)}", exclude=[Excluded], **rules)

        @self.real
        async def guarded(running: Running) -> Any:
            return await running.dependency()

        self.guarded = guarded

    def same(self) -> None:
        """Compare all that there is to see."""
        now, real, model = self.world.now, self.real, self.model
        model.look(now)
        assert real.current_state == model.state
        left = real.retry_after
        if model.state != "open" or model.forced:
            assert left is None
        else:
            assert left == model.earliest(model.opened_until, now)
        calls, failures, slow = model.in_window(now)
        assert real.failure_rate == (failures / calls if calls else 0.0)
        assert real.slow_call_rate == (slow / calls if calls else 0.0)
        assert real.fail_counter == model.in_a_row
        assert real.success_counter == model.good_probes
        assert real.would_have_rejected == model.would_have_rejected
        assert real.transitions == {
            state: model.changes.count(state) for state in ("closed", "open", "half-open")
        }

    @rule(number=st.sampled_from([1, 1, 2, 4]))
    def calls_begin(self, number: int) -> None:
        for _ in range(number):
            self.call()

    def call(self) -> None:
        if len(self.model.durations) >= MOST_LEARNED:
            return
        now = self.world.tick()
        admitted = self.model.admits(now)
        running = self.world.begin(self.guarded)
        if isinstance(admitted, Admitted):
            assert running.reached
            self.calls.append((running, admitted))
        elif self.model.mode == "shadow":
            assert running.reached
            self.model.would_have_rejected += 1
            self.calls.append((running, None))
        else:
            assert not running.reached
            assert isinstance(running.error, CircuitOpen)
            assert running.error.retry_after == admitted
        self.same()

    @precondition(lambda self: self.calls)
    @rule(which=st.integers(0, 9), how=st.sampled_from(HOW))
    def call_ends(self, which: int, how: str) -> None:
        self.end(which, how)

    @precondition(lambda self: len(self.calls) > 1)
    @rule(number=st.integers(2, 4))
    def newest_fail(self, number: int) -> None:
        """What opens most circuits; the older ones end in another stretch of its life."""
        for _ in range(min(number, len(self.calls))):
            self.end(-1, "failed")

    def end(self, which: int, how: str) -> None:
        now = self.world.tick()
        running, admitted = self.calls.pop(which % len(self.calls) if which >= 0 else -1)
        if admitted and abs(now - admitted.began - self.model.most_usual()) < 1e-9:
            now = self.world.tick()  # which of the two it is depends on how a mean is rounded
        if how == "cancelled":
            assert running.task is not None
            running.task.cancel()
        else:
            running.end({"well": "answer", "failed": Failed(), "excluded": Excluded()}[how])
        self.world.settle()
        if admitted is None:
            pass
        elif how in ("well", "failed"):
            self.model.ended(admitted, now, failed=how == "failed")
        else:
            self.model.left(admitted, now)
        assert running.ended
        assert (
            type(running.error).__name__
            == {
                "well": "NoneType",
                "failed": "Failed",
                "excluded": "Excluded",
                "cancelled": "CancelledError",
            }[how]
        )
        self.same()

    @rule(seconds=st.sampled_from([0.25, 0.5, 1.0, 2.0, 4.0, 20.0]), seen=st.booleans())
    def time_passes(self, seconds: float, seen: bool) -> None:
        """Where nobody looks meanwhile, what it has changed shows with the next action."""
        self.world.pass_time(seconds)
        if seen:
            self.same()

    @precondition(lambda self: self.model.state == "open" and not self.model.forced)
    @rule()
    def period_ends(self) -> None:
        """To the moment: the next call is a probe."""
        self.same()
        self.world.pass_time(max(0.0, self.model.opened_until - self.world.now))
        self.call()

    @precondition(lambda self: self.model.next_check is not None)
    @rule(well=st.booleans())
    def checked(self, well: bool) -> None:
        """To the moment at which the dependency is asked in the background."""
        self.same()
        self.model.is_well = well
        if self.model.next_check is not None:
            self.world.pass_time(self.model.next_check - self.world.now)
        self.same()

    @precondition(lambda self: self.model.ramp and self.model.state == "open")
    @precondition(lambda self: not self.model.forced)
    @rule()
    def way_back_begins(self) -> None:
        """With as many probes as it takes, all of which are well."""
        self.same()
        self.world.pass_time(max(0.0, self.model.opened_until - self.world.now))
        for _ in range(self.model.success_threshold):
            self.call_that_ends("well")

    @precondition(lambda self: self.model.way is not None)
    @rule(number=st.sampled_from([0, 1, 10, 11, 14]), failing=st.integers(0, 3))
    def quarter_of_a_second_passes(self, number: int, failing: int) -> None:
        """With calls that end at once, the first of which fail, and another share of the next."""
        for call in range(number):
            self.call_that_ends("failed" if call < failing else "well")
        self.world.pass_time(0.25)
        self.same()

    def call_that_ends(self, how: str) -> None:
        before = len(self.calls)
        self.call()
        if len(self.calls) > before:
            self.end(-1, how)

    @precondition(lambda self: self.hands_on)
    @rule(how=st.sampled_from(["force_open", "force_closed", "reset", "reset"]))
    def by_hand(self, how: str) -> None:
        now = self.world.tick()
        self.same()
        getattr(self.real, how)()
        if how == "force_open":
            self.model.force_open(now)
        else:
            getattr(self.model, how)()
        self.same()

    def teardown(self) -> None:
        self.patch.undo()
        self.world.close()
        if hasattr(self, "guarded"):
            assert pipeline_of(self.guarded).measures.name == self.real.name


def test_a_breaker_does_what_its_page_says() -> None:
    """Through any history of calls that overlap, breaker and model agree on all that is seen."""
    run_state_machine_as_test(Breaker, settings=examples(40))
