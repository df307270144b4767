"""The circuit by itself, call by call: what it decides, when, and what it says about it."""

from __future__ import annotations

import dataclasses
import random
from math import inf
from typing import Any

import pytest

from resilient.strategies.breaker.admission import Refusal
from resilient.strategies.breaker.circuit import Circuit
from resilient.strategies.breaker.rules import rules_of, window_of
from resilient.strategies.breaker.states import Change
from tests.doubles import each

SETTINGS: dict[str, Any] = {
    "fail_max": None,
    "failure_rate": None,
    "slow_call_rate": None,
    "slow_call_seconds": None,
    "window": 10,
    "min_calls": None,
    "reset_timeout": 10,
    "max_reset_timeout": None,
    "probes": 1,
    "success_threshold": 1,
    "ramp": False,
}
LEASE = 5.0


def made(**settings: Any) -> Circuit:
    """Return a circuit that is closed."""
    chosen = SETTINGS | settings
    return Circuit(rules_of(**chosen), window_of(chosen["window"]))


def opened(**settings: Any) -> Circuit:
    """Return a circuit that a failure has opened at 0, for ten seconds."""
    circuit = made(**{"fail_max": 1, **settings})
    call(circuit, 0.0, failed=True)
    assert (circuit.state, circuit.until) == ("open", circuit.rules.reset_timeout)
    return circuit


def ramping(**settings: Any) -> Circuit:
    """Return a circuit that a probe has brought on the way back at 10."""
    circuit = opened(ramp=True, **settings)
    call(circuit, 10.0)
    assert circuit.ramp is not None
    return circuit


def asked(circuit: Circuit, now: float) -> tuple[Any, list[Change]]:
    """Ask for a call at `now`; return the permission or the refusal, and what has changed."""
    return circuit.admit(now, LEASE)


def admit(circuit: Circuit, now: float) -> Any:
    """Return the permission or the refusal of a call at `now`."""
    return asked(circuit, now)[0]


def call(
    circuit: Circuit, now: float, *, failed: bool = False, seconds: float = 0.0
) -> list[tuple[str, str]]:
    """Make a call that must be let in and ends at once; return what has changed, and why."""
    admission, before = asked(circuit, now)
    assert hasattr(admission, "generation"), "the call was not let in"
    _, after = circuit.record(admission, now, seconds, failed=failed, in_a_row=0)
    return [(change.new, change.reason) for change in (*before, *after)]


def changes(result: tuple[Any, list[Any]]) -> list[tuple[str, str]]:
    """Return what has changed, and why."""
    return [(change.new, change.reason) for change in result[1]]


# Closed


def test_a_new_circuit_lets_all_in_and_has_nothing_to_tell() -> None:
    """It begins closed, with nothing counted, and nobody is a probe."""
    circuit = made(fail_max=5)
    admission, told = asked(circuit, 0.0)
    assert (circuit.state, circuit.forced, circuit.ramp, told) == ("closed", False, None, [])
    assert (admission.is_probe, admission.is_ramp, admission.expires) == (False, False, inf)
    assert not circuit.is_probing(admission)
    assert circuit.admitted_at(0.0) is not None
    assert not circuit.wants_probes()
    assert (circuit.until, circuit.period) == (-inf, 0.0)
    assert (circuit.generation, circuit.consecutive, circuit.successes) == (0, 0, 0)


def test_what_runs_under_the_lock_is_still_known_by_its_name() -> None:
    """A traceback, a profile and `help` show the method, and not what locks."""
    assert Circuit.admit.__name__ == "admit"
    assert "permission" in str(Circuit.admit.__doc__)


def test_failures_in_a_row_open_it_and_a_success_between_them_does_not() -> None:
    """Only the third of three in a row opens the circuit."""
    circuit = made(fail_max=3)
    for failed in (True, True, False, True, True):
        assert call(circuit, 1.0, failed=failed) == []
    assert circuit.consecutive == 2
    assert call(circuit, 1.0, failed=True) == [("open", "consecutive_failures")]


def test_a_success_of_the_fast_lane_ends_a_row_as_well() -> None:
    """A batch of successes is in the window, and no failure before it is in a row any more."""
    circuit = made(fail_max=2)
    call(circuit, 1.0, failed=True)
    circuit.absorb(3, 0.3, 2.0)
    assert circuit.consecutive == 0
    assert (circuit.window.calls, circuit.window.failures) == (4, 1)
    assert call(circuit, 3.0, failed=True) == []


def test_failures_in_a_row_that_others_have_seen_count() -> None:
    """Of three in a row that others know of this is the third; fewer than known change nothing."""
    circuit = made(fail_max=4)
    circuit.record(admit(circuit, 1.0), 1.0, 0.0, failed=True, in_a_row=3)
    assert circuit.consecutive == 3
    circuit.record(admit(circuit, 1.0), 1.0, 0.0, failed=True, in_a_row=1)
    assert (circuit.consecutive, circuit.state) == (4, "open")


@pytest.mark.parametrize(
    ("calls", "opens"),
    [("..FF", True), (".F.F", True), ("FFF.", False), ("F..F", True), ("...F", False)],
)
def test_a_rate_opens_it_at_its_threshold_when_a_failure_is_recorded(
    calls: str, opens: bool
) -> None:
    """Half of four calls is enough; a success that completes the four decides nothing."""
    circuit = made(failure_rate=0.5, min_calls=4)
    found = [call(circuit, 1.0, failed=one == "F") for one in calls]
    assert found == [[], [], [], [("open", "failure_rate")] if opens else []]


def test_a_rate_waits_for_the_least_number_of_calls() -> None:
    """Three failures of three decide nothing where four calls are the least."""
    circuit = made(failure_rate=0.5, min_calls=4)
    assert [call(circuit, 1.0, failed=True) for _ in range(3)] == [[]] * 3
    assert call(circuit, 1.0, failed=True) == [("open", "failure_rate")]


def test_slow_calls_open_it_at_their_rate_and_from_their_length_on() -> None:
    """What takes exactly the limit is slow; whether it fails does not matter."""
    circuit = made(slow_call_rate=0.5, slow_call_seconds=2, min_calls=4)
    for seconds, failed in ((1.99, False), (1.99, True), (2.0, True)):
        assert call(circuit, 1.0, seconds=seconds, failed=failed) == []
    assert call(circuit, 1.0, seconds=2.0) == [("open", "slow_call_rate")]


@pytest.mark.parametrize(
    ("calls", "opens"), [("..SS", True), ("S..S", True), ("SSS.", False), ("...S", False)]
)
def test_a_rate_of_slow_calls_opens_it_when_a_slow_call_is_recorded(
    calls: str, opens: bool
) -> None:
    """Half of four calls is enough; a quick one that completes the four decides nothing."""
    circuit = made(slow_call_rate=0.5, slow_call_seconds=2, min_calls=4)
    found = [call(circuit, 1.0, seconds=2.0 if one == "S" else 0.0) for one in calls]
    assert found == [[], [], [], [("open", "slow_call_rate")] if opens else []]


def test_failures_do_not_count_where_only_slow_calls_do() -> None:
    """A rate that was not given opens nothing, whatever the other one is."""
    slow_only = made(slow_call_rate=0.5, slow_call_seconds=2, min_calls=2)
    assert [call(slow_only, 1.0, failed=True) for _ in range(9)] == [[]] * 9
    rate_only = made(failure_rate=0.5, min_calls=2)
    assert [call(rate_only, 1.0, seconds=99.0) for _ in range(9)] == [[]] * 9


def test_a_rate_of_all_calls_counts_the_same_as_a_lower_one() -> None:
    """Seven of a hundred calls are seven hundredths, in floating point too."""
    circuit = made(failure_rate=0.07, window=100, min_calls=100)
    for _ in range(93):
        call(circuit, 1.0)
    for _ in range(6):
        assert call(circuit, 1.0, failed=True) == []
    assert call(circuit, 1.0, failed=True) == [("open", "failure_rate")]


def test_opening_says_what_it_was_for() -> None:
    """The failures and calls that opened it, since when, and for how long it is open."""
    circuit = made(fail_max=3)
    call(circuit, 1.0, failed=True)
    call(circuit, 2.0, failed=True)
    _, [change] = circuit.record(admit(circuit, 4.0), 4.0, 0.0, failed=True, in_a_row=0)
    assert (change.old, change.new, change.period) == ("closed", "open", 10)
    assert (change.since_first_failure, change.detected_after) == (3.0, 3.0)
    assert (change.failures, change.calls) == (3, 3)


@each(
    "settings, failed, seconds, expected",
    {
        "failures": ({"failure_rate": 0.5, "min_calls": 4}, True, 0.0, (2, 4)),
        "slow calls": (
            {"slow_call_rate": 0.5, "slow_call_seconds": 1, "min_calls": 4},
            False,
            1.0,
            (2, 4),
        ),
    },
)
def test_opening_by_a_rate_says_how_many_of_how_many(
    settings: dict[str, Any], failed: bool, seconds: float, expected: tuple[int, int]
) -> None:
    """The window is told as it was when it opened the circuit."""
    circuit = made(**settings)
    for _ in range(2):
        call(circuit, 1.0)
    call(circuit, 2.0, failed=failed, seconds=seconds)
    _, [change] = circuit.record(admit(circuit, 3.0), 3.0, seconds, failed=failed, in_a_row=0)
    assert (change.failures, change.calls) == expected
    assert change.since_first_failure == 1.0


def test_the_outage_began_with_the_failures_that_opened_it_not_with_a_stray_one() -> None:
    """One failure long ago among many successes is not the first of this outage."""
    circuit = made(failure_rate=0.5, window=10, min_calls=4)
    call(circuit, 1.0, failed=True)
    circuit.absorb(30, 3.0, 2.0)
    for now in (50.0, 51.0, 52.0, 53.0):
        assert call(circuit, now, failed=True) == []
    _, [change] = circuit.record(admit(circuit, 54.0), 54.0, 0.0, failed=True, in_a_row=0)
    assert change.since_first_failure == 4.0


@each(
    "settings, calls, since",
    {
        "failures in a row": ({"fail_max": 3}, "F.FFF", 4.0),
        "stray, then in a row": ({"fail_max": 3}, "F.....FFF", 2.0),
        "a rate": ({"failure_rate": 0.5, "min_calls": 4}, "F..F", 3.0),
        "stray, then a rate": ({"failure_rate": 0.9}, f"F{'.' * 14}{'F' * 9}", 8.0),
        "a lower rate": ({"failure_rate": 0.2, "min_calls": 9}, "F.......F", 8.0),
    },
)
def test_an_outage_began_where_half_as_many_calls_failed_as_it_takes(
    settings: dict[str, Any], calls: str, since: float
) -> None:
    """Calls a second apart: the lower the rate that opens it, the further back it began."""
    circuit = made(**settings)
    for second, one in enumerate(calls[:-1]):
        assert call(circuit, float(second), failed=one == "F") == []
    end = float(len(calls) - 1)
    _, [change] = circuit.record(admit(circuit, end), end, 0.0, failed=True, in_a_row=0)
    assert change.since_first_failure == since


def test_the_next_outage_has_a_beginning_of_its_own() -> None:
    """What failed before a recovery is not the first failure of what comes after it."""
    circuit = made(fail_max=3)
    for now in (1.0, 2.0, 3.0):
        call(circuit, now, failed=True)
    call(circuit, 13.0)
    call(circuit, 20.0, failed=True)
    call(circuit, 21.0, failed=True)
    _, [change] = circuit.record(admit(circuit, 22.0), 22.0, 0.0, failed=True, in_a_row=0)
    assert change.since_first_failure == 2.0


# Open


def test_while_it_is_open_nobody_is_let_in_and_everybody_told_for_how_long() -> None:
    """The time is exact, and from its end on a call is let in."""
    circuit = opened()
    assert (circuit.period, circuit.until, circuit.since) == (10, 10, 0)
    assert admit(circuit, 0.0).retry_after == 10.0
    assert admit(circuit, 9.75).retry_after == 0.25
    assert circuit.state == "open"
    assert circuit.admitted_at(9.75) is None
    assert circuit.wants_probes()
    admission, [change] = asked(circuit, 10.0)
    assert (change.old, change.new, change.reason) == ("open", "half-open", "reset_timeout")
    assert admission.is_probe
    assert circuit.until == -inf


def test_what_was_let_in_before_it_opened_decides_nothing_afterwards() -> None:
    """Neither a late failure nor a late success changes anything, now or in half-open."""
    circuit = made(fail_max=1)
    late = [admit(circuit, 0.0) for _ in range(4)]
    call(circuit, 0.0, failed=True)
    for now in (5.0, 10.0):
        for failed in (True, False):
            told = changes(circuit.record(late.pop(), now, 5.0, failed=failed, in_a_row=0))
            assert told == []
    assert (circuit.until, circuit.window.calls) == (10.0, 1)
    assert circuit.look(10.0)[0] == "half-open"


def test_looking_changes_it_when_its_time_has_come() -> None:
    """No call is needed for the state to be seen, and the window forgets what is too old."""
    circuit = opened()
    assert circuit.look(9.9) == ("open", [])
    state, told = circuit.look(10.0)
    assert (state, [change.reason for change in told]) == ("half-open", ["reset_timeout"])
    aging = made(failure_rate=1, window="10s")
    call(aging, 0.0)
    assert aging.window.calls == 1
    aging.look(30.0)
    assert aging.window.calls == 0


# Half-open


def test_as_many_probes_as_allowed_are_let_in_at_once() -> None:
    """The next one is refused until the first lease ends, or a permit is given back."""
    circuit = opened(probes=2, success_threshold=2)
    first, _ = asked(circuit, 10.0)
    second = admit(circuit, 11.0)
    assert (first.is_probe, first.expires) == (True, 15.0)
    assert (second.is_probe, second.expires) == (True, 16.0)
    assert circuit.is_probing(first)
    assert circuit.is_probing(second)
    assert admit(circuit, 12.0).retry_after == 3.0
    circuit.withdraw(first, 12.0)
    assert not circuit.is_probing(first)
    assert admit(circuit, 12.0).is_probe


def lease_of_the_next_probe(circuit: Circuit, now: float) -> float:
    """Return the lease of a probe whose call has no limit."""
    admission: Any = circuit.admit(now, inf)[0]
    return admission.expires - now


def test_a_probe_without_a_limit_has_a_lease_as_long_as_the_circuit_was_open(
    no_jitter: list[tuple[float, float]],
) -> None:
    """Which is never less than the first period; where that is zero, it is a second."""
    circuit = opened(reset_timeout=1, max_reset_timeout=6)
    periods(circuit, 2)
    assert lease_of_the_next_probe(circuit, circuit.until) == 4.0
    fresh = made(fail_max=1)
    fresh.half_open(3.0)
    assert lease_of_the_next_probe(fresh, 3.0) == 10.0
    at_once = opened(reset_timeout=0)
    assert lease_of_the_next_probe(at_once, 5.0) == 1.0


def test_a_probe_that_succeeds_closes_it() -> None:
    """It says how long the outage was; then the circuit is as new."""
    circuit = made(fail_max=2)
    call(circuit, 1.0, failed=True)
    call(circuit, 3.0, failed=True)
    probe = admit(circuit, 13.0)
    _, [change] = circuit.record(probe, 14.0, 1.0, failed=False, in_a_row=0)
    assert (change.old, change.new, change.reason) == ("half-open", "closed", "probe_succeeded")
    assert (change.since_first_failure, change.detected_after) == (13.0, 2.0)
    assert (circuit.state, circuit.since, circuit.until) == ("closed", 14.0, -inf)
    assert (circuit.consecutive, circuit.window.calls) == (0, 0)
    assert circuit.admitted_at(13.9) is None
    assert circuit.admitted_at(14.0) is not None


def test_it_closes_after_as_many_successes_as_it_takes() -> None:
    """With a threshold of two one success is not enough, and each trip begins to count anew."""
    circuit = opened(success_threshold=2)
    assert call(circuit, 10.0) == [("half-open", "reset_timeout")]
    assert circuit.successes == 1
    assert call(circuit, 10.0, failed=True) == [("open", "probe_failed")]
    call(circuit, 20.0)
    assert call(circuit, 20.0) == [("closed", "probe_succeeded")]
    assert circuit.successes == 0


def test_a_probe_that_fails_opens_it_again() -> None:
    """The outage goes on: it is told since when, and when it had been noticed."""
    circuit = made(fail_max=2)
    call(circuit, 1.0, failed=True)
    call(circuit, 3.0, failed=True)
    _, [change] = circuit.record(admit(circuit, 13.0), 14.0, 1.0, failed=True, in_a_row=0)
    assert (change.old, change.new, change.reason) == ("half-open", "open", "probe_failed")
    assert (change.since_first_failure, change.detected_after) == (13.0, 2.0)
    assert (change.failures, change.calls) == (None, None)
    assert circuit.until == 24.0


def test_a_slow_probe_is_one_that_fails() -> None:
    """What takes exactly the limit is slow here too."""
    circuit = opened(slow_call_rate=1, slow_call_seconds=2)
    assert call(circuit, 10.0, seconds=2.0)[1:] == [("open", "probe_failed")]
    assert call(circuit, 20.0, seconds=1.9)[1:] == [("closed", "probe_succeeded")]


def test_a_hung_probe_opens_it_again_at_the_end_of_its_lease() -> None:
    """It was open from then on, whenever somebody looks; what comes late decides nothing."""
    circuit = opened()
    probe = admit(circuit, 10.0)
    assert changes(circuit.look(14.9)) == []
    assert changes(circuit.look(17.0)) == [("open", "probe_expired")]
    assert (circuit.since, circuit.until) == (15.0, 25.0)
    assert changes(circuit.record(probe, 18.0, 8.0, failed=False, in_a_row=0)) == []
    assert circuit.state == "open"


def test_a_probe_that_ends_with_its_lease_comes_too_late() -> None:
    """Its end is found out as its outcome is recorded, and decides."""
    circuit = opened()
    told = changes(circuit.record(admit(circuit, 10.0), 15.0, 5.0, failed=False, in_a_row=0))
    assert told == [("open", "probe_expired")]


def test_nobody_looks_for_a_lease_and_an_open_period() -> None:
    """Then a lease that ended and the period after it have both passed."""
    circuit = opened()
    admit(circuit, 10.0)
    told = changes(circuit.look(25.0))
    assert told == [("open", "probe_expired"), ("half-open", "reset_timeout")]


def test_what_is_taken_back_decides_nothing() -> None:
    """A probe that says nothing gives its permit back; any other call changes nothing at all."""
    circuit = opened()
    probe = admit(circuit, 10.0)
    assert changes(circuit.withdraw(probe, 11.0)) == []
    assert circuit.state == "half-open"
    second = admit(circuit, 11.0)
    assert second.is_probe
    assert changes(circuit.withdraw(probe, 99.0)) == []
    assert circuit.is_probing(second)
    assert changes(circuit.withdraw(second, 16.0)) == [("open", "probe_expired")]


# How long it is open


@pytest.fixture
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float]]:
    """Draw the upper end each time, and keep what was asked for."""
    asked: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        asked.append((low, high))
        return high

    monkeypatch.setattr(random, "uniform", uniform)
    return asked


def periods(circuit: Circuit, number: int) -> list[float]:
    """Let so many probes fail; return for how long the circuit was open before each."""
    found = []
    for _ in range(number):
        found.append(circuit.period)
        call(circuit, circuit.until, failed=True)
    return found


def test_the_open_period_doubles_up_to_its_bound(no_jitter: list[tuple[float, float]]) -> None:
    """The first is exact; the further ones have jitter below their bound, at the last as well."""
    circuit = opened(reset_timeout=1, max_reset_timeout=6)
    assert periods(circuit, 6) == [1, 2, 4, 6, 6, 6]
    assert set(no_jitter) == {(0.8, 1.0)}
    assert len(no_jitter) == 6
    assert circuit.until == circuit.since + circuit.period


def test_a_recovery_sets_the_open_period_back(no_jitter: list[tuple[float, float]]) -> None:
    """After the circuit was closed, the next outage begins with the first period."""
    circuit = opened(reset_timeout=1, max_reset_timeout=6)
    periods(circuit, 3)
    call(circuit, circuit.until)
    call(circuit, 100.0, failed=True)
    assert periods(circuit, 2) == [1, 2]


def test_a_single_period_is_fixed(no_jitter: list[tuple[float, float]]) -> None:
    """Where there is no greater bound, the period neither grows nor varies."""
    assert periods(opened(reset_timeout=3), 4) == [3] * 4
    assert no_jitter == []


def test_an_outage_of_a_thousand_periods_is_one_of_bounded_ones() -> None:
    """The doubling goes nowhere beyond all floats."""
    circuit = opened(reset_timeout=1, max_reset_timeout=30)
    assert 24 <= periods(circuit, 1100)[-1] <= 30


def test_periods_vary_by_a_fifth_below_their_bound() -> None:
    """No two processes ask at the same time, and none later than the bound."""
    circuit = opened(reset_timeout=1, max_reset_timeout=30)
    drawn = periods(circuit, 200)[10:]
    assert 24 <= min(drawn) < 25
    assert 29 < max(drawn) <= 30


# The way back


def test_with_a_ramp_a_good_probe_begins_the_way_back() -> None:
    """The circuit stays half-open, lets a part of the calls in, and its probes are no more."""
    circuit = opened(ramp=True, probes=2)
    hung = admit(circuit, 10.0)
    assert call(circuit, 10.0) == []
    assert (circuit.state, circuit.is_probing(hung)) == ("half-open", False)
    assert changes(circuit.record(hung, 10.1, 0.1, failed=True, in_a_row=0)) == []
    let_in = [admit(circuit, 10.1) for _ in range(11)]
    assert [getattr(one, "is_ramp", None) for one in let_in] == [*[True] * 10, None]
    assert not any(one.is_probe for one in let_in[:10])
    assert let_in[-1].retry_after == pytest.approx(0.15)


def test_probes_that_end_on_the_way_back_decide_nothing_there() -> None:
    """Five failures in a row would end it; these were let in before it began."""
    circuit = opened(ramp=True, probes=6)
    hung = [admit(circuit, 10.0) for _ in range(5)]
    assert call(circuit, 10.0) == []
    for probe in hung:
        assert changes(circuit.record(probe, 10.1, 0.1, failed=True, in_a_row=0)) == []
    assert (circuit.state, circuit.ramp is None) == ("half-open", False)


def climb(circuit: Circuit, *, failed: bool = False, seconds: float = 0.0) -> list[Any]:
    """Make a call each quarter second until something changes; return what, and when."""
    for tick in range(1, 40):
        now = 10.0 + tick / 4
        if told := call(circuit, now, failed=failed, seconds=seconds):
            return [now, *told]
    raise AssertionError("nothing has changed")


def test_the_way_back_ends_closed_where_all_goes_well() -> None:
    """After four doublings of a tenth all calls are let in."""
    circuit = ramping()
    assert climb(circuit) == [11.0, ("closed", "ramp_completed")]
    assert circuit.ramp is None


@each(
    "how",
    {
        "failures": {"failed": True},
        "slow calls": {"seconds": 2.0},
        "unusual ones": {"seconds": 1.5},
    },
)
@pytest.mark.parametrize("one_by_one", [True, False])
def test_the_way_back_is_given_up_where_calls_go_wrong(
    how: dict[str, Any], one_by_one: bool
) -> None:
    """Calls that fail, are slow, or take far longer than usual lead back to an open circuit."""
    circuit = made(fail_max=1, slow_call_rate=1, slow_call_seconds=2, ramp=True)
    if one_by_one:
        call(circuit, 0.0, seconds=0.1)
    else:
        circuit.absorb(5, 0.5, 0.0)
    call(circuit, 0.0, failed=True)
    call(circuit, 10.0)
    assert climb(circuit, **how)[1:] == [("open", "ramp_failed")]
    assert circuit.ramp is None


def test_the_way_back_does_not_wait_for_calls_to_look_at_the_time() -> None:
    """Who looks moves the share as well, if there is anything to go by."""
    circuit = ramping()
    circuit.record(admit(circuit, 10.0), 10.0, 0.0, failed=False, in_a_row=0)
    assert circuit.ramp is not None
    circuit.look(10.25)
    assert circuit.ramp.share == 0.2


# Health checks in the background


def test_a_good_health_check_closes_an_open_circuit() -> None:
    """By way of half-open, as a probe would, and with as many as it takes."""
    circuit = opened(success_threshold=2)
    assert changes(circuit.probed(1.0, good=True)) == [("half-open", "probe_succeeded")]
    assert changes(circuit.probed(2.0, good=True)) == [("closed", "probe_succeeded")]
    assert changes(circuit.probed(3.0, good=False)) == []
    assert circuit.state == "closed"


def test_a_bad_health_check_says_nothing_new_of_an_open_circuit() -> None:
    """It does not lengthen the time; in half-open it does what a probe does that fails."""
    circuit = opened()
    assert changes(circuit.probed(5.0, good=False)) == []
    assert circuit.until == 10.0
    told = changes(circuit.probed(10.0, good=False))
    assert told == [("half-open", "reset_timeout"), ("open", "probe_failed")]
    assert circuit.until == 20.0


def test_health_checks_speak_for_calls_on_the_way_back_while_there_are_none() -> None:
    """One that is good ends the way back, five bad ones in a row give it up."""
    assert changes(ramping().probed(10.25, good=True)) == [("closed", "ramp_completed")]
    circuit = ramping()
    told = [changes(circuit.probed(10.0, good=False)) for _ in range(5)]
    assert told == [[], [], [], [], [("open", "ramp_failed")]]


# What is said


@each(
    "value",
    {
        "rules": made().rules,
        "refusal": Refusal(1.0),
        "change": Change("closed", "open", "forced"),
    },
)
def test_what_a_circuit_says_is_a_value(value: Any) -> None:
    """Nobody who is handed it can change it, and it takes little room."""
    field = dataclasses.fields(value)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, field, 5)
    assert not hasattr(value, "__dict__")


# From outside


def test_a_circuit_that_is_forced_open_stays_so() -> None:
    """Nobody can say for how long, time changes nothing, and neither do health checks."""
    circuit = made(fail_max=1)
    _, [change] = circuit.open(1.0, forced=True)
    assert (change.new, change.reason, change.since_first_failure) == ("open", "forced", None)
    assert (circuit.until, circuit.forced, circuit.wants_probes()) == (inf, True, False)
    assert admit(circuit, 1e9).retry_after is None
    assert changes(circuit.probed(2.0, good=True)) == []
    assert changes(circuit.look(1e9)) == []


@pytest.mark.parametrize(("period", "until"), [(None, 11.0), (4.0, 5.0), (0.0, 1.0)])
def test_a_circuit_can_be_opened_for_a_time(period: float | None, until: float) -> None:
    """For a period that is given, or that of its rules; it is an outage from now on."""
    circuit = made(fail_max=1)
    _, [change] = circuit.open(1.0, period=period)
    assert (change.reason, change.since_first_failure, change.detected_after) == ("opened", 0, 0)
    assert (circuit.until, circuit.forced, circuit.first_failure) == (until, False, 1.0)


def test_a_circuit_that_is_forced_closed_stays_so() -> None:
    """Failures are counted and open nothing, until it is closed as any other."""
    circuit = opened()
    assert changes(circuit.close(1.0, forced=True)) == [("closed", "forced")]
    for _ in range(5):
        assert call(circuit, 2.0, failed=True) == []
    assert (circuit.consecutive, circuit.wants_probes()) == (5, False)
    assert changes(circuit.close(3.0)) == []
    assert (circuit.consecutive, circuit.window.calls) == (0, 0)
    assert call(circuit, 4.0, failed=True) == [("open", "consecutive_failures")]


def test_closing_from_outside_ends_the_outage() -> None:
    """What was is forgotten, and the outage is told to be over."""
    circuit = opened()
    _, [change] = circuit.close(4.0)
    assert (change.new, change.reason, change.since_first_failure) == ("closed", "closed", 4.0)
    assert circuit.first_failure is None


def test_closing_a_closed_circuit_forgets_its_failures() -> None:
    """There is nothing to tell, but the next failure is the first again."""
    circuit = made(fail_max=None, failure_rate=0.5, min_calls=2)
    call(circuit, 1.0, failed=True)
    assert changes(circuit.close(2.0)) == []
    _, told = circuit.record(admit(circuit, 50.0), 50.0, 0.0, failed=True, in_a_row=0)
    assert told == []
    _, [change] = circuit.record(admit(circuit, 51.0), 51.0, 0.0, failed=True, in_a_row=0)
    assert change.since_first_failure == 1.0


def test_letting_probes_through_from_outside() -> None:
    """From any state, also a forced one; where probes are let through, there is nothing to do."""
    circuit = made(fail_max=1)
    circuit.open(1.0, forced=True)
    assert changes(circuit.half_open(2.0)) == [("half-open", "half_opened")]
    assert not circuit.forced
    probe = admit(circuit, 2.0)
    assert changes(circuit.half_open(3.0)) == []
    assert circuit.is_probing(probe)
    way_back = ramping()
    assert changes(way_back.half_open(10.0)) == [("half-open", "half_opened")]
    assert way_back.ramp is None
    assert admit(way_back, 10.0).is_probe
