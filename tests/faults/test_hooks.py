"""Hooks of the user's that raise, or call back into the library that is calling them."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from itertools import count
from typing import Any

import pybreaker
import pytest
from prometheus_client import CollectorRegistry

from resilient import (
    CircuitBreaker,
    Dependency,
    JSONCodec,
    ResilientError,
    bulkhead,
    cached,
    failover_to,
    health,
    observe,
    pipeline_of,
    register_metrics,
    retry,
    subscribe,
    unsubscribe,
    with_fallback,
)
from resilient.engine.isolation import broken
from resilient.telemetry.metrics import exposition
from resilient.testing import VirtualTime
from tests.waiting import PATIENCE, eventually

_names = (f"hooked {number}" for number in count())
HOOKS = (
    *("listener", "storage", "subscriber", "exclude", "failures"),
    *("on", "on_result", "wait", "stop", "before_sleep", "after"),
    *("fallback on", "fallback exclude", "tier", "key", "codec", "store", "logger"),
)
WAYS = ("sync", "async")


class Told(pybreaker.CircuitBreakerListener):
    """A listener whose every hook does one thing."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._act = act

    def before_call(self, cb: Any, func: Any, *args: Any, **kwargs: Any) -> None:
        self._act()

    def success(self, cb: Any) -> None:
        self._act()

    def failure(self, cb: Any, exc: BaseException) -> None:
        self._act()

    def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
        self._act()


class Noted(pybreaker.CircuitMemoryStorage):
    """A storage that does one thing whenever it is asked for the state."""

    def __init__(self, act: Callable[[], object]) -> None:
        super().__init__("closed")
        self._asked = act

    @property
    def state(self) -> str:
        self._asked()
        return super().state

    @state.setter
    def state(self, state: str) -> None:
        self._state = state


class Shelf:
    """A store that does one thing whenever it is used."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._act, self._kept = act, dict[str, bytes]()

    def get(self, name: str) -> bytes | None:
        self._act()
        return self._kept.get(name)

    def put(self, name: str, data: bytes, ttl: float) -> None:
        self._act()
        self._kept[name] = data

    def delete(self, name: str) -> None:
        self._kept.pop(name, None)


class Codec:
    """A codec that does one thing with each answer."""

    name = "acting"

    def __init__(self, act: Callable[[], object]) -> None:
        self._act = act

    def encode(self, value: Any) -> bytes:
        self._act()
        return JSONCodec().encode(value)

    def decode(self, data: bytes) -> Any:
        return JSONCodec().decode(data)


class Sink:
    """A logger that does one thing with each line."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._act = act

    def info(self, event: str, **fields: Any) -> None:
        self._act()

    debug = warning = error = critical = exception = info


_acting: ContextVar[bool] = ContextVar("acting", default=False)


class Hooked:
    """A guarded function, plain and asynchronous, one of whose hooks does `act`, not deeper."""

    def __init__(self, hook: str, act: Callable[[Hooked], object]) -> None:
        self._act, self.acted, self.nested = act, 0, 0
        self._is_made = False

        def asked(*_args: Any, **_kwargs: Any) -> Any:
            self.do()
            answers = {"wait": 0.0, "tier": "tier", "key": "key"}
            return answers.get(hook, hook in ("failures", "on", "stop", "fallback on"))

        def mine(name: str) -> Any:
            return asked if hook == name else None

        self.breaker = CircuitBreaker(
            next(_names),
            fail_max=3,
            reset_timeout=60,
            listeners=[Told(self.do)] if hook == "listener" else None,
            exclude=[asked] if hook == "exclude" else None,
            failures=mine("failures"),
            state_storage=Noted(self.do) if hook == "storage" else None,
        )
        self.subscriber = asked if hook == "subscriber" else print_nothing
        tiers: list[Any] = [asked if hook == "tier" else (lambda fails: "tier")]
        if hook in ("key", "codec", "store"):
            store = Shelf(self.do) if hook == "store" else Shelf(bool)
            codec = Codec(self.do) if hook == "codec" else None
            kept = cached(60, mine("key"), store=store, codec=codec, store_timeout=0.05)
            tiers.insert(0, kept)
        trying = retry(
            on=mine("on") or ConnectionError,
            on_result=mine("on_result"),
            wait=mine("wait"),
            stop=mine("stop"),
            before_sleep=mine("before_sleep"),
            after=mine("after"),
            attempts=None if hook == "stop" else 2,
            wait_initial=0,
        )
        self.limit = bulkhead(8)
        falling_back = with_fallback(
            *tiers, on=mine("fallback on") or Exception, exclude=mine("fallback exclude")
        )

        @falling_back
        @self.limit
        @trying
        @self.breaker
        def guarded(fails: bool) -> str:
            if fails:
                raise ConnectionError
            return "answer"

        @falling_back
        @self.limit
        @trying
        @self.breaker
        async def guarded_async(fails: bool) -> str:
            if fails:
                raise ConnectionError
            return "answer"

        self.measures = pipeline_of(guarded).measures
        self.guarded: Callable[[bool], Any] = guarded
        self.guarded_async: Callable[[bool], Any] = guarded_async
        if hook == "logger":
            told = observe("hooked", logger=Sink(self.do))
            self.guarded, self.guarded_async = told(guarded), told(guarded_async)
        self._is_made = True

    def call(self, way: str, fails: bool) -> Any:
        """Return the answer; the call's own error is one as well."""
        try:
            if way == "sync":
                return self.guarded(fails)
            return asyncio.run(self.guarded_async(fails))
        except ConnectionError:
            return "own error"

    def do(self) -> None:
        # What is written behind calls comes here as well, and calls again.
        if not self._is_made or _acting.get() or self.acted >= 100:
            return
        token = _acting.set(True)
        try:
            self.acted += 1
            self._act(self)
        finally:
            _acting.reset(token)


def raises(_hooked: Hooked) -> None:
    raise RuntimeError("the hook is broken")


def calls(hooked: Hooked) -> None:
    hooked.nested += 1
    hooked.guarded(False)


def resets(hooked: Hooked) -> None:
    hooked.breaker.reset()


def opens(hooked: Hooked) -> None:
    hooked.breaker.force_open()


def registers(hooked: Hooked) -> None:
    hooked.breaker.add_listener(pybreaker.CircuitBreakerListener())
    subscribe(print_nothing)
    unsubscribe(print_nothing)


def looks(hooked: Hooked) -> None:
    _ = (hooked.breaker.current_state, hooked.breaker.failure_rate, hooked.breaker.retry_after)


def reads(hooked: Hooked) -> None:
    if hooked.acted > 2:  # which takes milliseconds
        return
    registry = CollectorRegistry()
    register_metrics(registry)
    exposition("", registry)
    health.ready()


def decorates(hooked: Hooked) -> None:
    if hooked.acted > 2:
        return

    @Dependency(next(_names), breaker=CircuitBreaker(fail_max=1), timeout=1, max_concurrent=1)
    def another() -> str:
        return "another answer"

    assert another() == "another answer"


def print_nothing(_name: str, _fields: Any) -> None: ...


@pytest.fixture
def _switching_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("act", [raises, calls, resets, opens, registers, looks, reads, decorates])
@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("way", WAYS)
def test_a_hook_that_raises_or_comes_back_changes_no_answer_and_holds_nobody_up(
    hook: str, act: Callable[[Hooked], object], way: str
) -> None:
    """Whatever it does: every call has an answer and is counted, permits are back, lanes right."""
    hooked = Hooked(hook, act)
    subscribe(hooked.subscriber)
    try:
        answers = [hooked.call(way, number % 2 == 0) for number in range(8)]
        # From another thread too, which would wait for any lock that has been kept.
        there = threading.Thread(target=lambda: answers.append(hooked.call("sync", False)))
        there.start()
        there.join(PATIENCE)
        assert not there.is_alive()
        assert eventually(lambda: hooked.acted > 0)  # of some behind the call
    finally:
        unsubscribe(hooked.subscriber)
    own_error = hook == "tier" and act is raises  # a tier that fails is no answer
    assert set(answers) <= {"answer", "own error" if own_error else "tier"}
    assert eventually(lambda: hooked.limit.in_flight == 0)
    hooked.measures.settle()
    assert sum(hooked.measures.calls.values()) == 9 + hooked.nested
    hooked.breaker.reset()
    reopened = hook in ("listener", "storage") and act is opens  # it hears of the reset
    assert hooked.breaker.current_state == ("open" if reopened else "closed")


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("way", WAYS)
def test_everybody_else_goes_on_while_a_hook_hangs(hook: str, way: str) -> None:
    """Calls of the same function and of others, the breaker, metrics, health: nothing waits."""
    hangs, goes_on = threading.Event(), threading.Event()

    def hang(_hooked: Hooked) -> None:
        if not hangs.is_set():
            hangs.set()
            goes_on.wait(2 * PATIENCE)

    hooked = Hooked(hook, hang)
    subscribe(hooked.subscriber)

    def first() -> None:
        for fails in (False, True, False):
            hooked.call(way, fails)

    def others() -> None:
        for other in WAYS:
            hooked.call(other, False)
            hooked.call(other, True)
        for act in (calls, looks, registers, reads, decorates, resets, opens, resets):
            act(hooked)

    caller, rest = threading.Thread(target=first), threading.Thread(target=others)
    try:
        caller.start()
        assert hangs.wait(PATIENCE)
        rest.start()
        rest.join(PATIENCE)
        assert not rest.is_alive()
        if hook == "store":  # which has its limit, and holds up nobody
            caller.join(PATIENCE)
            assert not caller.is_alive()
    finally:
        goes_on.set()
        unsubscribe(hooked.subscriber)
    caller.join(PATIENCE)
    assert not caller.is_alive()
    assert hooked.limit.in_flight == 0
    hooked.measures.settle()
    assert sum(hooked.measures.calls.values()) == 3 + 4 + hooked.nested
    assert hooked.breaker.current_state == "closed"


# What is asked in the background, and has a limit of its own


def of_breaker(probe: Callable[[], Any]) -> Callable[[], bool]:
    """Return whether an open circuit has come back by its probe."""
    breaker = CircuitBreaker(
        next(_names), fail_max=1, reset_timeout=600, probe=probe, probe_every=0.02
    )
    with pytest.raises(ConnectionError):
        breaker.call(_fail)
    return lambda: breaker.current_state != "open"


def of_failover(probe: Callable[[], Any]) -> Callable[[], bool]:
    """Return whether calls have come back to a function by its probe."""

    @failover_to(lambda: "replica", switch_after=1, return_after=600, probe=probe, probe_every=0.02)
    def load() -> str:
        if not failed:
            failed.append(True)
            raise ConnectionError
        return "primary"

    failed: list[bool] = []
    assert load() == "replica"
    return lambda: load() == "primary"


def of_health(probe: Callable[[], Any]) -> Callable[[], bool]:
    """Return whether a health check passes."""
    name = next(_names)
    health.check(name, probe, timeout=0.02, every=0.02)

    def passes() -> bool:
        found = [one for key, one in health.ready().checks.items() if key.startswith(name)]
        if found and found[0][0]["status"] != "pass":
            return False
        if found:
            health.remove(name)
        return bool(found)

    return passes


def _fail() -> None:
    raise ConnectionError


@pytest.mark.parametrize("of", [of_breaker, of_failover, of_health])
@pytest.mark.parametrize("is_async", [False, True], ids=WAYS)
def test_a_probe_that_hangs_costs_its_limit_and_is_asked_again(
    of: Callable[[Callable[[], Any]], Callable[[], bool]], is_async: bool
) -> None:
    """The first one hangs for longer than anybody waits, and the second one is heard."""
    goes_on, asked = threading.Event(), count()

    def probe() -> bool:
        if next(asked) == 0:
            goes_on.wait(2 * PATIENCE)
        return True

    async def probe_async() -> bool:
        if next(asked) == 0:
            await asyncio.sleep(2 * PATIENCE)
        return True

    is_well = of(probe_async if is_async else probe)
    try:
        assert eventually(is_well)
    finally:
        goes_on.set()
    assert next(asked) > 1


@pytest.mark.parametrize("of", [of_breaker, of_failover, of_health])
def test_a_probe_may_come_back_into_the_library(
    of: Callable[[Callable[[], Any]], Callable[[], bool]], virtual_time: VirtualTime
) -> None:
    """It calls guarded functions, reads metrics and health, and decorates, and is still heard."""
    hooked = Hooked("none", looks)

    def probe() -> bool:
        for act in (calls, looks, registers, reads, decorates, resets):
            act(hooked)
        return True

    is_well = of(probe)
    is_well()  # health is asked in the background from the first question on
    virtual_time.advance(0.05)
    assert is_well()


@pytest.mark.usefixtures("_switching_often")
def test_a_hook_may_fail_by_what_cannot_even_be_told() -> None:
    """The text of an error of ours is told, and one that is derived from it may have none."""

    class Unreadable(ResilientError):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    def act() -> None:
        raise Unreadable

    before = broken["breaker listener"]
    breaker = CircuitBreaker(next(_names), listeners=[Told(act)])
    assert breaker.call(lambda: "answer") == "answer"
    assert broken["breaker listener"] > before


def test_many_threads_that_switch_after_every_step_add_up_exactly() -> None:
    """Eight threads with the shortest switch interval, and failures that trip and reset."""
    breaker = CircuitBreaker(next(_names), fail_max=3, reset_timeout=0)
    limit = bulkhead(3)

    @limit
    @breaker
    def guarded(number: int) -> int:
        if number % 7 == 0:
            raise ConnectionError
        return number

    came_to: list[str] = []

    def call() -> None:
        for number in range(300):
            try:
                guarded(number)
            except ConnectionError:
                came_to.append("failure")
            except Exception as error:
                came_to.append(
                    "rejected" if hasattr(error, "retry_after") else type(error).__name__
                )
            else:
                came_to.append("success")

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    measures = pipeline_of(guarded).measures
    measures.settle()
    counted = {name: number for name, number in measures.calls.items() if number}
    rejected = len(came_to) - came_to.count("failure") - came_to.count("success")
    assert len(came_to) == 8 * 300
    assert counted.get("failure", 0) == came_to.count("failure")
    assert counted.get("success", 0) == came_to.count("success")
    assert counted.get("rejected", 0) == rejected
    assert limit.in_flight == 0
    made = breaker.transitions
    assert made["open"] >= made["half-open"] >= made["closed"]
