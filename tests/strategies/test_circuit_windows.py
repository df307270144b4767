"""The windows of a circuit breaker: what a rate is a rate of, and what a call in it costs."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient import CircuitBreaker
from resilient.strategies.breaker import window
from resilient.strategies.breaker.window import CountWindow, TimeWindow, Window
from resilient.testing import VirtualTime
from tests.circuits import WAYS, Upstream, outcome_of, outcomes_of


@pytest.fixture
def upstream(virtual_time: VirtualTime) -> Upstream:
    """A dependency in virtual time."""
    return Upstream(virtual_time)


def after(call: Callable[[], Any], upstream: Upstream, *, good: int, bad: int) -> None:
    """Make so many calls that answer, and then so many that fail."""
    upstream.up()
    outcomes_of(call, good)
    upstream.down()
    outcomes_of(call, bad)


# Rates


@pytest.mark.parametrize("way", WAYS)
def test_a_rate_opens_the_circuit_at_its_threshold_and_not_above_it(
    upstream: Upstream, way: str
) -> None:
    """With failure_rate=0.5, nine failures of nineteen are too few and ten of twenty enough."""
    breaker = CircuitBreaker(failure_rate=0.5, window=100, min_calls=10)
    call = upstream.guarded(breaker, way)
    after(call, upstream, good=10, bad=9)
    assert breaker.current_state == "closed"

    outcome_of(call)
    assert breaker.current_state == "open"


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 100).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))))
def test_a_rate_is_met_exactly_whatever_fraction_it_is(fraction: tuple[int, int]) -> None:
    """7 failures of 100 calls are a rate of 0.07, though 0.07 * 100 is more than 7."""
    calls, failures = fraction
    with VirtualTime() as virtual_time:
        upstream = Upstream(virtual_time)
        breaker = CircuitBreaker(failure_rate=failures / calls, window=calls, min_calls=calls)
        call = upstream.guarded(breaker)
        after(call, upstream, good=calls - failures, bad=failures - 1)
        assert breaker.current_state == "closed"
        upstream.down()
        outcome_of(call)
        assert breaker.current_state == "open"


@pytest.mark.parametrize(("rate", "failures"), [(0.07, 7), (0.14, 14), (0.28, 28), (0.55, 55)])
def test_a_rate_as_one_writes_it_is_met_by_as_many_of_a_hundred(
    upstream: Upstream, rate: float, failures: int
) -> None:
    """The threshold is what was written, not the next number that a computer can hold."""
    breaker = CircuitBreaker(failure_rate=rate, window=100, min_calls=100)
    call = upstream.guarded(breaker)
    after(call, upstream, good=100 - failures, bad=failures)

    assert breaker.current_state == "open"


def test_below_min_calls_a_rate_says_nothing(upstream: Upstream) -> None:
    """Nine failures of nine calls are no reason where ten calls are asked for."""
    breaker = CircuitBreaker(failure_rate=0.5, min_calls=10)
    call = upstream.guarded(breaker)

    after(call, upstream, good=0, bad=9)
    assert breaker.current_state == "closed"
    outcome_of(call)
    assert breaker.current_state == "open"


def test_ten_calls_are_asked_for_unless_it_is_said_otherwise(upstream: Upstream) -> None:
    """min_calls is 10, or the whole of a window that is smaller."""
    for size, needed in ((100, 10), ("10s", 10), (4, 4)):
        breaker = CircuitBreaker(failure_rate=1.0, window=size)
        call = upstream.guarded(breaker, "call")
        after(call, upstream, good=0, bad=needed - 1)
        assert breaker.current_state == "closed"
        outcome_of(call)
        assert breaker.current_state == "open"


def test_a_success_never_opens_the_circuit(upstream: Upstream) -> None:
    """The tenth call makes the rate a rate; only the next failure may decide by it."""
    breaker = CircuitBreaker(failure_rate=0.5, min_calls=10)
    call = upstream.guarded(breaker)
    upstream.down()
    outcomes_of(call, 9)
    upstream.up()

    outcome_of(call)
    assert breaker.failure_rate == 0.9
    assert breaker.current_state == "closed"

    upstream.down()
    outcome_of(call)
    assert breaker.current_state == "open"


def test_successes_before_a_failure_count_before_it(upstream: Upstream) -> None:
    """Those that wait in the journal of the fast lane are in the rate when a failure decides."""
    breaker = CircuitBreaker(failure_rate=0.5, window=1000, min_calls=2)
    call = upstream.guarded(breaker)

    after(call, upstream, good=100, bad=99)
    assert breaker.current_state == "closed"
    outcome_of(call)
    assert breaker.current_state == "open"


def test_successes_of_all_that_it_guards_count(upstream: Upstream) -> None:
    """The journals of other functions of the same breaker are looked at as well."""
    breaker = CircuitBreaker(failure_rate=0.5, window=1000, min_calls=2)
    one, other = upstream.guarded(breaker), upstream.guarded(breaker, "decorated async")
    outcomes_of(one, 50)
    outcomes_of(other, 50)

    assert breaker.failure_rate == 0.0
    upstream.down()
    outcomes_of(one, 99)
    assert breaker.current_state == "closed"


def test_the_failure_rate_can_be_read_at_any_time(upstream: Upstream) -> None:
    """It is that of the window now, whatever has not been settled yet."""
    breaker = CircuitBreaker(failure_rate=0.9, window=10, min_calls=10)
    call = upstream.guarded(breaker)
    assert breaker.failure_rate == 0.0
    after(call, upstream, good=3, bad=1)

    assert breaker.failure_rate == 0.25


# Slow calls


@pytest.mark.parametrize("way", WAYS)
def test_slow_successes_open_the_circuit(upstream: Upstream, way: str) -> None:
    """At a rate of half, the fifth slow call of ten opens it, though none has failed."""
    breaker = CircuitBreaker(slow_call_rate=0.5, slow_call_seconds=2, min_calls=10)
    call = upstream.guarded(breaker, way)
    outcomes_of(call, 5)
    upstream.seconds = 2.0
    assert outcomes_of(call, 5) == ["answered"] * 5

    assert breaker.slow_call_rate == 0.5
    assert breaker.failure_rate == 0.0
    assert breaker.current_state == "open"
    assert outcome_of(call) == "rejected"


def test_quick_successes_before_a_slow_one_count_before_it(upstream: Upstream) -> None:
    """Ten slow calls after ninety quick ones are a tenth of the calls, and not all of them."""
    breaker = CircuitBreaker(slow_call_rate=0.5, slow_call_seconds=2, min_calls=10)
    call = upstream.guarded(breaker)
    outcomes_of(call, 90)
    upstream.seconds = 2.0
    outcomes_of(call, 10)

    assert breaker.current_state == "closed"
    assert breaker.slow_call_rate == 0.1


def test_a_call_is_slow_from_its_threshold_on(upstream: Upstream) -> None:
    """A call of exactly slow_call_seconds is slow, a shorter one is not."""
    breaker = CircuitBreaker(slow_call_rate=1.0, slow_call_seconds=2, window=10)
    call = upstream.guarded(breaker)
    upstream.seconds = 1.875
    outcome_of(call)
    assert breaker.slow_call_rate == 0.0
    upstream.seconds = 2.0
    outcome_of(call)

    assert breaker.slow_call_rate == 0.5


def test_a_slow_failure_is_both(upstream: Upstream) -> None:
    """It counts for either rate."""
    breaker = CircuitBreaker(
        failure_rate=1.0, slow_call_rate=1.0, slow_call_seconds=2, min_calls=10
    )
    call = upstream.guarded(breaker)
    upstream.seconds = 3.0
    after(call, upstream, good=1, bad=1)

    assert breaker.slow_call_rate == 1.0
    assert breaker.failure_rate == 0.5


def test_quick_failures_do_not_open_a_circuit_that_minds_slow_calls_only(
    upstream: Upstream,
) -> None:
    """Only the rate that is set is looked at."""
    breaker = CircuitBreaker(slow_call_rate=0.5, slow_call_seconds=2, min_calls=10)
    call = upstream.guarded(breaker)
    upstream.down()

    assert outcomes_of(call, 50) == ["ConnectionError"] * 50


def test_a_slow_probe_is_no_recovery(upstream: Upstream) -> None:
    """A dependency that is as slow as when the circuit opened is not back."""
    breaker = CircuitBreaker(
        slow_call_rate=0.5, slow_call_seconds=2, min_calls=10, reset_timeout=10
    )
    call = upstream.guarded(breaker)
    upstream.seconds = 3.0
    outcomes_of(call, 10)
    upstream.time.advance(10)

    assert outcome_of(call) == "answered"
    assert breaker.current_state == "open"
    upstream.seconds = 0.5
    upstream.time.advance(10)
    outcome_of(call)
    assert breaker.current_state == "closed"


# The window of the last calls


def test_a_window_of_calls_forgets_the_oldest(upstream: Upstream) -> None:
    """Failures that ten calls have followed are not in a window of ten."""
    breaker = CircuitBreaker(failure_rate=0.5, window=10, min_calls=10)
    call = upstream.guarded(breaker)
    after(call, upstream, good=6, bad=4)
    after(call, upstream, good=10, bad=4)

    assert breaker.failure_rate == 0.4
    assert breaker.current_state == "closed"


def test_time_does_not_matter_to_a_window_of_calls(upstream: Upstream) -> None:
    """A failure of yesterday is still one of the last ten calls."""
    breaker = CircuitBreaker(failure_rate=0.9, window=10)
    call = upstream.guarded(breaker)
    after(call, upstream, good=1, bad=1)
    upstream.time.advance(86_400)

    assert breaker.failure_rate == 0.5


class Model:
    """The last so many calls, as slow and as plain as can be."""

    def __init__(self, size: int) -> None:
        self.kept: deque[tuple[bool, bool]] = deque(maxlen=size)

    def counts(self) -> tuple[int, int, int]:
        return (
            len(self.kept),
            sum(failed for failed, _ in self.kept),
            sum(slow for _, slow in self.kept),
        )


def counts_of(counted: Window) -> tuple[int, int, int]:
    """Return the calls, failures and slow calls of a window."""
    return counted.calls, counted.failures, counted.slow


CALLS = st.one_of(st.tuples(st.booleans(), st.booleans()), st.integers(min_value=1, max_value=60))


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 40), st.lists(CALLS, max_size=40))
def test_a_window_of_calls_counts_what_a_plain_list_would(size: int, calls: list[Any]) -> None:
    """However single calls and batches of successes follow on each other."""
    counted, model = CountWindow(size), Model(size)
    for call in calls:
        if isinstance(call, int):
            counted.add_successes(call, 0.0)
            model.kept.extend([(False, False)] * call)
        else:
            failed, slow = call
            counted.add(0.0, failed=failed, slow=slow)
            model.kept.append(call)
        assert counts_of(counted) == model.counts()


# The window of the last seconds


def test_a_window_of_time_forgets_what_is_older(upstream: Upstream) -> None:
    """After ten seconds a failure has left a window of ten seconds."""
    breaker = CircuitBreaker(failure_rate=0.9, window="10s", min_calls=100)
    call = upstream.guarded(breaker)
    after(call, upstream, good=1, bad=1)
    upstream.time.advance(8.9)
    assert breaker.failure_rate == 0.5

    upstream.time.advance(1.1)
    assert breaker.failure_rate == 0.0


def test_successes_leave_a_window_of_time_as_well(upstream: Upstream) -> None:
    """A thousand successes of a minute ago do not hide ten failures of now."""
    breaker = CircuitBreaker(failure_rate=0.5, window="10s", min_calls=10)
    call = upstream.guarded(breaker)
    outcomes_of(call, 1000)
    upstream.time.advance(60)
    upstream.down()

    assert outcomes_of(call, 11) == ["ConnectionError"] * 10 + ["rejected"]


def test_successes_of_the_fast_lane_are_placed_when_they_were(upstream: Upstream) -> None:
    """A journal that is settled late does not make old successes young."""
    breaker = CircuitBreaker(failure_rate=0.5, window="10s", min_calls=10)
    call = upstream.guarded(breaker)
    outcomes_of(call, 20)
    upstream.time.advance(9)
    outcomes_of(call, 5)
    upstream.time.advance(2)
    upstream.down()

    assert outcomes_of(call, 6) == ["ConnectionError"] * 5 + ["rejected"]


def test_a_failure_among_many_is_not_one_among_few(upstream: Upstream) -> None:
    """In steady traffic the rate is that of the whole window, not of its newest part."""
    breaker = CircuitBreaker(failure_rate=0.5, window="10s", min_calls=10)
    call = upstream.guarded(breaker)
    for _ in range(9):
        upstream.up()
        outcomes_of(call, 10)
        upstream.time.advance(1)
    after(call, upstream, good=0, bad=20)

    assert breaker.current_state == "closed"
    assert breaker.failure_rate == pytest.approx(20 / 110)


@pytest.mark.parametrize(
    ("written", "seconds"), [("500ms", 0.5), ("10s", 10), ("5m", 300), ("1h", 3600), ("1.5s", 1.5)]
)
def test_a_length_of_time_is_written_with_its_unit(
    upstream: Upstream, written: str, seconds: float
) -> None:
    """Milliseconds, seconds, minutes and hours."""
    breaker = CircuitBreaker(failure_rate=0.9, window=written)
    call = upstream.guarded(breaker)
    after(call, upstream, good=0, bad=1)
    upstream.time.advance(seconds * 0.89)
    assert breaker.failure_rate == 1.0
    upstream.time.advance(seconds * 0.11)
    assert breaker.failure_rate == 0.0


def test_a_call_that_ended_before_the_window_is_not_in_it() -> None:
    """As one that is told of late, by a thread that had to wait."""
    counted = TimeWindow(10.0)
    for moment in (1020.0, 1011.0, 1010.9, 1000.0):
        counted.add(moment, failed=True, slow=False)
    assert counts_of(counted) == (2, 2, 0)


TIMED_CALLS = st.tuples(
    st.integers(min_value=0, max_value=30),
    st.one_of(
        st.tuples(st.booleans(), st.booleans()),
        st.tuples(st.integers(1, 20), st.integers(0, 15)),
    ),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(TIMED_CALLS, max_size=40))
def test_a_window_of_time_counts_the_last_ten_parts(calls: list[Any]) -> None:
    """The newest tenth of the window and the nine before, also of what it is told of late."""
    counted, now, newest = TimeWindow(10.0), 1000.0, 1000
    kept: list[tuple[int, bool, bool]] = []
    for quarters, call in calls:
        now += quarters / 4
        if isinstance(call[0], bool):
            failed, slow = call
            counted.add(now, failed=failed, slow=slow)
            kept.append((int(now), failed, slow))
            newest = max(newest, int(now))
        else:
            number, late = call
            counted.add_successes(number, now - late)
            kept += [(int(now - late), False, False)] * number
            newest = max(newest, int(now - late)) if len(kept) > number else int(now - late)
        inside = [one for one in kept if one[0] > newest - 10]
        assert counts_of(counted) == (
            len(inside),
            sum(failed for _, failed, _ in inside),
            sum(slow for _, _, slow in inside),
        )


# What a call costs


def operations(action: Callable[[], object]) -> int:
    """Return how many lines of the windows' own code run during `action`."""
    lines = 0

    def trace(frame: Any, event: str, _: Any) -> Any:
        nonlocal lines
        if frame.f_code.co_filename != window.__file__:  # a collector may come in between
            return None
        lines += event == "line"
        return trace

    outer = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(outer)
    return lines


def filled(make: Callable[[float], Window], size: float) -> Window:
    """Return a window that is full, every third call of it failed."""
    full = make(size)
    for number in range(20_000):
        full.add(1000.0 + number * 0.001, failed=number % 3 == 0, slow=False)
    return full


@pytest.mark.parametrize("make", [CountWindow, TimeWindow])
def test_a_window_a_thousand_times_as_long_takes_no_more_operations(make: Any) -> None:
    """One call is counted by the same number of lines in a window of 10 and of 10,000."""
    short, long = filled(make, 10), filled(make, 10_000)
    later = 1000.0 + 20.0

    for count in (
        lambda full: full.add(later, failed=True, slow=False),
        lambda full: full.add(later, failed=False, slow=True),
        lambda full: full.advance(later),
        lambda full: full.add_successes(5, later),
    ):
        # Now and then a call takes a few more, as where the ring begins again; as many for each.
        most = [max(operations(partial(count, one)) for _ in range(20)) for one in (short, long)]
        assert most[1] <= most[0]


@pytest.mark.parametrize("make", [CountWindow, TimeWindow])
def test_a_window_a_thousand_times_as_long_takes_no_more_time(make: Any) -> None:
    """Nothing that is hidden in one operation grows with the window: less than 4 times the time."""
    short, long = filled(make, 10), filled(make, 10_000)

    def seconds(full: Window) -> float:
        began = time.perf_counter()
        for _ in range(2000):
            full.add(1020.0, failed=True, slow=False)
        return time.perf_counter() - began

    def best(full: Window) -> float:
        return min(seconds(full) for _ in range(7))

    assert best(long) < 4 * best(short)


def test_an_idle_breaker_with_a_long_window_costs_no_memory() -> None:
    """A window of a million calls is as small as one of ten before there are calls."""
    assert sys.getsizeof(CountWindow(1_000_000)._ring) == sys.getsizeof(CountWindow(10)._ring)
