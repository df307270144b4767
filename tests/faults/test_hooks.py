"""Hooks of the user's that raise, or call back into the library that is calling them."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pybreaker
import pytest

from resilient import (
    CircuitBreaker,
    bulkhead,
    pipeline_of,
    retry,
    subscribe,
    unsubscribe,
    with_fallback,
)

_names = (f"hooked {number}" for number in count())
HOOKS = ("listener", "subscriber", "exclude", "failures", "on", "on_result", "wait", "tier")


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


class Hooked:
    """A guarded function, one of whose hooks does `act` once for each call of it, not deeper."""

    def __init__(self, hook: str, act: Callable[[Hooked], object]) -> None:
        self._act, self._within, self.acted = act, threading.local(), 0

        def asked(*_args: Any, **_kwargs: Any) -> Any:
            self.do()
            answers = {"failures": True, "on": True, "wait": 0.0, "tier": "tier"}
            return answers.get(hook, False)

        def mine(name: str) -> Any:
            return asked if hook == name else None

        self.breaker = CircuitBreaker(
            next(_names),
            fail_max=3,
            reset_timeout=60,
            listeners=[Told(self.do)] if hook == "listener" else None,
            exclude=[asked] if hook == "exclude" else None,
            failures=mine("failures"),
        )
        self.subscriber = asked if hook == "subscriber" else lambda _name, _fields: None
        tier = asked if hook == "tier" else (lambda fails: "tier")
        trying = retry(
            on=mine("on") or ConnectionError,
            on_result=mine("on_result"),
            wait=mine("wait"),
            attempts=2,
            wait_initial=0,
        )
        self.limit = bulkhead(8)

        @with_fallback(tier)
        @self.limit
        @trying
        @self.breaker
        def guarded(fails: bool) -> str:
            if fails:
                raise ConnectionError
            return "answer"

        self.guarded: Callable[[bool], str] = guarded

    def do(self) -> None:
        if getattr(self._within, "is_so", False):
            return
        self._within.is_so = True
        try:
            self.acted += 1
            self._act(self)
        finally:
            self._within.is_so = False


def raises(_hooked: Hooked) -> None:
    raise RuntimeError("the hook is broken")


def calls(hooked: Hooked) -> None:
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


def print_nothing(_name: str, _fields: Any) -> None: ...


@pytest.fixture
def _switching_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def called(hooked: Hooked, fails: bool) -> str:
    """Return the answer; the call's own error is one as well."""
    try:
        return hooked.guarded(fails)
    except ConnectionError:
        return "own error"


@pytest.mark.parametrize("act", [raises, calls, resets, opens, registers, looks])
@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_that_raises_or_comes_back_changes_no_answer_and_holds_nobody_up(
    hook: str, act: Callable[[Hooked], object]
) -> None:
    """Whatever it does: every call has an answer, all permits are back, and lanes are right."""
    hooked = Hooked(hook, act)
    subscribe(hooked.subscriber)
    try:
        answers = [called(hooked, number % 2 == 0) for number in range(8)]
        # From another thread too, which would wait for any lock that has been kept.
        there = threading.Thread(target=lambda: answers.append(hooked.guarded(False)))
        there.start()
        there.join(20)
        assert not there.is_alive()
    finally:
        unsubscribe(hooked.subscriber)
    assert hooked.acted
    own_error = hook == "tier" and act is raises  # a tier that fails is no answer
    assert set(answers) <= {"answer", "own error" if own_error else "tier"}
    assert hooked.limit.in_flight == 0
    hooked.breaker.reset()
    reopened = hook == "listener" and act is opens  # it hears of the reset
    assert hooked.breaker.current_state == ("open" if reopened else "closed")


@pytest.mark.usefixtures("_switching_often")
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
