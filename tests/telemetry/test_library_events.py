"""The library's own events: which there are, what they say, and how often it is said."""

# What returns Any may be a coroutine, for all that a type checker knows.
# pyright: reportUnusedCoroutine=false

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

import resilient
from resilient import (
    CircuitOpen,
    Dependency,
    Pipeline,
    bulkhead,
    cached,
    circuit_breaker,
    rate_limit,
    retry,
    subscribe,
    timeout,
    unsubscribe,
    with_fallback,
)
from resilient.engine import signals
from resilient.telemetry.events import EVENTS, REPEAT_KEYS
from resilient.testing import VirtualTime
from tests.doubles import Scripted, each

SRC = Path(resilient.__file__).parent
PAGE = SRC.parents[1] / "docs" / "events.md"


@pytest.fixture
def logs(virtual_time: VirtualTime) -> Iterator[list[Any]]:
    """What is logged, in virtual time."""
    with capture_logs() as captured:
        yield captured


def lines(logs: list[Any], event: str) -> list[dict[str, Any]]:
    """Return what has been logged of one event, without what all of its lines have."""
    common = ("event", "log_level", "dependency", "reason", "seconds")
    return [
        {key: value for key, value in log.items() if key not in common}
        for log in logs
        if log["event"] == f"resilient.{event}"
    ]


def total(logs: list[Any], event: str) -> int:
    """Return how many occurrences the lines of one event stand for."""
    return sum(line.get("count", 1) for line in lines(logs, event))


# The catalogue


def emitted() -> dict[str, set[str]]:
    """Return every event that the source can emit, with the keys that are written there."""
    found: dict[str, set[str]] = {}
    for path in SRC.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            called = getattr(node.func, "attr", getattr(node.func, "id", None))
            name = node.args[0]
            if called == "emit" and isinstance(name, ast.Constant):
                keys = {keyword.arg for keyword in node.keywords if keyword.arg is not None}
                found.setdefault(str(name.value), set()).update(keys)
    return found


def documented() -> dict[str, tuple[str, set[str]]]:
    """Return the level and the keys of every event that the page lists."""
    rows = re.findall(r"^\| `(resilient\.\w+)` \| (\w+) \| (.*?) \|", PAGE.read_text(), re.M)
    return {name: (level, set(re.findall(r"`(\w+)`", keys))) for name, level, keys in rows}


def test_every_event_that_can_be_emitted_is_listed_with_its_keys() -> None:
    """The catalogue has each event of the source, and none that there is not."""
    found = emitted()
    assert set(found) == set(EVENTS)
    unlisted = {name: keys - set(EVENTS[name].keys) for name, keys in found.items()}
    assert {name: keys for name, keys in unlisted.items() if keys} == {}


def test_the_page_lists_every_event_with_level_and_keys() -> None:
    """What the documentation says of each event is what the library does."""
    assert documented() == {name: (event.level, set(event.keys)) for name, event in EVENTS.items()}


def test_an_event_has_no_key_that_is_not_listed(logs: list[Any], virtual_time: VirtualTime) -> None:
    """An outage in which everything happens is told in listed keys alone."""
    shop = Dependency(
        "all that happens",
        retry=retry(on=Exception, attempts=2, wait_initial=0, budget=None),
        breaker=circuit_breaker(fail_max=4, reset_timeout=5),
        timeout=1,
        rate_limit=rate_limit(50),
        owner="team shop",
        runbook="https://runbooks.example/shop",
    )
    down = True

    def answer() -> str:
        if down:
            virtual_time.sleep(3)
        return "answer"

    guarded = shop.with_fallback(cached(ttl=60), "instead")(answer)
    for _ in range(5):
        guarded()
    down = False
    virtual_time.advance(30)
    assert guarded() == "answer"
    names = Counter(log["event"] for log in logs)
    assert {name.removeprefix("resilient.") for name in names} == {
        "call_timed_out",
        "retry_scheduled",
        "circuit_opened",
        "call_rejected",
        "fallback_served",
        "circuit_half_opened",
        "circuit_closed",
        "recovered",
    }
    for log in logs:
        event = EVENTS[log["event"]]
        assert log["log_level"] == event.level
        allowed = {*event.keys, *(REPEAT_KEYS if event.limit else ())}
        assert set(log) - {"event", "log_level"} <= allowed


def test_an_open_circuit_says_what_is_on_call_for(
    logs: list[Any], virtual_time: VirtualTime
) -> None:
    """What failed, how, since when, what is served instead, when it is tried again, whose it is."""
    shop = Dependency(
        "told to those on call",
        breaker=circuit_breaker(fail_max=2, reset_timeout=5),
        owner="team shop",
        runbook="https://runbooks.example/shop",
    )
    guarded = shop.with_fallback(cached(ttl=60), "instead")(Scripted(ConnectionError))
    guarded()
    virtual_time.advance(2)
    guarded()
    [opened] = [log for log in logs if log["event"] == "resilient.circuit_opened"]
    assert opened == {
        "event": "resilient.circuit_opened",
        "log_level": "error",
        "dependency": "told to those on call",
        "reason": "consecutive_failures",
        "failures": 2,
        "calls": 2,
        "error": "ConnectionError",
        "failing_for_seconds": 2,
        "retry_in_seconds": 5,
        "served_instead": "cached, default",
        "owner": "team shop",
        "runbook": "https://runbooks.example/shop",
    }


def test_an_open_circuit_without_a_fallback_says_so(logs: list[Any]) -> None:
    """Where callers get the error, nothing is served instead."""
    guarded = circuit_breaker("nothing instead", fail_max=1, reset_timeout=5)(
        Scripted(ConnectionError)
    )
    with pytest.raises(ConnectionError):
        guarded()
    assert lines(logs, "circuit_opened")[0]["served_instead"] == "nothing"


# The limit on repeats


def rejecting(name: str, ask: Any, *, reset_timeout: float = 60) -> Any:
    """Return a guarded function whose circuit has just opened, with a default."""
    breaker = circuit_breaker(name, fail_max=1, reset_timeout=reset_timeout)
    guarded = with_fallback("instead")(breaker(ask))
    assert guarded() == "instead"
    return guarded


def test_ten_thousand_rejections_a_second_are_a_handful_of_lines(
    logs: list[Any], virtual_time: VirtualTime
) -> None:
    """An outage of a minute, with 10,000 calls in its first second: seven lines of each kind."""
    ask = Scripted(ConnectionError, "answer")
    guarded = rejecting("ten thousand a second", ask)
    calls = 0
    for second in range(60):
        for _ in range(100 if second else 10_000):
            guarded()
            calls += 1
        virtual_time.advance(1)
    guarded()  # the probe, which succeeds
    assert lines(logs, "call_rejected") == [
        {"retry_in_seconds": 60.0},
        {"retry_in_seconds": 50.75, "count": 10_899, "for_seconds": 10.0},
        *(
            {"retry_in_seconds": 50.75 - past, "count": 1000, "for_seconds": 10.0 + past}
            for past in range(10, 60, 10)
        ),
    ]
    assert total(logs, "call_rejected") == calls == 15_900
    assert total(logs, "fallback_served") == calls + 1
    assert len(logs) <= 20
    told = [log["event"] for log in logs]
    assert told[-2:] == ["resilient.circuit_closed", "resilient.recovered"]


@each("around", {"the fast lane": (), "the slow lane": (retry(on=KeyError),)})
def test_of_a_rejection_is_told_when_a_call_may_be_let_through(
    logs: list[Any], virtual_time: VirtualTime, around: tuple[Any, ...]
) -> None:
    """With a health check, that is the next of those, as the error says, too."""
    breaker = circuit_breaker(
        "asked each second",
        fail_max=1,
        reset_timeout=30,
        probe=Scripted(ConnectionError),
        probe_every=1,
    )
    guarded = Pipeline(*around, breaker)(Scripted(ConnectionError))
    with pytest.raises(ConnectionError):
        guarded()
    virtual_time.advance(0.25)
    with pytest.raises(CircuitOpen) as rejected:
        guarded()
    assert rejected.value.retry_after == 0.75
    assert lines(logs, "call_rejected") == [{"retry_in_seconds": 0.75}]


def test_the_first_of_each_kind_is_told_at_once(logs: list[Any]) -> None:
    """Another dependency, tier or reason is news, however much of the others there is."""

    def failing(name: str, error: Any, *tiers: Any) -> Any:
        return circuit_breaker(name, fail_max=99)(with_fallback(*tiers)(Scripted(error)))

    for guarded in (
        failing("one kind", ConnectionError, "instead"),
        failing("another dependency", ConnectionError, "instead"),
        failing("another reason", ConnectionError, "instead"),
    ):
        for _ in range(10):
            guarded()
    assert len(lines(logs, "fallback_served")) == 3


def test_retries_are_summed_up_with_the_last_one(
    logs: list[Any], virtual_time: VirtualTime
) -> None:
    """A summary has the fields of the last occurrence, how many there were, and since when."""
    guarded = circuit_breaker("many retries", fail_max=999)(
        retry(on=ConnectionError, attempts=3, wait=lambda _: 0.5, budget=None)(
            Scripted(ConnectionError)
        )
    )
    for _ in range(10):
        with pytest.raises(ConnectionError):
            guarded()
    virtual_time.advance(10)
    assert lines(logs, "retry_scheduled") == [
        {"attempt": 1, "wait_seconds": 0.5, "error": "ConnectionError"},
        {
            "attempt": 2,
            "wait_seconds": 0.5,
            "error": "ConnectionError",
            "count": 19,
            "for_seconds": 10.0,
        },
    ]


def test_timeouts_are_summed_up(logs: list[Any], virtual_time: VirtualTime) -> None:
    """A thousand calls that were not back in time are one line in ten seconds."""
    guarded = circuit_breaker("many timeouts", fail_max=9999)(timeout(0.01)(virtual_time.sleep))
    for _ in range(1000):
        with pytest.raises(TimeoutError):
            guarded(1)
    virtual_time.advance(10)
    assert lines(logs, "call_timed_out")[:2] == [{}, {"count": 999, "for_seconds": 10.0}]


def test_what_a_bulkhead_and_a_rate_limit_reject_is_told(
    logs: list[Any], virtual_time: VirtualTime
) -> None:
    """Each reason for a rejection is an event of its own kind, with when to try again."""
    full = bulkhead(1)
    guarded = circuit_breaker("full", fail_max=9)(full(Scripted("answer")))
    with full:
        for _ in range(5):
            with pytest.raises(resilient.BulkheadFull):
                guarded()
    limited = circuit_breaker("limited", fail_max=9)(rate_limit(1, per=60)(Scripted("answer")))
    limited()
    for _ in range(5):
        with pytest.raises(resilient.RateLimited):
            limited()
    virtual_time.advance(10)
    reasons = [
        (log["reason"], log.get("count", 1), log.get("retry_in_seconds"))
        for log in logs
        if log["event"] == "resilient.call_rejected"
    ]
    assert reasons == [
        ("bulkhead_full", 1, None),
        ("rate_limited", 1, 60.0),
        ("bulkhead_full", 4, None),
        ("rate_limited", 4, 60.0),
    ]


def test_what_has_not_happened_for_a_while_is_news_again(
    logs: list[Any], virtual_time: VirtualTime
) -> None:
    """After an interval without it, the next occurrence is told at once, and no timer is left."""
    guarded = with_fallback("instead")(Scripted(ConnectionError))
    guarded()
    guarded()
    virtual_time.advance(10)  # a summary of one
    virtual_time.advance(10)  # nothing to sum up
    assert virtual_time.next_due() is None
    guarded()
    counts = [line.get("count") for line in lines(logs, "fallback_served")]
    assert counts == [None, 1, None]


def test_a_summary_that_there_is_no_thread_for_is_told_all_the_same(
    logs: list[Any], virtual_time: VirtualTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the thread of timers, which may have to wait for a sink then."""
    guarded = with_fallback("instead")(Scripted(ConnectionError))
    guarded()
    guarded()
    monkeypatch.setattr(virtual_time, "background", lambda _function: False)
    virtual_time.advance(10)
    assert [line.get("count") for line in lines(logs, "fallback_served")] == [None, 1]


def test_the_end_of_an_outage_tells_what_was_left_to_tell(
    logs: list[Any], virtual_time: VirtualTime
) -> None:
    """The last summary comes before the circuit is told closed, and the next outage is new."""
    ask = Scripted(ConnectionError, "answer", ConnectionError)
    guarded = rejecting("told to the end", ask, reset_timeout=3)
    for _ in range(7):
        guarded()
    virtual_time.advance(3)
    assert guarded() == "answer"
    assert [log["event"].removeprefix("resilient.") for log in logs[-5:]] == [
        "circuit_half_opened",
        "call_rejected",
        "fallback_served",
        "circuit_closed",
        "recovered",
    ]
    assert total(logs, "call_rejected") == 7
    assert total(logs, "fallback_served") == 8
    before = len(lines(logs, "fallback_served"))
    guarded()
    assert len(lines(logs, "fallback_served")) == before + 1


def test_a_summary_has_nothing_of_the_call_during_which_it_is_told(
    virtual_time: VirtualTime,
) -> None:
    """The one who closes the circuit has a request id, which is not that of the others."""
    seen: list[dict[str, Any]] = []

    def keep(_logger: Any, _name: str, event: Any) -> Any:
        seen.append(dict(event))
        raise structlog.DropEvent

    structlog.configure(processors=[structlog.contextvars.merge_contextvars, keep])
    try:
        guarded = rejecting("whose summary", Scripted(ConnectionError, "answer"), reset_timeout=3)
        guarded()
        guarded()
        virtual_time.advance(3)
        with structlog.contextvars.bound_contextvars(request_id="r1"):
            guarded()
    finally:
        structlog.reset_defaults()
    with_count = [one for one in seen if "count" in one]
    assert with_count
    assert all("request_id" not in one for one in with_count)
    assert seen[-1]["request_id"] == "r1"


class Uncomparable:
    """A listener that comes back, and raises, when it is compared with another."""

    def __call__(self, name: str, fields: Any) -> None: ...

    def __eq__(self, other: object) -> bool:
        subscribe(_nobody)  # which waits for any lock that is held meanwhile
        raise RuntimeError("incomparable")

    __hash__ = object.__hash__


def _nobody(_name: str, _fields: Any) -> None: ...


def test_a_listener_that_cannot_be_compared_keeps_nobody_from_leaving() -> None:
    """Others are unsubscribed while it listens, and it is itself, by being the same object."""
    odd, told = Uncomparable(), Uncomparable().__call__
    subscribe(odd)
    subscribe(told)
    unsubscribe(told)
    unsubscribe(odd)
    unsubscribe(_nobody)
    left = {id(one) for one in signals._listeners}
    assert not left & {id(odd), id(told), id(_nobody)}


def test_a_listener_is_told_of_each_one(logs: list[Any], virtual_time: VirtualTime) -> None:
    """The first at once, and what an open circuit turns away in sums of a quarter of a second."""
    heard: list[tuple[str, int]] = []

    def listen(name: str, fields: Any) -> None:
        heard.append((name, fields.get("count", 1)))

    guarded = rejecting("listened to", Scripted(ConnectionError))
    subscribe(listen)
    try:
        for _ in range(500):
            guarded()
        virtual_time.advance(0.25)
        guarded()
    finally:
        unsubscribe(listen)
    assert heard == [
        ("resilient.call_rejected", 1),
        ("resilient.fallback_served", 1),
        ("resilient.call_rejected", 499),
        ("resilient.fallback_served", 499),
    ]


class Counting:
    """Has a method that listens."""

    def __init__(self) -> None:
        self.heard = 0

    def listen(self, name: str, fields: Any) -> None:
        self.heard += 1


def test_a_method_that_listened_stops_like_a_function() -> None:
    """It is another object each time that it is asked for; the same method of others goes on."""
    one, other = Counting(), Counting()
    subscribe(one.listen)
    subscribe(other.listen)
    unsubscribe(one.listen)
    signals.emit("resilient.call_timed_out", dependency="method", seconds=1)
    unsubscribe(other.listen)
    signals.emit("resilient.call_timed_out", dependency="method", seconds=1)
    assert (one.heard, other.heard) == (0, 1)


def test_the_kinds_that_are_kept_apart_are_bounded(
    logs: list[Any], virtual_time: VirtualTime
) -> None:
    """Events of 5,000 dependencies are 1,000 kinds, and one for all others; none is lost."""
    for number in range(5000):
        signals.emit("resilient.call_timed_out", dependency=f"host {number}", seconds=1)
    first = len(logs)
    virtual_time.advance(10)
    assert first == 1001
    assert logs[first:] == [
        {
            "event": "resilient.call_timed_out",
            "log_level": "warning",
            "dependency": "other",
            "seconds": 1,
            "count": 3999,
            "for_seconds": 10.0,
        }
    ]


def test_a_sink_that_fails_does_not_stop_the_summaries(virtual_time: VirtualTime) -> None:
    """The others are told, and so is the next one."""
    told: list[Any] = []

    def keep(_logger: Any, _name: str, event: Any) -> Any:
        told.append(event["event"])
        raise OSError("no space left on device")

    structlog.configure(processors=[keep])
    try:
        guarded = rejecting("with a full disk", Scripted(ConnectionError))
        for _ in range(3):
            guarded()
            guarded()
            virtual_time.advance(10)
    finally:
        structlog.reset_defaults()
    assert Counter(told)["resilient.call_rejected"] == 4
    assert Counter(told)["resilient.fallback_served"] == 5  # the first for another reason


def run(program: str) -> str:
    """Run `program` in a process of its own and return what it writes to standard error."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    ).stderr


def test_what_is_left_to_tell_is_told_when_the_process_ends() -> None:
    """A process that ends within the interval says how often it has happened."""
    told = run(
        "import resilient\n"
        "@resilient.with_fallback('instead')\n"
        "def ask(): raise ConnectionError\n"
        "for _ in range(50): ask()\n"
    )
    assert [line.split(" ")[0] for line in told.splitlines()] == ["resilient.fallback_served"] * 2
    assert "count=49" in told


def test_a_forked_child_tells_nothing_of_its_parent(logs: list[Any]) -> None:
    """What the parent has counted is the parent's to tell."""
    guarded = with_fallback("instead")(Scripted(ConnectionError))
    for _ in range(5):
        guarded()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        logs.clear()
        guarded()
        os.write(writing, repr([log.get("count") for log in logs]).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 100) == b"[None]"
    os.close(reading)
    os.close(writing)


# Where they go


def test_without_structlog_events_go_to_logging(
    virtual_time: VirtualTime, caplog: pytest.LogCaptureFixture
) -> None:
    """Who has not configured structlog finds them under the logger `resilient`."""
    structlog.reset_defaults()
    with caplog.at_level("INFO", logger="resilient"):
        with_fallback("instead")(Scripted(ConnectionError))()
    [record] = caplog.records
    assert (record.name, record.levelname) == ("resilient", "WARNING")
    assert record.getMessage().startswith("resilient.fallback_served dependency=")
    assert "tier=default reason=ConnectionError" in record.getMessage()
    assert vars(record)["tier"] == "default"


def test_what_is_configured_later_is_respected(virtual_time: VirtualTime) -> None:
    """A logger that is bound once is bound anew when structlog is configured anew."""
    seen: list[tuple[str, str]] = []

    def keeping(who: str) -> Any:
        def keep(_logger: Any, _name: str, event: Any) -> Any:
            seen.append((who, event["event"]))
            raise structlog.DropEvent

        return keep

    try:
        for who, error in (("first", ConnectionError), ("second", KeyError)):
            structlog.configure(processors=[keeping(who)])
            with_fallback("instead")(Scripted(error))()
    finally:
        structlog.reset_defaults()
    assert seen == [
        ("first", "resilient.fallback_served"),
        ("second", "resilient.fallback_served"),
    ]
