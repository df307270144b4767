"""Retries: what is tried again, how often, after which pause, and why there is no further one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise
from threading import Barrier, Thread
from typing import Any

import pytest
import tenacity
from structlog.testing import capture_logs

from resilient import (
    BulkheadFull,
    CallTimeout,
    CircuitOpen,
    Dependency,
    InvalidUse,
    RetryBudget,
    bulkhead,
    circuit_breaker,
    deadline,
    pipeline_of,
    retry,
    timeout,
)
from resilient.engine.isolation import broken
from resilient.strategies.retry_after import asked_to_wait
from resilient.testing import VirtualTime
from tests.doubles import Scripted, calls, each, series

DOWN = ConnectionError("connection refused")


def notes(error: BaseException) -> list[str]:
    return list(getattr(error, "__notes__", ()))


def pauses(virtual: VirtualTime, guard: Any, times: int) -> list[float]:
    """Return the seconds between the calls of a dependency that is down, `times` of them."""
    called: list[float] = []

    @guard
    def ask() -> None:
        called.append(virtual.now())
        raise ConnectionError("down")

    with pytest.raises(ConnectionError):
        ask()
    assert len(called) == times
    return [after - before for before, after in pairwise(called)]


# What is tried again


def is_reset(error: BaseException) -> bool:
    return "reset" in str(error)


@pytest.mark.parametrize(
    ("on", "again", "once"),
    [
        (ConnectionError, ConnectionResetError(), KeyError()),
        ((ConnectionError, TimeoutError), TimeoutError(), KeyError()),
        ([ConnectionError], ConnectionError(), KeyError()),
        ({ConnectionError}, ConnectionError(), KeyError()),
        (is_reset, ValueError("reset by peer"), ValueError("no such user")),
        (tenacity.retry_if_exception_type(ConnectionError), ConnectionError(), KeyError()),
        (tenacity.retry_if_not_exception_type(KeyError), ConnectionError(), KeyError()),
        (tenacity.retry_if_exception(is_reset), ValueError("reset"), ValueError("no")),
        (tenacity.retry_if_exception_message(match="reset"), ValueError("reset"), ValueError("no")),
        (
            tenacity.retry_if_exception_type(ConnectionError)
            | tenacity.retry_if_exception_type(TimeoutError),
            TimeoutError(),
            KeyError(),
        ),
        (
            tenacity.retry_if_exception_type(OSError) & tenacity.retry_if_exception(is_reset),
            OSError("reset"),
            OSError("refused"),
        ),
        (tenacity.retry_never, None, ConnectionError()),
    ],
)
def test_every_way_to_say_what_is_tried_again_is_understood(
    virtual_time: VirtualTime, on: Any, again: Exception | None, once: Exception | None
) -> None:
    """Types, predicates and tenacity's objects with their algebra tell what is tried again."""
    for error, attempts in ((again, 2), (once, 1)):
        if error is None:
            continue
        ask = Scripted(error, "answer")
        guarded = retry(on=on)(ask)
        if attempts == 2:
            assert guarded() == "answer"
        else:
            with pytest.raises(type(error)) as caught:
                guarded()
            assert caught.value is error
        assert ask.calls == attempts


def test_an_error_that_is_not_named_is_raised_at_once(virtual_time: VirtualTime) -> None:
    """What `on` does not match is called once, and leaves without a pause."""
    ask = Scripted(ValueError("no such user"))
    began = virtual_time.now()
    with pytest.raises(ValueError, match="no such user") as caught:
        retry(on=ConnectionError)(ask)()
    assert (ask.calls, virtual_time.now()) == (1, began)
    assert any("stopped by: not retryable" in note for note in notes(caught.value))


def test_what_is_tried_again_must_be_said() -> None:
    """A function is not decorated with a retry that does not know what to try again."""
    with pytest.raises(InvalidUse, match=r"retry\(on="):
        retry()(Scripted("answer"))


@pytest.mark.parametrize(
    ("leaves", "attempts"),
    [
        ([ConnectionError(), TimeoutError()], 2),
        ([ConnectionError(), KeyError()], 1),
        ([ExceptionGroup("inner", [ConnectionError()]), TimeoutError()], 2),
        ([ExceptionGroup("inner", [ConnectionError(), KeyError()]), TimeoutError()], 1),
    ],
)
def test_a_group_is_tried_again_if_all_of_its_leaves_are(
    virtual_time: VirtualTime, leaves: list[Exception], attempts: int
) -> None:
    """An exception group counts as what is in it, however deep that is."""
    ask = Scripted(ExceptionGroup("several", leaves))
    with pytest.raises(ExceptionGroup):
        retry(on=(ConnectionError, TimeoutError), attempts=2)(ask)()
    assert ask.calls == attempts


def test_a_group_can_be_named_itself(virtual_time: VirtualTime) -> None:
    """`on=ExceptionGroup` tries every group again, whatever its leaves are."""
    ask = Scripted(ExceptionGroup("several", [KeyError()]), "answer")
    assert retry(on=ExceptionGroup)(ask)() == "answer"


def test_a_value_that_is_disliked_is_tried_again(virtual_time: VirtualTime) -> None:
    """`on_result` is asked about each value, and the first that it lets pass is returned."""
    ask = Scripted("pending", "pending", "done")
    assert retry(on_result=lambda value: value == "pending")(ask)() == "done"
    assert ask.calls == 3


def test_a_value_that_is_liked_is_the_answer_at_once(virtual_time: VirtualTime) -> None:
    """Also on a later attempt; and an error is not tried again where nothing names it."""
    ask = Scripted("bad", "good", "never asked for")
    again = retry(on_result=lambda value: value == "bad", wait=lambda _: 0)
    assert again(ask)() == "good"
    assert ask.calls == 2
    down = Scripted(ConnectionError)
    with pytest.raises(ConnectionError):
        again(down)()
    assert down.calls == 1


def test_the_last_disliked_value_is_returned_as_it_is(virtual_time: VirtualTime) -> None:
    """When attempts end with a value that is disliked, the caller gets that value."""
    ask = Scripted("pending")
    assert retry(on_result=lambda value: value == "pending", attempts=2)(ask)() == "pending"
    assert ask.calls == 2


def test_values_and_errors_can_both_be_tried_again(virtual_time: VirtualTime) -> None:
    """`on` and `on_result` go together."""
    ask = Scripted(ConnectionError(), None, "answer")
    assert retry(on=ConnectionError, on_result=lambda value: value is None)(ask)() == "answer"


@pytest.mark.parametrize(
    "on",
    [
        tenacity.retry_if_result(lambda value: value is None),
        tenacity.retry_if_not_result(lambda value: value is not None),
        tenacity.retry_if_exception_type(ConnectionError)
        | tenacity.retry_if_result(lambda value: value is None),
    ],
)
def test_tenacitys_objects_about_values_are_asked_about_values(
    virtual_time: VirtualTime, on: Any
) -> None:
    """`retry_if_result` works where tenacity's users write it, alone and in a sum."""
    ask = Scripted(None, "answer")
    assert retry(on=on)(ask)() == "answer"
    assert ask.calls == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("on", [BaseException, lambda _: True, tenacity.retry_always])
def test_what_is_no_exception_is_never_tried_again(
    virtual_time: VirtualTime, on: Any, error: type[BaseException]
) -> None:
    """Ctrl-C and its kind leave at once, and no predicate is asked about them."""
    ask = Scripted(error)
    with pytest.raises(error):
        retry(on=on)(ask)()
    assert ask.calls == 1


@pytest.mark.parametrize(
    ("seconds", "attempts", "turns"), [(0.0, 21, 5), (0.002, 21, 20), (0.0, 4, 0)]
)
async def test_tasks_have_their_turn_between_attempts_without_a_pause(
    virtual_time: VirtualTime, seconds: float, attempts: int, turns: int
) -> None:
    """After four attempts that take no time, and after each that takes more than a millisecond."""
    had = 0

    async def other() -> None:
        nonlocal had
        while True:
            had += 1
            await asyncio.sleep(0)

    @retry(on=ConnectionError, attempts=attempts, wait_initial=0, budget=None)
    async def ask() -> None:
        virtual_time.sleep(seconds)
        raise ConnectionError("down")

    task = asyncio.create_task(other())
    with pytest.raises(ConnectionError):
        await ask()
    task.cancel()
    assert had == turns


async def test_a_cancelled_call_is_not_tried_again() -> None:
    """Cancellation of the caller ends the call, whatever `on` names."""
    attempts = 0

    @retry(on=BaseException)
    async def ask() -> None:
        nonlocal attempts
        attempts += 1
        await asyncio.sleep(60)

    task = asyncio.create_task(ask())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert attempts == 1


def test_an_asynchronous_function_is_tried_again_alike(virtual_time: VirtualTime) -> None:
    """Pauses and attempts of a coroutine function are those of a plain one."""
    called: list[float] = []

    @retry(on=ConnectionError, wait=tenacity.wait_fixed(2))
    async def ask() -> str:
        called.append(virtual_time.now())
        if len(called) < 3:
            raise ConnectionError
        return "answer"

    began = virtual_time.now()
    assert virtual_time.run(ask()) == "answer"
    assert called == [began, began + 2, began + 4]


# How often


def test_there_are_three_attempts_unless_more_are_asked_for(virtual_time: VirtualTime) -> None:
    """Retries are bounded by default."""
    ask = Scripted(DOWN)
    with pytest.raises(ConnectionError):
        retry(on=ConnectionError)(ask)()
    assert ask.calls == 3


@pytest.mark.parametrize("attempts", [1, 2, 7])
def test_there_are_as_many_attempts_as_asked_for(virtual_time: VirtualTime, attempts: int) -> None:
    """`attempts` counts the first one too."""
    ask = Scripted(DOWN)
    with pytest.raises(ConnectionError) as caught:
        retry(on=ConnectionError, attempts=attempts)(ask)()
    assert ask.calls == attempts
    assert any(
        f"{attempts} attempt" in note and "stopped by: attempts" in note
        for note in notes(caught.value)
    )


@pytest.mark.parametrize(
    ("stop", "attempts"),
    [
        (tenacity.stop_after_attempt(4), 4),
        (tenacity.stop_after_delay(5), 4),  # calls at 0, 2, 4 and 6
        (tenacity.stop_before_delay(5), 3),  # a call at 6 would be too late
        (tenacity.stop_after_attempt(5) | tenacity.stop_after_delay(3), 3),
        (tenacity.stop_after_attempt(2) & tenacity.stop_after_delay(5), 4),
    ],
)
def test_tenacitys_stop_objects_end_the_attempts(
    virtual_time: VirtualTime, stop: Any, attempts: int
) -> None:
    """Stop objects and their algebra work as in tenacity, on the library's clock."""
    ask = Scripted(DOWN)
    with pytest.raises(ConnectionError):
        retry(on=ConnectionError, stop=stop, wait=tenacity.wait_fixed(2))(ask)()
    assert ask.calls == attempts


def test_tenacitys_event_ends_the_attempts(virtual_time: VirtualTime) -> None:
    """`stop_when_event_set` stops as soon as somebody has set the event."""
    import threading

    stopping = threading.Event()
    stopping.set()
    ask = Scripted(DOWN)
    with pytest.raises(ConnectionError):
        retry(on=ConnectionError, stop=tenacity.stop_when_event_set(stopping))(ask)()
    assert ask.calls == 1


def test_without_a_budget_stop_never_means_for_as_long_as_it_takes(
    virtual_time: VirtualTime,
) -> None:
    """`stop_never` and `budget=None` together take every bound away, as asked for."""
    ask = Scripted(*[ConnectionError] * 200, "answer")
    assert retry(on=ConnectionError, stop=tenacity.stop_never, budget=None)(ask)() == "answer"


# Pauses


@pytest.mark.parametrize(
    ("wait", "expected"),
    [
        (tenacity.wait_none(), [0, 0, 0, 0]),
        (tenacity.wait_fixed(3), [3, 3, 3, 3]),
        (tenacity.wait_incrementing(start=1, increment=2), [1, 3, 5, 7]),
        (tenacity.wait_exponential(multiplier=1, max=4), [1, 2, 4, 4]),
        (tenacity.wait_fixed(1) + tenacity.wait_fixed(2), [3, 3, 3, 3]),
        (tenacity.wait_combine(tenacity.wait_fixed(1), tenacity.wait_fixed(1)), [2, 2, 2, 2]),
        (tenacity.wait_chain(tenacity.wait_fixed(1), tenacity.wait_fixed(5)), [1, 5, 5, 5]),
        (lambda state: state.attempt_number * 10, [10, 20, 30, 40]),
    ],
)
def test_tenacitys_wait_objects_say_how_long_the_pauses_are(
    virtual_time: VirtualTime, wait: Any, expected: list[float]
) -> None:
    """Wait objects without chance give exactly the pauses that they give in tenacity."""
    guard = retry(on=ConnectionError, attempts=5, wait=wait)
    assert pauses(virtual_time, guard, 5) == expected


@pytest.mark.parametrize(
    ("wait", "least", "most"),
    [
        (tenacity.wait_random(1, 2), 1, 2),
        (tenacity.wait_random_exponential(multiplier=1, max=3), 0, 3),
        (tenacity.wait_fixed(1) + tenacity.wait_random(0, 1), 1, 2),
    ],
)
def test_tenacitys_wait_objects_of_chance_stay_within_their_bounds(
    virtual_time: VirtualTime, wait: Any, least: float, most: float
) -> None:
    """Wait objects with chance give many pauses within their bounds."""
    guard = retry(on=ConnectionError, attempts=30, wait=wait, budget=None)
    seen = pauses(virtual_time, guard, 30)
    assert all(least <= pause <= most for pause in seen)
    assert len(set(seen)) > 20


@pytest.mark.skipif(
    not hasattr(tenacity, "wait_exception"), reason="this tenacity has no wait_exception yet"
)
def test_tenacitys_exception_wait_sees_the_error(virtual_time: VirtualTime) -> None:
    """`wait_exception` computes the pause from the error of the last attempt."""
    guard = retry(on=ConnectionError, wait=tenacity.wait_exception(lambda error: len(str(error))))
    assert pauses(virtual_time, guard, 3) == [4, 4]  # "down"


def test_pauses_are_drawn_evenly_below_a_bound_that_doubles_to_its_cap(
    virtual_time: VirtualTime,
) -> None:
    """Full jitter: from 0 up to 0.1, 0.2, 0.4 ... and never above 5 seconds."""
    guard = retry(on=ConnectionError, attempts=9, budget=None)
    samples = [pauses(virtual_time, guard, 9) for _ in range(200)]
    for index, bound in enumerate((0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5)):
        drawn = [sample[index] for sample in samples]
        assert 0 <= min(drawn) < 0.1 * bound
        assert 0.9 * bound < max(drawn) <= bound
        assert 0.4 * bound < sum(drawn) / len(drawn) < 0.6 * bound


def test_the_first_bound_and_the_cap_can_be_chosen(virtual_time: VirtualTime) -> None:
    """`wait_initial` and `wait_max` replace the 0.1 and the 5 seconds."""
    guard = retry(on=ConnectionError, attempts=6, wait_initial=10, wait_max=40, budget=None)
    samples = [pauses(virtual_time, guard, 6) for _ in range(100)]
    for index, bound in enumerate((10, 20, 40, 40, 40)):
        assert 0.8 * bound < max(sample[index] for sample in samples) <= bound


@pytest.mark.parametrize("chosen", [{"wait_initial": 0}, {"wait_max": 0}])
def test_a_pause_of_zero_is_a_pause_of_zero(
    virtual_time: VirtualTime, chosen: dict[str, Any]
) -> None:
    """A deliberate 0 is not replaced by a default."""
    assert pauses(virtual_time, retry(on=ConnectionError, **chosen), 3) == [0, 0]


def test_a_thousandth_attempt_does_not_overflow(virtual_time: VirtualTime) -> None:
    """The bound of the pauses does not grow beyond what a number can hold."""
    guard = retry(on=ConnectionError, attempts=1100, budget=None)
    assert max(pauses(virtual_time, guard, 1100)) <= 5


# The budget


def test_the_budget_ends_the_retries_of_an_outage(virtual_time: VirtualTime) -> None:
    """A bucket of ten allows ten retries, and then none until calls succeed again."""
    ask = Scripted(DOWN)
    guarded = retry(on=ConnectionError)(ask)
    for _ in range(100):
        with pytest.raises(ConnectionError):
            guarded()
    assert ask.calls == 100 + 10


def test_a_long_outage_costs_no_more_than_a_tenth_more_calls_and_ten(
    virtual_time: VirtualTime,
) -> None:
    """Load is at most 1.1 times that of the callers plus ten, however long the outage lasts."""
    budget = RetryBudget()
    ask = Scripted(*["answer"] * 2000, *[ConnectionError] * 9000)
    guarded = retry(on=ConnectionError, budget=budget)(ask)
    callers = 10_000
    for _ in range(callers):
        try:
            guarded()
        except ConnectionError:
            virtual_time.advance(60)
    assert ask.calls <= 1.1 * callers + 10
    assert budget.left < 1


def test_a_dependency_that_fails_every_other_time_stays_within_the_bound(
    virtual_time: VirtualTime,
) -> None:
    """Successes in between fill the bucket by a tenth each, and no more is spent than is there."""
    ask = Scripted(*[ConnectionError, "answer"] * 3000)
    guarded = retry(on=ConnectionError)(ask)
    callers = 2000
    for _ in range(callers):
        try:
            guarded()
        except ConnectionError:
            continue
    assert ask.calls <= 1.1 * callers + 10


def test_nothing_fills_the_budget_with_time(virtual_time: VirtualTime) -> None:
    """A process that is quiet for a day has no more retries than before."""
    ask = Scripted(DOWN)
    guarded = retry(on=ConnectionError, budget=RetryBudget(size=2))(ask)
    for _ in range(2):
        with pytest.raises(ConnectionError):
            guarded()
    virtual_time.advance(86_400)
    before = ask.calls
    with pytest.raises(ConnectionError) as caught:
        guarded()
    assert ask.calls == before + 1
    assert any("stopped by: budget" in note for note in notes(caught.value))


def test_ten_successes_of_the_fast_lane_pay_for_one_retry(virtual_time: VirtualTime) -> None:
    """Successes fill the budget exactly, also those that nobody has settled yet."""
    budget = RetryBudget(size=1)
    assert budget.take()
    ask = Scripted(*["answer"] * 9, ConnectionError, "answer", ConnectionError, "answer")
    guarded = retry(on=ConnectionError, budget=budget)(ask)
    for _ in range(9):
        guarded()
    with pytest.raises(ConnectionError):
        guarded()  # nine tenths are no retry
    assert guarded() == "answer"  # the tenth success
    assert guarded() == "answer"  # fails once, and is tried again
    assert ask.calls == 13


def test_successes_of_all_who_share_a_budget_are_in_it_when_one_of_them_asks(
    virtual_time: VirtualTime,
) -> None:
    """What one function has put in by succeeding, another may take out at once."""
    budget = RetryBudget(size=1, per_success=0.5)
    assert budget.take()
    well = retry(on=ConnectionError, budget=budget)(lambda: "answer")
    for _ in range(2):
        well()
    ask = Scripted(ConnectionError, "answer")
    assert retry(on=ConnectionError, budget=budget)(ask)() == "answer"
    assert budget.left == 0.5


def test_what_is_left_of_a_budget_counts_each_success_so_far(virtual_time: VirtualTime) -> None:
    """Who looks sees what is there, not what was there when somebody last had to know."""
    budget = RetryBudget(size=1, per_success=0.5)
    assert budget.take()
    retry(on=ConnectionError, budget=budget)(lambda: "answer")()
    assert budget.left == 0.5


def test_the_budget_never_holds_more_than_its_size(virtual_time: VirtualTime) -> None:
    """A year of successes does not save up for an outage."""
    budget = RetryBudget(size=3)
    ask = Scripted(*["answer"] * 1000, ConnectionError)
    guarded = retry(on=ConnectionError, attempts=100, budget=budget)(ask)
    for _ in range(1000):
        guarded()
    with pytest.raises(ConnectionError):
        guarded()
    assert ask.calls == 1000 + 1 + 3


def test_the_smallest_part_of_a_retry_counts() -> None:
    """A millionth for each success is a millionth, not nothing."""
    budget = RetryBudget(1, 0.000_001)
    assert budget.take()
    budget.put()
    assert budget.left == 0.000_001


def test_a_budget_can_be_turned_off(virtual_time: VirtualTime) -> None:
    """`budget=None` lets every call have all of its attempts."""
    ask = Scripted(DOWN)
    guarded = retry(on=ConnectionError, budget=None)(ask)
    for _ in range(50):
        with pytest.raises(ConnectionError):
            guarded()
    assert ask.calls == 150


def test_the_functions_of_a_dependency_share_one_budget(virtual_time: VirtualTime) -> None:
    """What one function of a dependency spends is spent for the others."""
    shop = Dependency("shop with one budget", failures=ConnectionError, retry=retry(attempts=3))
    first, second = Scripted(DOWN), Scripted(DOWN)
    guarded = [shop(first), shop(second)]
    for _ in range(20):
        for call in guarded:
            with pytest.raises(ConnectionError):
                call()
    assert first.calls + second.calls == 40 + 10


def test_two_retries_do_not_share_a_budget_unless_told_to(virtual_time: VirtualTime) -> None:
    """Each `retry(...)` has a budget of its own, and one that is handed over is shared."""
    assert retry(on=OSError).budget is not retry(on=OSError).budget
    shared = RetryBudget()
    ask = Scripted(DOWN)
    for guard in (retry(on=OSError, budget=shared), retry(on=OSError, budget=shared)):
        guarded = guard(ask)
        for _ in range(10):
            with pytest.raises(OSError, match="refused"):
                guarded()
    assert ask.calls == 20 + 10


def test_the_accounting_of_the_budget_is_exact_under_threads() -> None:
    """Eight threads that take and put at once end with exactly what is left."""
    budget = RetryBudget(size=1000)
    taken = [0] * 8
    barrier = Barrier(8)

    def spend(index: int) -> None:
        barrier.wait()
        for _ in range(500):
            taken[index] += budget.take()

    threads = [Thread(target=spend, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(taken) == 1000
    assert budget.left == 0


# Deadlines


def test_no_pause_reaches_beyond_the_deadline(virtual_time: VirtualTime) -> None:
    """A retry whose pause would outlast the time that is left is not waited for."""
    ask = Scripted(DOWN)
    guarded = deadline(5)(retry(on=ConnectionError, wait=tenacity.wait_fixed(3), attempts=9)(ask))
    began = virtual_time.now()
    with pytest.raises(ConnectionError) as caught:
        guarded()
    assert (ask.calls, virtual_time.now() - began) == (2, 3)
    assert any("stopped by: deadline" in note for note in notes(caught.value))


def test_no_pause_is_made_that_ends_with_the_deadline(virtual_time: VirtualTime) -> None:
    """An attempt at the very moment at which the time is over would come too late."""
    began = virtual_time.now()
    with deadline(2), pytest.raises(ConnectionError):
        retry(on=ConnectionError, attempts=9, wait=lambda _: 1)(Scripted(ConnectionError))()
    assert virtual_time.now() - began == 1


def test_attempts_are_clipped_to_the_deadline(virtual_time: VirtualTime) -> None:
    """An attempt that begins late has only what is left, not its own limit."""
    begun: list[float] = []

    @timeout(5)
    @retry(on=(ConnectionError, TimeoutError), wait=tenacity.wait_fixed(1), attempts=9)
    @timeout(3)
    def ask() -> None:
        begun.append(virtual_time.now())
        virtual_time.sleep(60)

    start = virtual_time.now()
    with pytest.raises(CallTimeout):
        ask()
    assert begun == [start, start + 4]
    assert virtual_time.now() == start + 5


def test_the_deadline_of_a_caller_further_out_counts_too(virtual_time: VirtualTime) -> None:
    """A nested retry sees the limit of the function that calls it."""
    ask = Scripted(DOWN)
    inner = retry(on=ConnectionError, wait=tenacity.wait_fixed(3), attempts=9)(ask)
    began = virtual_time.now()
    with deadline(5), pytest.raises(ConnectionError):
        inner()
    assert (ask.calls, virtual_time.now() - began) == (2, 3)


def test_a_deadline_that_ends_during_an_attempt_is_the_reason_to_stop(
    virtual_time: VirtualTime,
) -> None:
    """Without time left after an attempt, its own error is raised, and the note says so."""

    @retry(on=ConnectionError, wait=tenacity.wait_none(), attempts=9)
    def ask() -> None:
        virtual_time.sleep(3)
        raise ConnectionError("too slow to fail")

    with deadline(2), pytest.raises(ConnectionError, match="too slow") as caught:
        ask()
    assert any("1 attempt in 3.000 s, stopped by: deadline" in note for note in notes(caught.value))


# Retry-After


class Throttled(Exception):
    def __init__(self, **attributes: Any) -> None:
        super().__init__("throttled")
        self.__dict__.update(attributes)


class Response:
    def __init__(self, headers: Mapping[str, Any]) -> None:
        self.headers = headers


class MappingError(Exception, Mapping[str, Any]):
    """An error that is a mapping itself, as some clients raise."""

    def __getitem__(self, name: str) -> Any:
        return self.args[0][name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.args[0])

    def __len__(self) -> int:
        return len(self.args[0])


class SlottedError(Exception):
    __slots__ = ("retry_after",)

    def __init__(self, seconds: float) -> None:
        super().__init__("throttled")
        self.retry_after = seconds


class ComputingError(Exception):
    def __getattr__(self, name: str) -> Any:
        if name == "retry_after":
            return 7
        raise AttributeError(name)


class InterceptingError(Exception):
    def __getattribute__(self, name: str) -> Any:
        return 7 if name == "retry_after" else super().__getattribute__(name)


def in_ten_seconds() -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=10), usegmt=True)


@each(
    "error",
    {
        "number": Throttled(retry_after=7),
        "text": Throttled(retry_after="7"),
        "fraction": Throttled(retry_after=7.0),
        "timedelta": Throttled(retry_after=timedelta(seconds=7)),
        "header": Throttled(headers={"Retry-After": "7"}),
        "header in lower case": Throttled(headers={"retry-after": "7"}),
        "header of the response": Throttled(response=Response({"Retry-After": "7"})),
        "bytes of the response": Throttled(response=Response({"retry-after": b"7"})),
        "the error as a mapping": MappingError({"Retry-After": 7}),
        "a mapping in the error": Exception({"retry_after": 7}),
        "slot": SlottedError(7),
        "computed": ComputingError("throttled"),
        "intercepted": InterceptingError("throttled"),
    },
)
def test_retry_after_is_honoured_wherever_it_is(
    virtual_time: VirtualTime, error: Exception
) -> None:
    """An attribute, a header of the error or of its response, or a mapping sets the least pause."""
    ask = Scripted(error, "answer")
    began = virtual_time.now()
    assert retry(on=Exception)(ask)() == "answer"
    assert virtual_time.now() - began == 7


@each(
    "make",
    {
        "attribute": lambda: Throttled(retry_after=in_ten_seconds()),
        "header": lambda: Throttled(response=Response({"Retry-After": in_ten_seconds()})),
        "datetime": lambda: Throttled(retry_after=datetime.now(UTC) + timedelta(seconds=10)),
    },
)
def test_retry_after_can_be_a_date(
    virtual_time: VirtualTime, make: Callable[[], Exception]
) -> None:
    """A date is waited for, measured on the wall clock that it is given in."""
    ask = Scripted(make(), "answer")
    began = virtual_time.now()
    retry(on=Throttled)(ask)()
    assert 8 <= virtual_time.now() - began <= 10


def test_a_retry_after_beyond_all_floats_is_none(virtual_time: VirtualTime) -> None:
    """What no number can be is not honoured, and is no error of the one who reads it."""
    error = ConnectionError("busy")
    error.retry_after = 10**400  # type: ignore[attr-defined]
    assert asked_to_wait(error) is None


def test_a_deadline_that_ends_during_a_pause_is_the_reason_to_stop(
    virtual_time: VirtualTime,
) -> None:
    """As where a hook takes its time: the error is that of the attempt before."""
    ask = Scripted(ConnectionError)
    guarded = deadline(2)(
        retry(on=ConnectionError, wait_initial=0, before_sleep=lambda _: virtual_time.sleep(3))(ask)
    )
    with pytest.raises(ConnectionError) as failed:
        guarded()
    assert failed.value.__notes__[0].endswith("1 attempt in 3.000 s, stopped by: deadline")
    assert ask.calls == 1


def test_retry_after_is_capped(virtual_time: VirtualTime) -> None:
    """A callee that asks for a day gets 30 seconds, or what else has been chosen."""
    chosen: list[tuple[dict[str, Any], float]] = [
        ({}, 30),
        ({"max_retry_after": 5}, 5),
        ({"max_retry_after": 0}, 0),
    ]
    for settings, expected in chosen:
        ask = Scripted(Throttled(retry_after=86_400), "answer")
        began = virtual_time.now()
        retry(on=Throttled, wait_initial=0, **settings)(ask)()
        assert virtual_time.now() - began == expected


def test_retry_after_never_shortens_a_pause(virtual_time: VirtualTime) -> None:
    """The backoff still holds when the callee asks for less."""
    ask = Scripted(Throttled(retry_after=1), "answer")
    began = virtual_time.now()
    retry(on=Throttled, wait=tenacity.wait_fixed(4))(ask)()
    assert virtual_time.now() - began == 4


def test_retry_after_beyond_the_deadline_ends_the_attempts(virtual_time: VirtualTime) -> None:
    """Nobody waits for a callee that asks for more time than there is."""
    ask = Scripted(Throttled(retry_after=10), "answer")
    began = virtual_time.now()
    with deadline(5), pytest.raises(Throttled):
        retry(on=Throttled)(ask)()
    assert virtual_time.now() == began


class Unreadable(Exception):
    @property
    def headers(self) -> Any:
        raise RuntimeError("a broken property")


@each(
    "error",
    {
        "words": Throttled(retry_after="soon"),
        "none": Throttled(retry_after=None),
        "bool": Throttled(retry_after=True),
        "nan": Throttled(retry_after=float("nan")),
        "infinite": Throttled(retry_after=float("inf")),
        "infinite as text": Throttled(retry_after="inf"),
        "negative": Throttled(retry_after=-5),
        "past": Throttled(retry_after=datetime(2001, 1, 1, tzinfo=UTC)),
        "past as text": Throttled(retry_after="Mon, 01 Jan 2001 00:00:00 GMT"),
        "no headers": Throttled(headers=None, response=None),
        "list of headers": Throttled(headers=["Retry-After"]),
        "broken headers": Unreadable("broken"),
    },
)
def test_a_retry_after_that_makes_no_sense_is_no_reason_to_wait(
    virtual_time: VirtualTime, error: Exception
) -> None:
    """Rubbish and the past are ignored, and the backoff decides."""
    ask = Scripted(error, "answer")
    began = virtual_time.now()
    assert retry(on=Exception, wait=tenacity.wait_fixed(2))(ask)() == "answer"
    assert virtual_time.now() - began == 2


def test_a_retry_after_that_cannot_be_read_is_counted(virtual_time: VirtualTime) -> None:
    """An attribute that raises is a broken hook, as any other."""

    class Unreadable(Exception):
        @property
        def retry_after(self) -> float:
            raise RuntimeError("a broken property")

    before = broken["retry_after"]
    assert retry(on=Unreadable, wait_initial=0)(Scripted(Unreadable, "answer"))() == "answer"
    assert broken["retry_after"] == before + 1


# What is said about it


def test_the_last_error_is_raised_as_it_was(virtual_time: VirtualTime) -> None:
    """The caller gets the callee's own error, neither wrapped nor chained by us."""
    errors = [ConnectionError(str(number)) for number in (1, 2, 3)]
    ask = Scripted(*errors)
    with pytest.raises(ConnectionError) as caught:
        retry(on=ConnectionError)(ask)()
    assert caught.value is errors[2]
    assert caught.value.__cause__ is None


def test_a_note_says_how_often_how_long_and_why_no_more(virtual_time: VirtualTime) -> None:
    """The error carries one line about its attempts, their time, and the reason for the end."""
    ask = Scripted(ConnectionError("down"))
    guarded = circuit_breaker("noted", fail_max=100)(
        retry(on=ConnectionError, wait=tenacity.wait_fixed(2))(ask)
    )
    for _ in range(3):  # the same error object each time
        with pytest.raises(ConnectionError) as caught:
            guarded()
        assert notes(caught.value) == [
            "resilient: noted: 3 attempts in 4.000 s, stopped by: attempts"
        ]


def test_an_error_that_takes_no_notes_is_raised_all_the_same(virtual_time: VirtualTime) -> None:
    """A foreign error with odd attributes never turns into an error of ours."""

    class Odd(Exception):
        @property
        def __notes__(self) -> list[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
            raise RuntimeError("no notes here")

    with pytest.raises(Odd):
        retry(on=Odd)(Scripted(Odd))()


def test_each_retry_is_an_event_without_arguments(virtual_time: VirtualTime) -> None:
    """`resilient.retry_scheduled` names the dependency, the attempt, the pause and the error."""
    with capture_logs() as logs:
        circuit_breaker("logged retries", fail_max=100)(
            retry(on=ConnectionError, wait=tenacity.wait_fixed(2))(Scripted(DOWN, "answer"))
        )("an argument")
    assert logs == [
        {
            "event": "resilient.retry_scheduled",
            "log_level": "info",
            "dependency": "logged retries",
            "attempt": 1,
            "wait_seconds": 2,
            "error": "ConnectionError",
        }
    ]


def test_attempts_and_retries_are_counted_exactly(virtual_time: VirtualTime) -> None:
    """Two calls of three attempts and one of one are seven attempts and four retries."""
    ask = Scripted(*[ConnectionError] * 2, "answer", *[ConnectionError] * 3, "answer")
    guarded = circuit_breaker("counted retries", fail_max=100)(retry(on=ConnectionError)(ask))
    guarded()
    with pytest.raises(ConnectionError):
        guarded()
    guarded()
    seen = series("counted retries")
    assert seen["resilient_attempts_total"] == 7
    assert seen["resilient_retries_total"] == 4
    assert calls("counted retries") == {"success": 2, "failure": 1}


# Rejections


def test_a_circuit_that_opens_ends_the_attempts(virtual_time: VirtualTime) -> None:
    """Once the circuit further in is open, there is no pause and no further attempt."""
    ask = Scripted(DOWN)
    guarded = retry(on=ConnectionError, attempts=9, wait=tenacity.wait_fixed(1))(
        circuit_breaker("opens within", fail_max=2, reset_timeout=60)(ask)
    )
    began = virtual_time.now()
    with pytest.raises(ConnectionError) as caught:
        guarded()
    assert (ask.calls, virtual_time.now() - began) == (2, 1)
    assert any("2 attempts" in n and "stopped by: circuit" in n for n in notes(caught.value))


def test_a_circuit_that_opens_during_a_pause_ends_the_attempts(virtual_time: VirtualTime) -> None:
    """The attempt that was turned away is none: the note counts the one that was made."""
    breaker = circuit_breaker("opened during a pause", fail_max=9)
    ask = Scripted(ConnectionError)
    again = retry(on=ConnectionError, wait=lambda _: 2, before_sleep=lambda _: breaker.force_open())
    with pytest.raises(ConnectionError) as caught:
        again(breaker(ask))()
    assert ask.calls == 1
    assert caught.value.__notes__ == [
        "resilient: opened during a pause: 1 attempt in 2.000 s, stopped by: circuit"
    ]


def test_a_rejection_is_not_tried_again(virtual_time: VirtualTime) -> None:
    """An open circuit rejects at once, whatever `on` names."""
    ask = Scripted(DOWN)
    breaker = circuit_breaker("rejects at once", fail_max=1, reset_timeout=60)
    guarded = retry(on=Exception, wait=tenacity.wait_fixed(1))(breaker(ask))
    breaker.force_open()
    began = virtual_time.now()
    with pytest.raises(CircuitOpen):
        guarded()
    assert (ask.calls, virtual_time.now()) == (0, began)


def test_a_full_bulkhead_further_in_is_not_tried_again(virtual_time: VirtualTime) -> None:
    """A rejection by the bulkhead is no reason to come back in a moment."""

    @retry(on=Exception)
    @bulkhead(1)
    def ask(depth: int) -> str:
        return ask(depth + 1) if depth == 0 else "too deep"

    began = virtual_time.now()
    with pytest.raises(BulkheadFull):
        ask(0)
    assert virtual_time.now() == began


# Hooks


def test_tenacitys_hooks_are_told(virtual_time: VirtualTime) -> None:
    """`after` is called after each failed attempt, `before_sleep` before each pause."""
    told: list[tuple[str, int, Any]] = []

    def after(state: tenacity.RetryCallState) -> None:
        told.append(("after", state.attempt_number, type(state.outcome.exception())))  # type: ignore[union-attr]

    def before_sleep(state: tenacity.RetryCallState) -> None:
        told.append(("before_sleep", state.attempt_number, state.next_action.sleep))  # type: ignore[union-attr]

    with pytest.raises(ConnectionError):
        retry(
            on=ConnectionError,
            attempts=2,
            wait=tenacity.wait_fixed(2),
            after=after,
            before_sleep=before_sleep,
        )(Scripted(DOWN))()
    assert told == [
        ("after", 1, ConnectionError),
        ("before_sleep", 1, 2.0),
        ("after", 2, ConnectionError),
    ]


def test_a_hook_sees_time_and_pauses_so_far_but_no_arguments(virtual_time: VirtualTime) -> None:
    """A state of tenacity has times and sums on the library's clock; arguments stay out of it."""
    seen: list[tuple[float | None, float, Any, Any]] = []

    def before_sleep(state: tenacity.RetryCallState) -> None:
        seen.append((state.seconds_since_start, state.idle_for, state.args, state.kwargs))

    with pytest.raises(ConnectionError):
        retry(on=ConnectionError, wait=tenacity.wait_fixed(2), before_sleep=before_sleep)(
            Scripted(DOWN)
        )("bob", password="hunter2")
    assert seen == [(0, 2, (), {}), (2, 4, (), {})]


def explode(*_: Any) -> Any:
    raise RuntimeError("a broken hook")


@pytest.mark.parametrize("hook", ["after", "before_sleep"])
def test_a_hook_that_raises_changes_nothing(virtual_time: VirtualTime, hook: str) -> None:
    """A broken hook is counted; attempts go on as without it."""
    hooks: dict[str, Any] = {hook: explode}
    before = broken[f"retry {hook}"]
    assert retry(on=ConnectionError, **hooks)(Scripted(ConnectionError, "answer"))() == "answer"
    assert broken[f"retry {hook}"] == before + 1


def test_a_predicate_that_raises_lets_the_callees_error_pass(virtual_time: VirtualTime) -> None:
    """When `on` itself is broken, the caller gets the error of the call, not that of `on`."""
    ask = Scripted(DOWN)
    before = broken["retry on"]
    with pytest.raises(ConnectionError):
        retry(on=explode)(ask)()
    assert ask.calls == 1
    assert broken["retry on"] == before + 1


def test_a_predicate_on_values_that_raises_lets_the_value_pass(virtual_time: VirtualTime) -> None:
    """When `on_result` is broken, the caller gets the value."""
    ask = Scripted("answer")
    assert retry(on_result=explode)(ask)() == "answer"
    assert ask.calls == 1


def test_a_stop_that_raises_stops(virtual_time: VirtualTime) -> None:
    """A broken stop must not mean attempts without end."""
    ask = Scripted(DOWN)
    with pytest.raises(ConnectionError):
        retry(on=ConnectionError, stop=explode)(ask)()
    assert ask.calls == 1


@each(
    "wait",
    {
        "raises": explode,
        "words": lambda _: "soon",
        "none": lambda _: None,
        "nan": lambda _: float("nan"),
        "infinite": lambda _: float("inf"),
        "negative": lambda _: -1,
    },
)
def test_a_wait_that_makes_no_sense_is_replaced_by_the_librarys_own(
    virtual_time: VirtualTime, wait: Any
) -> None:
    """A broken wait makes neither an error nor a pause without end."""
    seen = pauses(virtual_time, retry(on=ConnectionError, wait=wait), 3)
    assert all(0 <= pause <= 0.2 for pause in seen)


def test_a_hook_is_told_the_pause_that_comes_next(virtual_time: VirtualTime) -> None:
    """As tenacity's own hooks are."""
    told: list[float] = []
    again = retry(
        on=ConnectionError,
        wait=lambda _: 2,
        before_sleep=lambda state: told.append(state.upcoming_sleep),
    )
    with pytest.raises(ConnectionError):
        again(Scripted(ConnectionError))()
    assert told == [2.0, 2.0]


def test_a_pause_is_never_less_than_none(virtual_time: VirtualTime) -> None:
    """Hooks are told the pause that is made, also where a broken wait asked for less than that."""
    told: list[float] = []
    again = retry(
        on=ConnectionError,
        wait=lambda _: -0.5,
        before_sleep=lambda state: told.append(state.upcoming_sleep),
    )
    with pytest.raises(ConnectionError):
        again(Scripted(ConnectionError))()
    assert len(told) == 2
    assert min(told) >= 0


# In general


def test_a_slow_success_needs_no_wall_clock(virtual_time: VirtualTime) -> None:
    """Virtual time is all that passes: a minute of pauses takes no real one."""
    began = time.monotonic()
    pauses(virtual_time, retry(on=ConnectionError, wait=tenacity.wait_fixed(60)), 3)
    assert time.monotonic() - began < 5


def test_the_settings_can_be_read(virtual_time: VirtualTime) -> None:
    """What guards a function shows attempts and budget, and no object's address."""
    guarded = retry(on=ConnectionError, attempts=4)(Scripted("answer"))
    assert (
        repr(pipeline_of(guarded).strategies[0]) == "Retry(attempts=4, budget=RetryBudget(10, 0.1))"
    )


def test_what_all_attempts_and_pauses_may_take_is_told_by_the_settings() -> None:
    """Three attempts have two pauses between them, each at most its bound; one attempt has none."""
    assert retry(on=OSError).longest(2.0) == pytest.approx(3 * 2.0 + 0.1 + 0.2)
    assert retry(on=OSError, attempts=1).longest(2.0) == 2.0
    capped = retry(on=OSError, attempts=5, wait_initial=1, wait_max=3)
    assert capped.longest(0.0) == 1 + 2 + 3 + 3


def test_the_pauses_of_many_attempts_are_added_up_as_well() -> None:
    """Of a number of attempts that stands for no limit, the pauses are not gone through."""
    pauses = [
        retry(on=OSError, attempts=attempts, wait_initial=1, wait_max=1).longest(0.0)
        for attempts in (99, 100, 101, 10**9)
    ]
    assert pauses == [98, 99, 100, 10**9 - 1]
    assert retry(on=OSError, attempts=200, wait_initial=0).longest(1.0) == 200


# What a dependency completes


def test_a_retry_that_knows_what_to_try_again_is_the_same_for_all() -> None:
    """Only one that has been told nothing becomes another one, which knows it."""

    def matches(error: Exception) -> bool:
        return True

    for knowing in (retry(on=OSError), retry(on_result=bool)):
        assert knowing.retrying_on(matches) is knowing
    told_nothing = retry()
    completed = told_nothing.retrying_on(matches)
    assert completed is not told_nothing
    assert completed.budget is told_nothing.budget


def test_the_successes_of_dependencies_are_in_the_budget_that_they_share(
    virtual_time: VirtualTime,
) -> None:
    """Each has a retry of its own made of one, which settles its own functions only."""
    again = retry()
    guarded = [
        Dependency(f"sharing the budget of one: {name}", failures=OSError, retry=again)(
            Scripted("answer")
        )
        for name in ("first", "second")
    ]
    assert again.budget is not None
    while again.budget.take():
        pass
    for function in guarded:
        function()
    pipelines = [pipeline_of(function) for function in guarded]
    pipelines[0].strategies[0].settle()
    assert [len(pipeline.journal) for pipeline in pipelines] == [0, 1]
    assert again.budget.left == pytest.approx(0.2)


def test_the_values_of_a_generator_cannot_be_judged() -> None:
    """It is tried again until its first item; a predicate on what it returns is refused."""

    def numbers() -> Iterator[int]:
        yield 1

    assert list(retry(on=OSError)(numbers)()) == [1]
    for judging in (retry(on_result=bool), retry(on=tenacity.retry_if_result(bool))):
        with pytest.raises(InvalidUse, match="is a generator"):
            judging(numbers)
