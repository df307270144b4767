"""Rate limits: how many calls there are in a stretch of time, and when the next one may come."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from resilient import RateLimited, bulkhead, circuit_breaker, deadline, rate_limit, retry
from resilient.testing import VirtualTime
from tests.doubles import Scripted, calls, series


def test_as_many_calls_pass_as_allowed(virtual_time: VirtualTime) -> None:
    """Five calls a second are five at once, and the sixth is rejected."""
    ask = Scripted("answer")
    guarded = rate_limit(5, per=1)(ask)
    for _ in range(5):
        guarded()
    with pytest.raises(RateLimited):
        guarded()
    assert ask.calls == 5


@pytest.mark.parametrize(("limit", "per"), [(1, 1), (5, 1), (3, 1), (7, 60), (1000, 0.1)])
def test_the_time_until_the_next_call_is_exact(
    virtual_time: VirtualTime, limit: int, per: float
) -> None:
    """After exactly `retry_after` a call passes, and a thousandth before that none does."""
    guarded = rate_limit(limit, per=per)(Scripted("answer"))
    for _ in range(limit):
        guarded()
    for _ in range(3):
        with pytest.raises(RateLimited) as caught:
            guarded()
        assert caught.value.retry_after is not None
        assert caught.value.retry_after == pytest.approx(per / limit)
        virtual_time.advance(caught.value.retry_after * 0.999)
        with pytest.raises(RateLimited) as caught:
            guarded()
        assert caught.value.retry_after is not None
        virtual_time.advance(caught.value.retry_after)
        assert guarded() == "answer"


def test_the_average_holds_over_a_long_time(virtual_time: VirtualTime) -> None:
    """Callers that try all the time get ten calls a second, and a burst at the beginning."""
    ask = Scripted("answer")
    guarded = rate_limit(10, per=1)(ask)
    for _ in range(60 * 50):
        with suppress(RateLimited):
            guarded()
        virtual_time.advance(0.02)
    assert ask.calls == pytest.approx(10 + 600, abs=1)


def test_a_burst_can_be_smaller_than_the_limit(virtual_time: VirtualTime) -> None:
    """`burst=1` spreads the calls evenly, `burst=3` lets three come at once."""
    for burst in (1, 3):
        guarded = rate_limit(10, per=1, burst=burst)(Scripted("answer"))
        for _ in range(burst):
            guarded()
        with pytest.raises(RateLimited):
            guarded()
        virtual_time.advance(0.1)
        guarded()
        with pytest.raises(RateLimited):
            guarded()


def test_quiet_times_save_up_no_more_than_a_burst(virtual_time: VirtualTime) -> None:
    """An hour without calls lets no more than the burst pass at once."""
    ask = Scripted("answer")
    guarded = rate_limit(10, per=1, burst=2)(ask)
    virtual_time.advance(3600)
    for _ in range(5):
        with suppress(RateLimited):
            guarded()
    assert ask.calls == 2


def test_a_call_waits_for_its_turn_if_told_to(virtual_time: VirtualTime) -> None:
    """With `max_wait` calls are spread over time, and rejected if it would take longer."""
    called: list[float] = []
    began = virtual_time.now()

    @rate_limit(2, per=1, burst=1, max_wait=1.2)
    async def ask() -> None:
        called.append(virtual_time.now() - began)

    async def main() -> list[BaseException | None]:
        return await asyncio.gather(*(ask() for _ in range(5)), return_exceptions=True)

    results = virtual_time.run(main())
    assert called == [0, 0.5, 1.0]
    assert [type(one) for one in results[3:]] == [RateLimited, RateLimited]
    assert isinstance(results[3], RateLimited)
    assert results[3].retry_after == pytest.approx(1.5)


def test_a_synchronous_call_waits_alike(virtual_time: VirtualTime) -> None:
    """Waiting for a turn takes the same time on a thread."""
    guarded = rate_limit(2, per=1, burst=1, max_wait=5)(virtual_time.now)
    began = virtual_time.now()
    assert [guarded() - began for _ in range(3)] == [0, 0.5, 1.0]


def test_nobody_waits_beyond_the_deadline(virtual_time: VirtualTime) -> None:
    """A turn that comes after the end of the time is not waited for."""
    ask = Scripted("answer")
    guarded = rate_limit(1, per=10, max_wait=60)(ask)
    guarded()
    began = virtual_time.now()
    with deadline(5), pytest.raises(RateLimited):
        guarded()
    assert (ask.calls, virtual_time.now()) == (1, began)


def test_a_rejection_costs_no_token(virtual_time: VirtualTime) -> None:
    """A hundred calls too many do not put off the next one."""
    guarded = rate_limit(1, per=1)(Scripted("answer"))
    guarded()
    for _ in range(100):
        with pytest.raises(RateLimited):
            guarded()
    virtual_time.advance(1)
    assert guarded() == "answer"


def test_a_rejection_says_what_the_limit_is(virtual_time: VirtualTime) -> None:
    """The error has the name, the limit, and the time until the next call."""
    guarded = circuit_breaker("geocoder", fail_max=1)(rate_limit(2, per=60)(Scripted("answer")))
    guarded()
    guarded()
    with pytest.raises(RateLimited, match="geocoder: more than 2 calls in 60 s") as caught:
        guarded()
    assert (caught.value.limit, caught.value.per, caught.value.retry_after) == (2, 60, 30)


def test_a_rejection_is_no_evidence_about_the_dependency(virtual_time: VirtualTime) -> None:
    """A breaker around a rate limit stays closed, and the outcome is `rejected`."""
    breaker = circuit_breaker("not too fast", fail_max=1)
    guarded = breaker(rate_limit(1, per=60)(Scripted("answer")))
    guarded()
    for _ in range(3):
        with pytest.raises(RateLimited):
            guarded()
    assert breaker.current_state == "closed"
    assert calls("not too fast") == {"success": 1, "rejected": 3}
    assert series("not too fast")["resilient_rejections_total{rate_limited}"] == 3


def test_each_attempt_takes_a_token(virtual_time: VirtualTime) -> None:
    """A rate limit within a retry counts attempts, and the first of them once only."""
    ask = Scripted(ConnectionError)
    guarded = retry(on=ConnectionError, wait=lambda _: 0, budget=None)(rate_limit(6, per=60)(ask))
    for _ in range(2):
        with pytest.raises(ConnectionError):
            guarded()
    assert ask.calls == 6
    with pytest.raises(RateLimited):
        guarded()


def test_a_rate_limit_around_a_retry_counts_calls(virtual_time: VirtualTime) -> None:
    """A rate limit outside of a retry takes one token for all attempts of a call."""
    ask = Scripted(ConnectionError)
    guarded = rate_limit(2, per=60)(retry(on=ConnectionError, wait=lambda _: 0, budget=None)(ask))
    for _ in range(2):
        with pytest.raises(ConnectionError):
            guarded()
    assert ask.calls == 6
    with pytest.raises(RateLimited):
        guarded()


def test_a_call_that_a_bulkhead_stops_has_taken_one_token(virtual_time: VirtualTime) -> None:
    """The fast lane and the slow lane do not both take a token for one call."""
    guard = bulkhead(1)
    guarded = rate_limit(3, per=60)(guard(Scripted("answer")))
    with guard:
        for _ in range(2):
            with pytest.raises(Exception, match="max_concurrent=1"):
                guarded()
    assert guarded() == "answer"
    with pytest.raises(RateLimited):
        guarded()


def test_two_rate_limits_take_one_token_each(virtual_time: VirtualTime) -> None:
    """A call that the inner limit rejects has taken one token of the outer, not two."""
    guarded = rate_limit(4, per=60)(rate_limit(1, per=1)(Scripted("answer")))
    assert guarded() == "answer"
    for _ in range(2):
        with pytest.raises(RateLimited, match="more than 1 calls in 1 s"):
            guarded()
    virtual_time.advance(1)
    assert guarded() == "answer"
    with pytest.raises(RateLimited, match="more than 4 calls in 60 s"):
        guarded()


def test_functions_share_the_limit_of_one_object(virtual_time: VirtualTime) -> None:
    """One object around two functions is one limit."""
    limit = rate_limit(2, per=60)
    first, second = limit(Scripted("answer")), limit(Scripted("answer"))
    first()
    second()
    with pytest.raises(RateLimited):
        first()


def test_a_block_takes_a_token(virtual_time: VirtualTime) -> None:
    """`with` takes one token, and does not run its body without."""
    limit = rate_limit(1, per=60)
    with limit:
        pass
    with pytest.raises(RateLimited):
        limit.__enter__()


def test_a_call_that_is_cancelled_while_it_waits_has_spent_its_token(
    virtual_time: VirtualTime,
) -> None:
    """A token that was promised to a call is not given to the next one."""
    limit = rate_limit(1, per=1, max_wait=10)

    @limit
    async def ask() -> float:
        return virtual_time.now()

    async def main() -> float:
        begun = await ask()
        waiting = asyncio.ensure_future(ask())
        await asyncio.sleep(0.5)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return await ask() - begun

    assert virtual_time.run(main()) == pytest.approx(2)
