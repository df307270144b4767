"""The circuit breaker: when it opens, what it then does, and how it closes again."""

from __future__ import annotations

import asyncio
import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from resilient import (
    BulkheadFull,
    CallTimeout,
    CircuitBreaker,
    CircuitOpen,
    DuplicateName,
    InvalidSetting,
    RateLimited,
    bulkhead,
    circuit_breaker,
    deadline,
    pipeline_of,
    rate_limit,
    retry,
    timeout,
    with_fallback,
)
from resilient.engine.measures import Measures
from resilient.telemetry.metrics import Collector
from resilient.testing import VirtualTime
from tests.circuits import WAYS, Upstream, outcome_of, outcomes_of, rejection_of


@pytest.fixture
def upstream(virtual_time: VirtualTime) -> Upstream:
    """A dependency in virtual time."""
    return Upstream(virtual_time)


def metric(name: str, **labels: str) -> float | None:
    """Return what a scrape shows for one series, or None if it is not there."""
    for family in Collector().collect():
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return sample.value
    return None


def trip(breaker: CircuitBreaker) -> None:
    """Let calls fail until the circuit is open."""

    def fail() -> None:
        raise ConnectionError("down")

    while breaker.current_state == "closed":
        with pytest.raises(ConnectionError):
            breaker.call(fail)


# Opening


@pytest.mark.parametrize("way", WAYS)
def test_failures_in_a_row_open_the_circuit(upstream: Upstream, way: str) -> None:
    """After fail_max failures no further call reaches the dependency, whatever is guarded."""
    call = upstream.guarded(CircuitBreaker(fail_max=3, reset_timeout=30), way)
    upstream.down()

    assert outcomes_of(call, 20) == ["ConnectionError"] * 3 + ["rejected"] * 17
    assert upstream.calls == 3


@pytest.mark.parametrize("way", WAYS)
def test_a_success_starts_the_count_of_failures_anew(upstream: Upstream, way: str) -> None:
    """Failures that a success lies between are not in a row."""
    breaker = CircuitBreaker(fail_max=3, reset_timeout=30)
    call = upstream.guarded(breaker, way)
    for _ in range(5):
        upstream.down()
        assert outcomes_of(call, 2) == ["ConnectionError"] * 2
        upstream.up()
        assert outcome_of(call) == "answered"

    assert breaker.current_state == "closed"
    assert breaker.fail_counter == 0


def test_five_failures_in_a_row_open_it_for_a_second_unless_it_is_told_otherwise(
    upstream: Upstream,
) -> None:
    """Without any setting five failures in a row open it, for one second at first."""
    call = upstream.guarded(CircuitBreaker())
    upstream.down()

    assert outcomes_of(call, 6) == ["ConnectionError"] * 5 + ["rejected"]
    assert rejection_of(call).retry_after == 1.0


def test_with_a_rate_alone_failures_in_a_row_do_not_open_it(upstream: Upstream) -> None:
    """Where only a rate is given, nothing is decided before there are min_calls calls."""
    call = upstream.guarded(CircuitBreaker(failure_rate=0.5, window=100, min_calls=20))
    upstream.down()

    assert outcomes_of(call, 20) == ["ConnectionError"] * 20
    assert outcome_of(call) == "rejected"


def test_a_rate_decides_nothing_before_ten_calls_unless_it_is_told_otherwise(
    upstream: Upstream,
) -> None:
    """The same in a window of calls and in one of seconds."""
    for window in (100, "60s"):
        upstream.down()
        call = upstream.guarded(CircuitBreaker(failure_rate=0.5, window=window))
        assert outcomes_of(call, 11) == ["ConnectionError"] * 10 + ["rejected"]


def test_with_both_a_rate_and_fail_max_either_opens_it(upstream: Upstream) -> None:
    """A rate does not take the place of a fail_max that was given as well."""
    call = upstream.guarded(CircuitBreaker(fail_max=3, failure_rate=0.5, min_calls=50))
    upstream.down()

    assert outcomes_of(call, 4) == ["ConnectionError"] * 3 + ["rejected"]


@pytest.mark.parametrize("way", WAYS)
def test_the_failing_call_keeps_its_own_error(upstream: Upstream, way: str) -> None:
    """The call that opens the circuit raises what it raised, the very object."""
    call = upstream.guarded(CircuitBreaker(fail_max=1), way)
    upstream.error = own = ConnectionError("reset by peer")

    with pytest.raises(ConnectionError) as raised:
        call()

    assert raised.value is own
    assert not isinstance(raised.value, CircuitOpen)


# Rejecting


@pytest.mark.parametrize("way", WAYS)
def test_a_rejection_says_what_why_and_for_how_long(upstream: Upstream, way: str) -> None:
    """It carries the breaker's name, the seconds until a call may pass, and the last failure."""
    call = upstream.guarded(CircuitBreaker("orders", fail_max=2, reset_timeout=30), way)
    upstream.down("first")
    outcome_of(call)
    upstream.error = last = ConnectionError("last")
    outcome_of(call)
    upstream.time.advance(12)

    rejected = rejection_of(call)

    assert rejected.name == "orders"
    assert rejected.retry_after == 18.0
    assert rejected.__cause__ is last
    assert rejected.reason == "circuit_open"
    assert "orders" in str(rejected)


def test_each_rejection_is_an_instance_of_its_own(upstream: Upstream) -> None:
    """Two callers never share an error object, whose traceback both would write to."""
    call = upstream.guarded(CircuitBreaker(fail_max=1, reset_timeout=30))
    upstream.down()
    outcome_of(call)

    assert rejection_of(call) is not rejection_of(call)


def test_a_rejection_does_not_reach_the_fallback_as_a_call(upstream: Upstream) -> None:
    """A rejected call is served by the fallback, with the circuit as the reason."""
    breaker = CircuitBreaker(fail_max=1, reset_timeout=30)
    call = with_fallback("instead")(breaker(upstream.answer))
    upstream.down()

    assert [call(), call(), call()] == ["instead"] * 3
    assert upstream.calls == 1


def test_the_open_period_ends_at_its_end_and_not_after_it(upstream: Upstream) -> None:
    """Just before its end a call is rejected; at the very end one is let through."""
    call = upstream.guarded(CircuitBreaker(fail_max=1, reset_timeout=10))
    upstream.down()
    outcome_of(call)
    upstream.up()

    upstream.time.advance(9.5)
    assert rejection_of(call).retry_after == 0.5

    upstream.time.advance(0.5)
    assert outcome_of(call) == "answered"


def test_the_retry_after_of_a_rejection_is_exact(upstream: Upstream) -> None:
    """Who waits for as long as the rejection says is let through, however odd the period is."""
    breaker = CircuitBreaker(fail_max=1)
    call = upstream.guarded(breaker)
    upstream.down()
    outcome_of(call)
    for step in range(40):
        upstream.time.advance(0.1 * (step % 7) / 7)
        if breaker.current_state != "open":
            assert outcome_of(call) == "ConnectionError"
        upstream.time.advance(rejection_of(call).retry_after or 0.0)
        assert outcome_of(call) == "ConnectionError", f"in period {step}"


# The length of the open period


def open_periods(breaker: CircuitBreaker, upstream: Upstream, number: int) -> list[float]:
    """Let every probe fail, and return the lengths of the open periods."""
    call = upstream.guarded(breaker)
    upstream.down()
    while breaker.current_state == "closed":
        outcome_of(call)
    periods = []
    for _ in range(number):
        periods.append(breaker.retry_after or 0.0)
        upstream.time.advance(periods[-1])
        assert outcome_of(call) == "ConnectionError"
    return periods


def test_the_open_period_doubles_while_probes_fail(upstream: Upstream) -> None:
    """It is 1 s at first, and doubles up to 30 s, less up to a fifth of jitter."""
    periods = open_periods(CircuitBreaker(), upstream, 9)

    assert periods[0] == 1.0
    for period, bound in zip(periods[1:], [2, 4, 8, 16, 30, 30, 30, 30], strict=True):
        assert 0.8 * bound <= period <= bound


def test_the_open_period_has_jitter_also_at_its_bound(upstream: Upstream) -> None:
    """A fleet whose circuits opened together does not probe together, however long it lasts."""
    at_the_bound = open_periods(CircuitBreaker(), upstream, 40)[10:]

    assert len(set(at_the_bound)) > 20
    assert max(at_the_bound) <= 30


def test_a_longest_open_period_of_ones_own_bounds_it(upstream: Upstream) -> None:
    """With both given it grows from reset_timeout to max_reset_timeout."""
    periods = open_periods(CircuitBreaker(reset_timeout=3, max_reset_timeout=7), upstream, 6)

    assert periods[0] == 3.0
    assert 4.8 <= periods[1] <= 6.0
    assert all(5.6 <= period <= 7.0 for period in periods[2:])


def test_a_reset_timeout_given_alone_is_fixed(upstream: Upstream) -> None:
    """As pybreaker's users expect, it is what was given each time."""
    assert open_periods(CircuitBreaker(reset_timeout=20), upstream, 5) == [20.0] * 5


def test_a_recovery_sets_the_open_period_back(upstream: Upstream) -> None:
    """After the circuit has closed, the next outage begins with the first period again."""
    breaker = CircuitBreaker(fail_max=1)
    assert open_periods(breaker, upstream, 4)[-1] > 4
    upstream.up()
    upstream.time.advance(30)
    call = upstream.guarded(breaker)
    assert outcome_of(call) == "answered"
    assert breaker.current_state == "closed"

    assert open_periods(breaker, upstream, 2)[0] == 1.0


def test_a_stale_failure_does_not_lengthen_the_open_period(
    upstream: Upstream, virtual_time: VirtualTime
) -> None:
    """A call that was let in before the trip and fails after it changes nothing."""
    breaker = CircuitBreaker(fail_max=1, reset_timeout=10)
    slow = Upstream(virtual_time)
    slow.seconds = 4
    slow.down()
    upstream.down()

    async def main() -> float | None:
        stale = asyncio.ensure_future(breaker(slow.answer_async)())
        await asyncio.sleep(1)
        with pytest.raises(ConnectionError):
            await breaker(upstream.answer_async)()
        with pytest.raises(ConnectionError):
            await stale
        return breaker.retry_after

    assert virtual_time.run(main()) == 10 - 3


# The state without traffic


def test_the_state_turns_on_time_without_any_call(upstream: Upstream) -> None:
    """Open turns to half-open at the end of the period, though nobody calls."""
    breaker = CircuitBreaker(fail_max=1, reset_timeout=10)
    trip(breaker)

    assert breaker.current_state == "open"
    upstream.time.advance(9.99)
    assert breaker.current_state == "open"
    upstream.time.advance(0.01)
    assert breaker.current_state == "half-open"


def test_a_hung_probe_is_seen_to_have_failed_without_any_call(
    virtual_time: VirtualTime,
) -> None:
    """At the end of its lease the circuit is open again, though nobody calls."""
    breaker = CircuitBreaker(fail_max=1, reset_timeout=10)
    trip(breaker)
    virtual_time.advance(10)

    async def main() -> list[str]:
        probe = asyncio.ensure_future(breaker(forever)())
        await asyncio.sleep(9.5)
        states = [breaker.current_state]
        await asyncio.sleep(0.5)
        states.append(breaker.current_state)
        probe.cancel()
        return states

    assert virtual_time.run(main()) == ["half-open", "open"]


async def forever() -> None:
    """Hang."""
    await asyncio.Event().wait()


# Half-open


@pytest.mark.parametrize("probes", [1, 3])
def test_of_many_callers_at_once_only_the_probes_pass(
    upstream: Upstream, virtual_time: VirtualTime, probes: int
) -> None:
    """The rest are rejected at once, not queued until the probes are back."""
    breaker = CircuitBreaker(fail_max=1, reset_timeout=10, probes=probes, success_threshold=probes)
    trip(breaker)
    virtual_time.advance(10)
    upstream.seconds = 2
    call = breaker(upstream.answer_async)
    rejected_at: list[float] = []

    async def caller() -> None:
        began = virtual_time.now()
        try:
            await call()
        except CircuitOpen:
            rejected_at.append(virtual_time.now() - began)

    async def main() -> None:
        await asyncio.gather(*(caller() for _ in range(20)))

    virtual_time.run(main())

    assert upstream.calls == probes
    assert rejected_at == [0.0] * (20 - probes)
    assert breaker.current_state == "closed"


def test_a_probe_that_succeeds_closes_the_circuit(upstream: Upstream) -> None:
    """One success is enough unless more are asked for."""
    breaker = CircuitBreaker(fail_max=1, reset_timeout=10)
    trip(breaker)
    upstream.time.advance(10)

    assert outcomes_of(upstream.guarded(breaker), 5) == ["answered"] * 5
    assert breaker.current_state == "closed"


@pytest.mark.parametrize("way", WAYS)
def test_as_many_probes_as_asked_for_must_succeed(upstream: Upstream, way: str) -> None:
    """With success_threshold=3 the third success closes it, and not the second."""
    breaker = CircuitBreaker(fail_max=1, reset_timeout=10, success_threshold=3)
    trip(breaker)
    upstream.time.advance(10)
    call = upstream.guarded(breaker, way)

    seen = []
    for _ in range(3):
        assert outcome_of(call) == "answered"
        seen.append((breaker.current_state, breaker.success_counter))

    assert seen == [("half-open", 1), ("half-open", 2), ("closed", 0)]


def test_one_failed_probe_opens_it_at_once_however_many_have_succeeded(
    upstream: Upstream,
) -> None:
    """Two of three successes are forgotten with the first failure, and count for nothing later."""
    breaker = CircuitBreaker(fail_max=1, reset_timeout=10, success_threshold=3)
    trip(breaker)
    upstream.time.advance(10)
    call = upstream.guarded(breaker)
    outcomes_of(call, 2)
    upstream.down()
    outcome_of(call)

    assert breaker.current_state == "open"
    upstream.up()
    upstream.time.advance(10)
    outcomes_of(call, 2)
    assert breaker.current_state == "half-open"


def test_half_open_is_decided_before_the_other_probes_are_back(
    upstream: Upstream, virtual_time: VirtualTime
) -> None:
    """The first of three probes fails: the circuit is open, and what the others say is void."""
    breaker = CircuitBreaker(fail_max=1, reset_timeout=10, probes=3, success_threshold=2)
    trip(breaker)
    virtual_time.advance(10)
    slow = Upstream(virtual_time)
    slow.seconds = 3
    upstream.down()

    async def main() -> tuple[str, float | None]:
        others = [asyncio.ensure_future(breaker(slow.answer_async)()) for _ in range(2)]
        await asyncio.sleep(1)
        with pytest.raises(ConnectionError):
            await breaker(upstream.answer_async)()
        decided = breaker.current_state
        await asyncio.gather(*others)
        return decided, breaker.retry_after

    assert virtual_time.run(main()) == ("open", 8.0)


# Leases


def test_the_lease_of_a_hung_probe_ends_after_the_open_period(
    upstream: Upstream, virtual_time: VirtualTime
) -> None:
    """It then counts as a failed probe, and the next period lets the next probe through."""
    breaker = CircuitBreaker(fail_max=1, reset_timeout=10)
    trip(breaker)
    virtual_time.advance(10)
    call = breaker(upstream.answer_async)

    async def main() -> list[str]:
        hung = asyncio.ensure_future(breaker(forever)())
        seen = []
        for seconds in (9, 1, 9, 1):
            await asyncio.sleep(seconds)
            try:
                seen.append(await call())
            except CircuitOpen:
                seen.append("rejected")
        hung.cancel()
        return seen

    assert virtual_time.run(main()) == ["rejected", "rejected", "rejected", "answer"]


def test_an_expired_lease_doubles_the_open_period(virtual_time: VirtualTime) -> None:
    """A probe that does not come back is a probe that failed."""
    breaker = CircuitBreaker(fail_max=1)
    trip(breaker)
    virtual_time.advance(1)

    async def main() -> float | None:
        hung = asyncio.ensure_future(breaker(forever)())
        await asyncio.sleep(1)
        period = breaker.retry_after
        hung.cancel()
        return period

    period = virtual_time.run(main())
    assert period is not None
    assert 1.6 <= period <= 2.0


def test_a_probe_that_is_cancelled_after_its_lease_has_failed(virtual_time: VirtualTime) -> None:
    """Its lease was over before, whether or not anybody has looked: the period doubles."""
    breaker = CircuitBreaker(fail_max=1)
    trip(breaker)
    virtual_time.advance(1)

    async def main() -> float | None:
        hung = asyncio.ensure_future(breaker(forever)())
        await asyncio.sleep(1.5)
        hung.cancel()
        await asyncio.sleep(0)
        return breaker.retry_after

    period = virtual_time.run(main())
    assert period is not None
    assert 1.1 <= period <= 1.5


def test_a_lease_that_ended_long_ago_does_not_reject_the_next_caller(
    upstream: Upstream, virtual_time: VirtualTime
) -> None:
    """The open period begins when the lease ends, not when the next caller comes to see that."""
    breaker = CircuitBreaker(fail_max=1, reset_timeout=10)
    trip(breaker)
    virtual_time.advance(10)

    async def main() -> str:
        hung = asyncio.ensure_future(breaker(forever)())
        await asyncio.sleep(300)
        answer = await breaker(upstream.answer_async)()
        hung.cancel()
        return answer

    assert virtual_time.run(main()) == "answer"


def test_the_lease_after_one_that_nobody_saw_end_is_of_the_new_period(
    upstream: Upstream, virtual_time: VirtualTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next probe has as long as the circuit was open, which is twice as long as before."""
    monkeypatch.setattr("random.uniform", lambda least, most: most)
    breaker = CircuitBreaker(fail_max=1, reset_timeout=10, max_reset_timeout=80)
    trip(breaker)
    virtual_time.advance(10)

    async def main() -> None:
        hung = [asyncio.ensure_future(breaker(forever)())]
        await asyncio.sleep(300)
        hung.append(asyncio.ensure_future(breaker(forever)()))
        await asyncio.sleep(19.9)
        assert breaker.current_state == "half-open"
        await asyncio.sleep(0.1)
        assert breaker.current_state == "open"
        for one in hung:
            one.cancel()
        await asyncio.gather(*hung, return_exceptions=True)

    virtual_time.run(main())


def test_a_late_success_of_an_expired_probe_decides_nothing(
    upstream: Upstream, virtual_time: VirtualTime
) -> None:
    """It was let in for a half-open circuit that is no more."""
    breaker = CircuitBreaker(fail_max=1, reset_timeout=10)
    trip(breaker)
    virtual_time.advance(10)
    upstream.seconds = 15

    async def main() -> str:
        probe = asyncio.ensure_future(breaker(upstream.answer_async)())
        await asyncio.sleep(12)
        assert breaker.current_state == "open"
        await probe
        return breaker.current_state

    assert virtual_time.run(main()) == "open"


def test_the_lease_of_a_probe_ends_with_its_own_limit(
    upstream: Upstream, virtual_time: VirtualTime
) -> None:
    """A probe whose caller gives it half a second does not hold the permit for a minute."""
    breaker = CircuitBreaker(fail_max=1, reset_timeout=60)
    trip(breaker)
    virtual_time.advance(60)
    virtual_time_sleeps = deadline(0.5)(breaker(upstream.answer))
    upstream.seconds = 2.0

    virtual_time_sleeps()  # a thread goes on after its deadline, as it is cooperative

    assert breaker.current_state == "open"


def test_a_probe_slower_than_the_open_period_but_within_its_limit_closes_the_circuit(
    upstream: Upstream,
) -> None:
    """Its own limit is what says how long it may take; else a slow dependency never comes back."""
    breaker = CircuitBreaker(fail_max=1, reset_timeout=1)
    call = breaker(timeout(5)(upstream.answer))
    upstream.down()
    outcome_of(call)
    upstream.up()
    upstream.time.advance(1)
    upstream.seconds = 3

    assert outcome_of(call) == "answered"
    assert breaker.current_state == "closed"


@pytest.mark.parametrize("before", ["nothing", "forced open"])
def test_a_probe_after_half_open_by_hand_has_a_lease_as_well(
    upstream: Upstream, virtual_time: VirtualTime, before: str
) -> None:
    """Also where no open period has gone before, or an endless one."""
    breaker = CircuitBreaker(fail_max=1, reset_timeout=10)
    if before == "forced open":
        breaker.force_open()
    breaker.half_open()

    async def main() -> str:
        hung = asyncio.ensure_future(breaker(forever)())
        await asyncio.sleep(1)
        with pytest.raises(CircuitOpen):
            await breaker(upstream.answer_async)()
        await asyncio.sleep(9)
        assert breaker.current_state == "open"
        await asyncio.sleep(10)
        answer = await breaker(upstream.answer_async)()
        hung.cancel()
        return answer

    assert virtual_time.run(main()) == "answer"


# What decides nothing


def test_a_cancelled_probe_gives_its_permit_back(
    upstream: Upstream, virtual_time: VirtualTime
) -> None:
    """The circuit stays half-open, and the next caller is the probe."""
    breaker = CircuitBreaker(fail_max=1, reset_timeout=10)
    trip(breaker)
    virtual_time.advance(10)

    async def main() -> list[str]:
        probe = asyncio.ensure_future(breaker(forever)())
        await asyncio.sleep(1)
        probe.cancel()
        await asyncio.wait([probe])
        states = [breaker.current_state]
        await breaker(upstream.answer_async)()
        return [*states, breaker.current_state]

    assert virtual_time.run(main()) == ["half-open", "closed"]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
def test_an_interrupted_probe_decides_nothing(
    upstream: Upstream, interruption: type[BaseException]
) -> None:
    """What is no Exception passes as it is, and the permit is back."""
    breaker = CircuitBreaker(fail_max=1, reset_timeout=10)
    trip(breaker)
    upstream.time.advance(10)
    call = upstream.guarded(breaker)
    upstream.error = interruption()

    with pytest.raises(interruption):
        call()

    assert breaker.current_state == "half-open"
    upstream.up()
    assert outcome_of(call) == "answered"


@pytest.mark.parametrize("way", WAYS)
def test_an_excluded_probe_decides_nothing(upstream: Upstream, way: str) -> None:
    """It neither closes nor opens the circuit, and its permit is back."""
    breaker = CircuitBreaker(fail_max=1, reset_timeout=10, exclude=[LookupError])
    trip(breaker)
    upstream.time.advance(10)
    call = upstream.guarded(breaker, way)
    upstream.error = KeyError("no such order")

    assert outcome_of(call) == "KeyError"
    assert breaker.current_state == "half-open"
    upstream.up()
    assert outcome_of(call) == "answered"
    assert breaker.current_state == "closed"


@pytest.mark.parametrize("way", WAYS)
def test_excluded_errors_are_in_no_denominator(upstream: Upstream, way: str) -> None:
    """A thousand of them neither hide nor hasten the half of the calls that fails."""
    breaker = CircuitBreaker(failure_rate=0.5, window=1000, min_calls=10, exclude=[LookupError])
    call = upstream.guarded(breaker, way)
    outcomes_of(call, 5)
    upstream.error = KeyError("no such order")
    outcomes_of(call, 50)
    assert breaker.failure_rate == 0.0
    upstream.down()

    assert outcomes_of(call, 6) == ["ConnectionError"] * 5 + ["rejected"]


def test_an_excluded_error_lies_between_no_failures(upstream: Upstream) -> None:
    """It says nothing, so failures before and after it are still in a row."""
    breaker = CircuitBreaker(fail_max=2, exclude=[LookupError])
    call = upstream.guarded(breaker)
    upstream.down()
    outcome_of(call)
    upstream.error = KeyError("no such order")
    outcome_of(call)
    upstream.down()
    outcome_of(call)

    assert breaker.current_state == "open"


@pytest.mark.parametrize(
    "failures",
    [ConnectionError, (ConnectionError,), lambda error: isinstance(error, ConnectionError)],
    ids=["a type", "types", "a predicate"],
)
def test_only_failures_count_where_they_are_named(upstream: Upstream, failures: Any) -> None:
    """What is not among them says nothing against the dependency."""
    breaker = CircuitBreaker(fail_max=2, failures=failures)
    call = upstream.guarded(breaker)
    upstream.error = KeyError("no such order")
    assert outcomes_of(call, 5) == ["KeyError"] * 5
    upstream.down()

    assert outcomes_of(call, 3) == ["ConnectionError"] * 2 + ["rejected"]


def test_exclude_takes_predicates_and_one_that_fails_excludes_nothing(upstream: Upstream) -> None:
    """A predicate that raises is isolated: the caller has the call's own error."""
    breaker = CircuitBreaker(fail_max=2, exclude=[lambda error: error.status == 404])
    call = upstream.guarded(breaker)
    upstream.error = not_found = ValueError("not found")
    not_found.status = 404  # type: ignore[attr-defined]
    assert outcomes_of(call, 5) == ["ValueError"] * 5
    upstream.down()

    assert outcomes_of(call, 3) == ["ConnectionError"] * 2 + ["rejected"]


def test_our_own_rejections_are_no_evidence(upstream: Upstream) -> None:
    """A full bulkhead, a rate limit and another open circuit say nothing of the dependency."""
    breaker = CircuitBreaker(fail_max=1)

    full = bulkhead(1)
    with full, pytest.raises(BulkheadFull):
        breaker(full(upstream.answer))()

    limited = breaker(rate_limit(1, 60)(lambda: "answer"))
    limited()
    with pytest.raises(RateLimited):
        limited()

    other = CircuitBreaker(fail_max=1)
    other.force_open()
    with pytest.raises(CircuitOpen):
        breaker.call(lambda: other.call(upstream.answer))

    assert breaker.current_state == "closed"
    assert breaker.fail_counter == 0


def test_a_rejection_within_a_probe_decides_nothing(upstream: Upstream) -> None:
    """A probe that the bulkhead stops has not asked the dependency; its permit is back."""
    breaker = CircuitBreaker(fail_max=1, reset_timeout=10)
    full = bulkhead(1)
    call = breaker(full(upstream.answer))
    trip(breaker)
    upstream.time.advance(10)

    with full:
        assert outcome_of(call) == "BulkheadFull"
    assert breaker.current_state == "half-open"
    assert outcome_of(call) == "answered"


def test_a_time_limit_that_is_exceeded_is_evidence(upstream: Upstream) -> None:
    """A dependency that does not answer in time has failed."""
    breaker = CircuitBreaker(fail_max=2, exclude=[LookupError], failures=(ConnectionError,))
    call = breaker(timeout(1)(upstream.answer))
    upstream.seconds = 5

    assert outcomes_of(call, 3) == ["CallTimeout"] * 2 + ["rejected"]


def test_a_deadline_that_was_over_before_the_call_is_no_evidence(upstream: Upstream) -> None:
    """A call that was never made for want of time says nothing of the dependency."""
    breaker = CircuitBreaker(fail_max=1)
    call = upstream.guarded(breaker)

    with deadline(1):
        upstream.time.advance(2)
        with pytest.raises(CallTimeout):
            call()

    assert upstream.calls == 0
    assert breaker.current_state == "closed"


@pytest.mark.parametrize("way", ["decorated async", "call async", "async block"])
def test_cancelled_calls_are_neither_successes_nor_failures(
    upstream: Upstream, virtual_time: VirtualTime, way: str
) -> None:
    """Ten of them leave both the state and the count of failures as they were."""
    breaker = CircuitBreaker(fail_max=3)
    call = upstream.guarded(breaker, way)
    upstream.down()
    outcomes_of(call, 2)
    upstream.error = asyncio.CancelledError()
    for _ in range(10):
        with pytest.raises(asyncio.CancelledError):
            call()
    assert (breaker.current_state, breaker.fail_counter) == ("closed", 2)
    upstream.down()

    outcome_of(call)
    assert breaker.current_state == "open"


# Generations


def test_a_slow_success_from_before_the_trip_does_not_close_the_circuit(
    upstream: Upstream, virtual_time: VirtualTime
) -> None:
    """It says how the dependency was before, and neither closes nor is the probe."""
    breaker = CircuitBreaker(fail_max=1, reset_timeout=10)
    upstream.seconds = 12

    async def main() -> list[str]:
        early = [asyncio.ensure_future(breaker(upstream.answer_async)()) for _ in range(2)]
        await asyncio.sleep(1)
        trip(breaker)
        states = [breaker.current_state]
        await asyncio.sleep(10.5)
        states.append(breaker.current_state)
        await asyncio.gather(*early)
        return [*states, breaker.current_state]

    assert virtual_time.run(main()) == ["open", "half-open", "half-open"]


def test_a_failure_from_before_the_trip_does_not_count_after_the_recovery(
    upstream: Upstream, virtual_time: VirtualTime
) -> None:
    """A call of the outage before, ending when all is well again, is not the first of the next."""
    breaker = CircuitBreaker(fail_max=1, reset_timeout=10)
    upstream.seconds = 20
    upstream.down()
    healthy = Upstream(virtual_time)

    async def main() -> tuple[str, int]:
        early = asyncio.ensure_future(breaker(upstream.answer_async)())
        await asyncio.sleep(1)
        trip(breaker)
        await asyncio.sleep(10)
        await breaker(healthy.answer_async)()
        assert breaker.current_state == "closed"
        with pytest.raises(ConnectionError):
            await early
        return breaker.current_state, breaker.fail_counter

    assert virtual_time.run(main()) == ("closed", 0)


def test_closing_starts_an_empty_window(upstream: Upstream) -> None:
    """The failures that opened it are forgotten: the next ones open it like the first ones did."""
    breaker = CircuitBreaker(failure_rate=0.5, window=10, min_calls=4, reset_timeout=10)
    call = upstream.guarded(breaker)
    upstream.down()
    assert outcomes_of(call, 5) == ["ConnectionError"] * 4 + ["rejected"]
    upstream.up()
    upstream.time.advance(10)
    assert outcome_of(call) == "answered"
    assert breaker.failure_rate == 0.0
    upstream.down()

    assert outcomes_of(call, 5) == ["ConnectionError"] * 4 + ["rejected"]


# Nested calls of a probe


def test_a_nested_call_by_the_probe_rides_on_its_permit(upstream: Upstream) -> None:
    """A guarded function that calls another one of the same breaker is one probe."""
    breaker = CircuitBreaker(fail_max=1, reset_timeout=10)
    inner = breaker(upstream.answer)

    @breaker
    def outer() -> str:
        return inner() + inner()

    trip(breaker)
    upstream.time.advance(10)

    assert outer() == "answeranswer"
    assert breaker.current_state == "closed"


def test_a_nested_call_rides_on_the_permit_across_tasks_and_threads(
    upstream: Upstream, virtual_time: VirtualTime
) -> None:
    """Also where the probe hands a part of it to a task or to a thread of its own."""
    breaker = CircuitBreaker(fail_max=1, reset_timeout=10)
    inner_async, inner = breaker(upstream.answer_async), breaker(upstream.answer)

    @breaker
    async def outer() -> list[str]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(inner_async()) for _ in range(3)]
            tasks.append(group.create_task(asyncio.to_thread(inner)))
        return [task.result() for task in tasks]

    trip(breaker)
    virtual_time.advance(10)

    assert virtual_time.run(outer()) == ["answer"] * 4
    assert breaker.current_state == "closed"


def test_a_nested_failure_is_counted_with_the_probe_and_not_twice(upstream: Upstream) -> None:
    """What the nested call comes to is the probe's affair, which may have caught it."""
    breaker = CircuitBreaker(fail_max=1, reset_timeout=10)
    inner = breaker(upstream.answer)

    @breaker
    def outer() -> str:
        return outcome_of(inner)

    trip(breaker)
    upstream.time.advance(10)
    upstream.down()

    assert outer() == "ConnectionError"
    assert breaker.current_state == "closed"


def test_what_outlives_the_probe_has_no_permit_any_more(
    upstream: Upstream, virtual_time: VirtualTime
) -> None:
    """A background task that a probe has started is rejected like everybody else later on."""
    breaker = CircuitBreaker(fail_max=1, reset_timeout=10)
    inner = breaker(upstream.answer_async)
    started: list[asyncio.Task[list[str]]] = []

    async def background() -> list[str]:
        seen = []
        for _ in range(3):
            await asyncio.sleep(1)
            try:
                seen.append(await inner())
            except CircuitOpen:
                seen.append("rejected")
        return seen

    @breaker
    async def probe() -> None:
        started.append(asyncio.ensure_future(background()))
        raise ConnectionError("still down")

    async def main() -> list[str]:
        with pytest.raises(ConnectionError):
            await probe()
        return await started[0]

    trip(breaker)
    virtual_time.advance(10)

    assert virtual_time.run(main()) == ["rejected"] * 3
    assert upstream.calls == 0


# By hand


def test_forced_open_it_rejects_until_it_is_reset(upstream: Upstream) -> None:
    """No passing of time and no half-open: somebody has said so."""
    breaker = CircuitBreaker(fail_max=1, reset_timeout=10)
    call = upstream.guarded(breaker)

    breaker.force_open()
    upstream.time.advance(1_000_000)
    assert outcomes_of(call, 3) == ["rejected"] * 3
    assert breaker.current_state == "open"

    breaker.reset()
    assert outcome_of(call) == "answered"
    assert breaker.current_state == "closed"


def test_nobody_can_say_when_a_forced_open_circuit_lets_calls_through(upstream: Upstream) -> None:
    """Its rejections carry no retry_after, as there is no number of seconds that would be true."""
    breaker = CircuitBreaker("orders", fail_max=1)
    breaker.force_open()

    rejected = rejection_of(upstream.guarded(breaker))

    assert rejected.retry_after is None
    assert breaker.retry_after is None
    assert "inf" not in str(rejected)


def test_an_outage_can_be_forced_open_and_is_closed_by_a_reset(upstream: Upstream) -> None:
    """What is forced while open stays so beyond the open period."""
    breaker = CircuitBreaker(fail_max=1, reset_timeout=10)
    trip(breaker)
    breaker.force_open()
    upstream.time.advance(100)

    assert outcome_of(upstream.guarded(breaker)) == "rejected"


def test_a_circuit_opened_by_hand_measures_no_outage(upstream: Upstream) -> None:
    """Nothing has failed, so neither detection nor recovery has taken any time."""
    breaker = CircuitBreaker("drill", fail_max=1)
    breaker.force_open()
    upstream.time.advance(60)
    breaker.reset()

    assert breaker.failing_since is None
    assert metric("resilient_recovery_seconds_count", dependency="drill") == 0
    assert metric("resilient_detection_seconds_count", dependency="drill") == 0


def test_forced_closed_it_lets_everything_through_until_it_is_reset(upstream: Upstream) -> None:
    """Whatever fails, and however often."""
    breaker = CircuitBreaker(fail_max=2, reset_timeout=10)
    trip(breaker)
    breaker.force_closed()
    call = upstream.guarded(breaker)
    upstream.down()
    assert outcomes_of(call, 20) == ["ConnectionError"] * 20

    breaker.reset()
    assert outcomes_of(call, 3) == ["ConnectionError"] * 2 + ["rejected"]


def test_a_reset_forgets_the_failures_before_it(upstream: Upstream) -> None:
    """Neither failures in a row nor those in the window are carried over."""
    breaker = CircuitBreaker(fail_max=3, failure_rate=0.5, min_calls=3)
    call = upstream.guarded(breaker)
    upstream.down()
    outcomes_of(call, 2)
    breaker.reset()

    assert (breaker.fail_counter, breaker.failure_rate) == (0, 0.0)
    assert breaker.last_failure is None
    assert outcomes_of(call, 2) == ["ConnectionError"] * 2
    assert breaker.current_state == "closed"


def test_a_half_open_circuit_can_be_reset(upstream: Upstream) -> None:
    """Closing by hand does not wait for the probe, whose answer is void afterwards."""
    breaker = CircuitBreaker(fail_max=1, reset_timeout=10)
    trip(breaker)
    upstream.time.advance(10)
    assert breaker.current_state == "half-open"
    breaker.reset()
    assert breaker.current_state == "closed"


# Shadow mode


@pytest.mark.parametrize("way", WAYS)
def test_a_shadow_never_rejects(upstream: Upstream, way: str) -> None:
    """The circuit opens, and every call is let through all the same."""
    breaker = CircuitBreaker(fail_max=2, reset_timeout=10, mode="shadow")
    call = upstream.guarded(breaker, way)
    upstream.down()

    assert outcomes_of(call, 20) == ["ConnectionError"] * 20
    assert upstream.calls == 20
    assert breaker.current_state == "open"
    assert breaker.would_have_rejected == 18


@pytest.mark.parametrize("way", WAYS)
def test_a_shadow_leaves_the_error_of_the_call_that_trips_it(upstream: Upstream, way: str) -> None:
    """Also where that would be told by a rejection, as pybreaker does."""
    breaker = CircuitBreaker(fail_max=2, mode="shadow", throw_new_error_on_trip=True)
    call = upstream.guarded(breaker, way)
    upstream.down()

    assert outcomes_of(call, 3) == ["ConnectionError"] * 3
    assert breaker.current_state == "open"


def test_a_shadow_recovers_as_the_circuit_would(upstream: Upstream) -> None:
    """Its state is what it would be: half-open at the end, closed by a probe that succeeds."""
    breaker = CircuitBreaker(fail_max=1, reset_timeout=10, mode="shadow")
    call = upstream.guarded(breaker)
    upstream.down()
    outcomes_of(call, 3)
    upstream.up()
    outcomes_of(call, 3)
    assert breaker.current_state == "open"
    upstream.time.advance(10)
    assert breaker.current_state == "half-open"
    outcome_of(call)

    assert breaker.current_state == "closed"


def test_a_shadow_logs_what_would_have_been_rejected(upstream: Upstream) -> None:
    """Its events say that it is one, and on how many calls it has fallen."""
    breaker = CircuitBreaker("search", fail_max=1, reset_timeout=10, mode="shadow")
    call = upstream.guarded(breaker)
    upstream.down()
    with capture_logs() as logs:
        outcomes_of(call, 5)
        upstream.up()
        upstream.time.advance(10)
        outcome_of(call)

    closed = next(one for one in logs if one["event"] == "resilient.circuit_closed")
    assert closed["mode"] == "shadow"
    assert closed["would_have_rejected"] == 4
    assert not metric("resilient_rejections_total", dependency="search", reason="circuit_open")


def test_a_retry_goes_on_under_a_shadow(upstream: Upstream) -> None:
    """The open shadow inside of a retry does not end it: it would not have rejected anything."""
    breaker = CircuitBreaker(fail_max=1, mode="shadow")
    call = retry(on=ConnectionError, attempts=4, budget=None)(breaker(upstream.answer))
    upstream.down()

    assert outcome_of(call) == "ConnectionError"
    assert upstream.calls == 4


# Names


def test_two_breakers_of_one_name_are_an_error(virtual_time: VirtualTime) -> None:
    """The error names the name; the first one keeps it."""
    first = CircuitBreaker("orders")

    with pytest.raises(DuplicateName, match="orders"):
        CircuitBreaker("orders")

    assert first.name == "orders"


def test_one_breaker_can_guard_many_functions(upstream: Upstream) -> None:
    """The same object under its name is no second breaker, and they share the circuit."""
    breaker = CircuitBreaker("orders", fail_max=2)
    upstream.down()
    calls = [upstream.guarded(breaker, way) for way in WAYS]

    assert [outcome_of(call) for call in calls] == ["ConnectionError"] * 2 + ["rejected"] * 4
    assert {pipeline_of(calls[0]).name, pipeline_of(breaker(upstream.answer)).name} == {"orders"}


def test_a_name_is_free_again_when_its_breaker_is_gone(virtual_time: VirtualTime) -> None:
    """A breaker that nobody holds any more does not keep its name."""
    CircuitBreaker("orders")

    assert CircuitBreaker("orders").current_state == "closed"


def test_a_breaker_cannot_be_renamed_to_a_name_that_is_taken(virtual_time: VirtualTime) -> None:
    """It keeps the name that it had, which stays its own."""
    orders, users = CircuitBreaker("orders"), CircuitBreaker("users")

    with pytest.raises(DuplicateName):
        users.name = "orders"
    with pytest.raises(DuplicateName):
        CircuitBreaker("users")

    assert (orders.name, users.name) == ("orders", "users")


def test_a_module_that_is_loaded_anew_may_give_its_names_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a server does that reloads: the new breaker takes the place of the old one."""
    (tmp_path / "reloaded_dependencies.py").write_text(
        "from resilient import CircuitBreaker\norders = CircuitBreaker('reloaded orders')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("reloaded_dependencies")
    try:
        for _ in range(3):
            old = module.orders
            module = importlib.reload(module)
            assert module.orders is not old
            assert module.orders.name == old.name
    finally:
        del sys.modules["reloaded_dependencies"]


def test_a_breaker_that_is_named_anew_leaves_its_name_to_others() -> None:
    """As long as it has one nobody else can have it."""
    breaker = CircuitBreaker("named at first")
    breaker.name = "named anew"
    other = CircuitBreaker("named at first")
    with pytest.raises(DuplicateName):
        other.name = "named anew"
    assert (breaker.name, other.name) == ("named anew", "named at first")


def test_another_module_may_not_take_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two modules that give one name have a conflict, not a reload."""
    for name in ("one_dependencies", "two_dependencies"):
        (tmp_path / f"{name}.py").write_text(
            "from resilient import CircuitBreaker\norders = CircuitBreaker('contested')\n"
        )
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.import_module("one_dependencies")
    try:
        with pytest.raises(DuplicateName, match="contested"):
            importlib.import_module("two_dependencies")
    finally:
        del sys.modules["one_dependencies"]


# Settings


@pytest.mark.parametrize(
    ("settings", "parameter"),
    [
        ({"fail_max": 0}, "fail_max"),
        ({"fail_max": -1}, "fail_max"),
        ({"fail_max": 2.5}, "fail_max"),
        ({"fail_max": True}, "fail_max"),
        ({"failure_rate": 0}, "failure_rate"),
        ({"failure_rate": 1.01}, "failure_rate"),
        ({"failure_rate": 50}, "failure_rate"),
        ({"failure_rate": float("nan")}, "failure_rate"),
        ({"slow_call_rate": 0.5}, "slow_call_seconds"),
        ({"slow_call_seconds": 1}, "slow_call_seconds"),
        ({"slow_call_rate": 0.5, "slow_call_seconds": 0}, "slow_call_seconds"),
        ({"slow_call_rate": 0, "slow_call_seconds": 1}, "slow_call_rate"),
        ({"window": 0}, "window"),
        ({"window": "10"}, "window"),
        ({"window": "0s"}, "window"),
        ({"window": "ten seconds"}, "window"),
        ({"window": 5, "min_calls": 6}, "min_calls"),
        ({"min_calls": 0}, "min_calls"),
        ({"reset_timeout": -1}, "reset_timeout"),
        ({"reset_timeout": float("inf")}, "reset_timeout"),
        ({"reset_timeout": "30"}, "reset_timeout"),
        ({"reset_timeout": 10, "max_reset_timeout": 5}, "max_reset_timeout"),
        ({"probes": 0}, "probes"),
        ({"success_threshold": 0}, "success_threshold"),
        ({"probe": "ping"}, "probe"),
        ({"probe": print, "probe_every": 0}, "probe_every"),
        ({"probe": print, "probe_timeout": 0}, "probe_timeout"),
        ({"mode": "observe"}, "mode"),
        ({"exclude": ["KeyError"]}, "exclude"),
        ({"exclude": [int]}, "exclude"),
        ({"exclude": KeyError}, "exclude"),
        ({"exclude": 404}, "exclude"),
        ({"failures": "KeyError"}, "failures"),
        ({"failures": ()}, "failures"),
        ({"name": ""}, "name"),
        ({"name": 5}, "name"),
    ],
    ids=str,
)
def test_a_wrong_setting_is_told_where_it_is_made(settings: dict[str, Any], parameter: str) -> None:
    """It is a ValueError that names the parameter, and never waits for an outage."""
    with pytest.raises(InvalidSetting, match=parameter) as raised:
        CircuitBreaker(**settings)

    assert isinstance(raised.value, ValueError)
    assert raised.value.parameter == parameter


def test_settings_changed_later_are_checked_as_well(virtual_time: VirtualTime) -> None:
    """A setter is as strict as the constructor, and changes nothing when it refuses."""
    breaker = CircuitBreaker(fail_max=3, reset_timeout=10, success_threshold=2)
    for setting, value in (("fail_max", 0), ("reset_timeout", -1), ("success_threshold", 0)):
        with pytest.raises(InvalidSetting, match=setting):
            setattr(breaker, setting, value)

    assert (breaker.fail_max, breaker.reset_timeout, breaker.success_threshold) == (3, 10, 2)


def test_settings_changed_later_hold_from_then_on(upstream: Upstream) -> None:
    """The next failure is judged by the new fail_max, the next trip by the new period."""
    breaker = CircuitBreaker(fail_max=5, reset_timeout=10)
    call = upstream.guarded(breaker)
    upstream.down()
    outcomes_of(call, 2)
    breaker.fail_max, breaker.reset_timeout = 3, 42

    assert outcomes_of(call, 2) == ["ConnectionError", "rejected"]
    assert breaker.retry_after == 42


# Measuring


def test_detection_and_recovery_are_measured_from_the_first_failure(upstream: Upstream) -> None:
    """Detection ends when the circuit opens, recovery when it is closed again."""
    breaker = CircuitBreaker("ledger", fail_max=3, reset_timeout=10)
    call = upstream.guarded(breaker)
    upstream.down()
    for _ in range(3):
        outcome_of(call)
        upstream.time.advance(2)
    upstream.up()
    upstream.time.advance(20)
    outcome_of(call)

    measures = Measures.of("ledger")
    assert measures.detection.sum == 4.0
    assert measures.recovery.sum == 26.0


def test_every_change_of_the_state_is_counted(upstream: Upstream) -> None:
    """The transitions are those that the circuit has made, by the new state."""
    breaker = CircuitBreaker("ledger", fail_max=1, reset_timeout=10)
    call = upstream.guarded(breaker)
    upstream.down()
    for _ in range(3):
        outcome_of(call)
        upstream.time.advance(10)
    upstream.up()
    outcome_of(call)

    counted = {
        state: metric("resilient_circuit_transitions_total", dependency="ledger", state=state)
        for state in ("closed", "open", "half-open")
    }
    assert counted == {"closed": 1, "open": 3, "half-open": 3}


def test_rejections_are_counted_and_told_apart_from_failures(upstream: Upstream) -> None:
    """A rejected call is no failure of the dependency, in the metrics either."""
    call = upstream.guarded(CircuitBreaker("ledger", fail_max=2, reset_timeout=10))
    upstream.down()
    outcomes_of(call, 7)

    calls = {
        outcome: metric("resilient_calls_total", dependency="ledger", outcome=outcome)
        for outcome in ("success", "failure", "rejected")
    }
    assert calls == {"success": 0, "failure": 2, "rejected": 5}
    assert metric("resilient_rejections_total", dependency="ledger", reason="circuit_open") == 5


def test_the_last_failure_is_shown_until_the_circuit_is_closed(upstream: Upstream) -> None:
    """Whoever looks during an outage sees what it is; afterwards nothing holds on to the error."""
    breaker = CircuitBreaker(fail_max=1, reset_timeout=10)
    call = upstream.guarded(breaker)
    upstream.error = down = ConnectionError("down")
    outcome_of(call)
    assert breaker.last_failure is down
    assert breaker.failing_since == 0.0
    upstream.up()
    upstream.time.advance(10)
    assert breaker.failing_since == 10.0
    outcome_of(call)

    assert breaker.last_failure is None
    assert breaker.failing_since is None


def test_the_factory_in_lower_case_makes_the_same(virtual_time: VirtualTime) -> None:
    """`circuit_breaker(...)` gives a CircuitBreaker."""
    assert isinstance(circuit_breaker("orders"), CircuitBreaker)


def test_a_breaker_without_a_name_takes_that_of_the_function(upstream: Upstream) -> None:
    """Errors and metrics have something to go by, also where nobody gave a name."""
    breaker = CircuitBreaker(fail_max=1)

    @breaker
    def charge() -> None:
        raise ConnectionError

    outcome_of(charge)
    assert breaker.name is not None
    assert breaker.name.endswith("charge")
    assert rejection_of(charge).name == breaker.name
