"""tenacity's objects, each kind once: what its users wrote means the same here."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import logging
import sys
import threading
from typing import Any

import pytest
import tenacity
from tenacity import asyncio as tenacity_asyncio
from tenacity import stop as stops
from tenacity import wait as waits

from resilient import InvalidSetting, retry
from resilient.testing import VirtualTime
from tests.doubles import Scripted
from tests.project.tree import text_of

STOPPING = threading.Event()
STOPPING.set()

#: How many attempts there are, where each fails at once and two seconds lie between them.
STOPS: dict[str, tuple[Any, int]] = {
    "stop_after_attempt": (tenacity.stop_after_attempt(4), 4),
    "stop_after_delay": (tenacity.stop_after_delay(5), 4),  # calls at 0, 2, 4 and 6
    "stop_before_delay": (tenacity.stop_before_delay(5), 3),  # a call at 6 would be too late
    "stop_when_event_set": (tenacity.stop_when_event_set(STOPPING), 1),
    "stop_any": (
        tenacity.stop_any(tenacity.stop_after_attempt(5), tenacity.stop_after_delay(3)),
        3,
    ),
    "stop_all": (
        tenacity.stop_all(tenacity.stop_after_attempt(2), tenacity.stop_after_delay(5)),
        4,
    ),
}

#: The bounds of the first pauses.
WAITS: dict[str, tuple[Any, list[tuple[float, float]]]] = {
    "wait_none": (tenacity.wait_none(), [(0, 0)] * 4),
    "wait_fixed": (tenacity.wait_fixed(3), [(3, 3)] * 4),
    "wait_random": (tenacity.wait_random(1, 2), [(1, 2)] * 4),
    "wait_incrementing": (
        tenacity.wait_incrementing(start=1, increment=2),
        [(1, 1), (3, 3), (5, 5), (7, 7)],
    ),
    "wait_exponential": (tenacity.wait_exponential(max=4), [(1, 1), (2, 2), (4, 4), (4, 4)]),
    "wait_random_exponential": (
        tenacity.wait_random_exponential(max=3),
        [(0, 1), (0, 2), (0, 3), (0, 3)],
    ),
    "wait_exponential_jitter": (
        tenacity.wait_exponential_jitter(max=6, jitter=0.5),
        [(1, 1.5), (2, 2.5), (4, 4.5), (6, 6)],
    ),
    "wait_combine": (
        tenacity.wait_combine(tenacity.wait_fixed(1), tenacity.wait_random(0, 1)),
        [(1, 2)] * 4,
    ),
    "wait_chain": (
        tenacity.wait_chain(tenacity.wait_fixed(1), tenacity.wait_fixed(5)),
        [(1, 1), (5, 5), (5, 5), (5, 5)],
    ),
}
if hasattr(tenacity, "wait_exception"):  # younger than the oldest version that we take
    WAITS["wait_exception"] = (
        tenacity.wait_exception(lambda error: len(str(error))),
        [(4, 4)] * 4,
    )


def caused(error: Exception, cause: Exception) -> Exception:
    """Return an error with its cause."""
    error.__cause__ = cause
    return error


def is_reset(error: BaseException) -> bool:
    """Whether an error says so."""
    return "reset" in str(error)


def is_none(value: object) -> bool:
    """Whether a value is missing."""
    return value is None


#: An object, what it tries again, and what it does not.
RETRIES: dict[str, tuple[Any, Any, Any]] = {
    "retry_if_exception": (
        tenacity.retry_if_exception(is_reset),
        ValueError("reset"),
        ValueError("no"),
    ),
    "retry_if_exception_type": (
        tenacity.retry_if_exception_type((ConnectionError, TimeoutError)),
        TimeoutError(),
        KeyError(),
    ),
    "retry_if_not_exception_type": (
        tenacity.retry_if_not_exception_type(KeyError),
        ConnectionError(),
        KeyError(),
    ),
    "retry_unless_exception_type": (
        tenacity.retry_unless_exception_type(KeyError),
        "an answer, which is not what it waits for",
        KeyError(),
    ),
    "retry_if_exception_cause_type": (
        tenacity.retry_if_exception_cause_type(OSError),
        caused(ValueError(), caused(KeyError(), ConnectionError())),
        caused(ConnectionError(), ValueError()),
    ),
    "retry_if_result": (tenacity.retry_if_result(is_none), None, "answer"),
    "retry_if_not_result": (tenacity.retry_if_not_result(bool), None, "answer"),
    "retry_if_exception_message": (
        tenacity.retry_if_exception_message(match="reset"),
        ValueError("reset by peer"),
        ValueError("no"),
    ),
    "retry_if_not_exception_message": (
        tenacity.retry_if_not_exception_message(message="gone"),
        ValueError("reset"),
        ValueError("gone"),
    ),
    "retry_any": (
        tenacity.retry_any(
            tenacity.retry_if_exception_type(ConnectionError), tenacity.retry_if_result(is_none)
        ),
        None,
        KeyError(),
    ),
    "retry_all": (
        tenacity.retry_all(
            tenacity.retry_if_exception_type(OSError), tenacity.retry_if_exception(is_reset)
        ),
        ConnectionError("reset"),
        ConnectionError("refused"),
    ),
}


def classes_in(module: Any, base: type) -> set[str]:
    """Return the names of the public classes of a module of tenacity that can be used."""
    return {
        name
        for name, member in vars(module).items()
        if isinstance(member, type)
        and issubclass(member, base)
        and not name.startswith("_")
        and not inspect.isabstract(member)
    }


@pytest.mark.parametrize(
    ("module", "base", "tried"),
    [
        (stops, stops.stop_base, STOPS),
        (waits, waits.wait_base, WAITS),
        # Its name is also that of the decorator.
        (sys.modules["tenacity.retry"], tenacity.retry_base, RETRIES),
    ],
    ids=["stop", "wait", "retry"],
)
def test_no_kind_of_tenacitys_objects_is_left_out(
    module: Any, base: type, tried: dict[str, Any]
) -> None:
    """A kind that a new tenacity brings is noticed, until a line of this file says what it does."""
    assert classes_in(module, base) == tried.keys()


@pytest.mark.parametrize("kind", STOPS)
def test_each_stop_object_ends_the_attempts(virtual_time: VirtualTime, kind: str) -> None:
    """After as many as in tenacity, by the clock of the library."""
    stop, attempts = STOPS[kind]
    ask = Scripted(ConnectionError("down"))

    with pytest.raises(ConnectionError):
        retry(on=ConnectionError, stop=stop, wait=tenacity.wait_fixed(2))(ask)()
    assert ask.calls == attempts


@pytest.mark.parametrize("kind", WAITS)
def test_each_wait_object_says_how_long_a_pause_is(virtual_time: VirtualTime, kind: str) -> None:
    """Each pause lies within the bounds that tenacity gives it."""
    wait, bounds = WAITS[kind]
    times: list[float] = []

    @retry(on=ConnectionError, wait=wait, attempts=5)
    def ask() -> None:
        times.append(virtual_time.now())
        raise ConnectionError("down")

    with pytest.raises(ConnectionError):
        ask()
    pauses = [after - before for before, after in itertools.pairwise(times)]
    assert len(pauses) == len(bounds)
    assert all(
        low - 1e-9 <= pause <= high + 1e-9
        for pause, (low, high) in zip(pauses, bounds, strict=True)
    )


@pytest.mark.parametrize("kind", RETRIES)
def test_each_retry_object_says_what_is_tried_again(virtual_time: VirtualTime, kind: str) -> None:
    """One outcome is tried again; the other one, the second, is what the caller gets."""
    on, again, enough = RETRIES[kind]
    ask = Scripted(again, enough)
    guarded = retry(on=on, attempts=5)(ask)

    if isinstance(enough, Exception):
        with pytest.raises(type(enough)) as raised:
            guarded()
        assert raised.value is enough
    else:
        assert guarded() == enough
    assert ask.calls == 2


@pytest.mark.parametrize(
    ("on", "script", "calls"),
    [
        (tenacity.retry_never, [ConnectionError("down"), "answer"], 1),
        (tenacity.retry_always, [ConnectionError("down"), "answer"], 3),
    ],
    ids=["retry_never", "retry_always"],
)
def test_the_objects_that_always_say_the_same_do_so_here(
    virtual_time: VirtualTime, on: Any, script: list[Any], calls: int
) -> None:
    """`retry_always` tries an answer again as well, until there are no more attempts."""
    ask = Scripted(*script)
    with contextlib.suppress(ConnectionError):
        retry(on=on)(ask)()
    assert ask.calls == calls


def test_attempts_that_never_stop_go_on_until_they_succeed(virtual_time: VirtualTime) -> None:
    """`stop_never` takes the bound away; the budget would be another one."""
    ask = Scripted(*[ConnectionError("down")] * 30, "answer")
    assert retry(on=ConnectionError, stop=tenacity.stop_never, budget=None)(ask)() == "answer"
    assert ask.calls == 31


def test_a_plain_function_in_a_sum_is_asked_about_values(virtual_time: VirtualTime) -> None:
    """Tenacity takes functions of its state for parts of a sum, and so do we."""

    def wants_more(state: tenacity.RetryCallState) -> bool:
        assert state.outcome is not None
        return not state.outcome.failed and state.outcome.result() is None

    ask = Scripted(None, ConnectionError("down"), "answer")
    on = tenacity.retry_any(tenacity.retry_if_exception_type(ConnectionError), wants_more)

    assert retry(on=on)(ask)() == "answer"
    assert ask.calls == 3


async def is_reset_later(error: BaseException) -> bool:
    """Say it when it is awaited."""
    return is_reset(error)


@pytest.mark.parametrize(
    "on",
    [
        tenacity_asyncio.retry_if_exception(is_reset_later),
        tenacity.retry_if_exception_type(OSError)
        | tenacity_asyncio.retry_if_exception(is_reset_later),
        tenacity.retry_any(
            tenacity.retry_if_exception_type(OSError),
            tenacity_asyncio.retry_if_exception(is_reset_later),  # type: ignore[arg-type, unused-ignore]
        ),
    ],
    ids=["alone", "in a sum", "hidden in a sum"],
)
def test_a_retry_object_that_has_to_be_awaited_is_refused(on: Any) -> None:
    """When it is written: what it answers would always be true, as every coroutine is."""
    with pytest.raises(InvalidSetting, match="nobody awaits"):
        retry(on=on)


# Its callbacks


def test_callbacks_see_what_they_see_in_tenacity(virtual_time: VirtualTime) -> None:
    """`after` follows each failed attempt, and `before_sleep` each that is tried again."""
    told: list[tuple[Any, ...]] = []

    def after(state: tenacity.RetryCallState) -> None:
        assert state.outcome is not None
        error = state.outcome.exception()
        told.append(("after", state.attempt_number, str(error), state.seconds_since_start))

    def before_sleep(state: tenacity.RetryCallState) -> None:
        assert state.next_action is not None
        told.append(("sleep", state.attempt_number, state.next_action.sleep, state.idle_for))

    @retry(
        on=ConnectionError,
        stop=tenacity.stop_after_attempt(3),
        wait=tenacity.wait_fixed(2),
        after=after,
        before_sleep=before_sleep,
    )
    def ask() -> None:
        virtual_time.advance(1)
        raise ConnectionError("down")

    with pytest.raises(ConnectionError):
        ask()
    assert told == [
        ("after", 1, "down", 1),
        ("sleep", 1, 2, 2),
        ("after", 2, "down", 4),
        ("sleep", 2, 2, 4),
        ("after", 3, "down", 7),
    ]


def test_tenacitys_own_callbacks_write_their_lines(
    virtual_time: VirtualTime, caplog: pytest.LogCaptureFixture
) -> None:
    """`before_sleep_log` and `after_log` find in the state what they write about."""
    logger = logging.getLogger("tests.tenacity")

    def fetch() -> str:
        return str(ask())

    ask = Scripted(ConnectionError("down"), "answer")
    guarded = retry(
        on=ConnectionError,
        wait=tenacity.wait_fixed(2),
        before_sleep=tenacity.before_sleep_log(logger, logging.INFO),
        after=tenacity.after_log(logger, logging.INFO),
    )(fetch)
    with caplog.at_level(logging.INFO, logger="tests.tenacity"):
        assert guarded() == "answer"

    after, sleeping = [record.getMessage() for record in caplog.records]
    assert "fetch" in after
    assert "1st time calling it" in after
    assert "fetch" in sleeping
    assert "in 2" in sleeping
    assert "ConnectionError: down" in sleeping


def test_every_argument_of_tenacitys_is_taken_or_has_a_way_out() -> None:
    """One that we do not take is a row of the page about moving; so is one of a new tenacity."""
    theirs = set(inspect.signature(tenacity.BaseRetrying.__init__).parameters) - {"self"}
    ours = set(inspect.signature(retry.__init__).parameters)
    page = text_of("docs/moving.md")
    table = page[page.index("## From tenacity") : page.index("## From circuitbreaker")]

    assert theirs & ours == {"stop", "wait", "after", "before_sleep"}
    assert [one for one in sorted(theirs - ours) if f"`{one}=" not in table] == []


@pytest.mark.parametrize("argument", ["before", "retry_error_callback", "reraise", "sleep"])
def test_an_argument_that_is_not_taken_is_an_error_when_decorating(argument: str) -> None:
    """Nothing that was asked for is silently left out."""
    with pytest.raises(TypeError, match=argument):
        retry(on=ConnectionError, **{argument: None})  # type: ignore[arg-type]
