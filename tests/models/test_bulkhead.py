"""The bulkhead, and a model of it: who is in, and who waits in which order until when."""

from __future__ import annotations

from itertools import count
from math import inf
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from resilient import BulkheadFull, Pipeline, bulkhead
from tests.generated import examples
from tests.models.world import Failed, Running, World

numbers = count(1)


class Model:
    """Places, and a queue in the order of arrival."""

    def __init__(self, max_concurrent: int, max_waiting: int, max_wait: float | None) -> None:
        self.max_concurrent = max_concurrent
        self.max_waiting = max_waiting
        self.max_wait = inf if max_wait is None else max_wait
        self.inside: list[Running] = []
        self.waiting: list[tuple[Running, float]] = []
        self.rejected: list[Running] = []

    def comes(self, call: Running, now: float) -> None:
        if len(self.inside) < self.max_concurrent:
            self.inside.append(call)
        elif len(self.waiting) < self.max_waiting:
            self.waiting.append((call, now + self.max_wait))
        else:
            self.rejected.append(call)

    def goes(self, call: Running) -> None:
        """Whether it has ended or was cancelled, inside or waiting."""
        if call in self.inside:
            self.inside.remove(call)
        self.waiting = [one for one in self.waiting if one[0] is not call]
        while self.waiting and len(self.inside) < self.max_concurrent:
            self.inside.append(self.waiting.pop(0)[0])

    def look(self, now: float) -> None:
        self.rejected += [call for call, until in self.waiting if until <= now]
        self.waiting = [one for one in self.waiting if one[1] > now]


class Bulkheads(RuleBasedStateMachine):
    """The real bulkhead and the model, through the same comings and goings."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    @initialize(
        max_concurrent=st.integers(1, 3),
        max_waiting=st.integers(0, 4),
        max_wait=st.sampled_from([None, 0.0, 1.0, 2.0]),
    )
    def made(self, max_concurrent: int, max_waiting: int, max_wait: float | None) -> None:
        self.model = Model(max_concurrent, max_waiting, max_wait)
        self.real = bulkhead(max_concurrent, max_waiting, max_wait)

        @Pipeline(self.real, name=f"model of a bulkhead {next(numbers)}")
        async def guarded(running: Running) -> Any:
            return await running.dependency()

        self.guarded = guarded

    def same(self) -> None:
        model = self.model
        assert self.real.in_flight == len(model.inside)
        assert self.real.waiting == len(model.waiting)
        assert all(call.reached and not call.ended for call in model.inside)
        assert not any(call.reached or call.ended for call, _ in model.waiting)
        for call in model.rejected:
            assert not call.reached
            assert isinstance(call.error, BulkheadFull)
        model.rejected.clear()

    @rule(number=st.integers(1, 4))
    def call(self, number: int) -> None:
        """Several at one moment, in order."""
        now = self.world.tick()
        for _ in range(number):
            self.model.comes(self.world.begin(self.guarded, settle=False), now)
        self.world.settle()
        self.model.look(now)  # who waits for no time has waited
        self.same()

    @precondition(lambda self: self.model.inside)
    @rule(which=st.integers(0, 9), error=st.sampled_from([None, None, Failed()]))
    def end(self, which: int, error: Exception | None) -> None:
        self.world.tick()
        call = self.model.inside[which % len(self.model.inside)]
        call.end(error or "answer")
        self.world.settle()
        self.model.goes(call)
        assert call.error is error
        self.same()

    @precondition(lambda self: self.model.inside or self.model.waiting)
    @rule(which=st.integers(0, 9))
    def cancel(self, which: int) -> None:
        self.world.tick()
        there = [*self.model.inside, *(call for call, _ in self.model.waiting)]
        self.leave(there[which % len(there)])
        self.world.settle()
        self.same()

    def leave(self, call: Running) -> None:
        assert call.task is not None
        call.task.cancel()
        self.model.goes(call)

    @precondition(lambda self: self.model.waiting and self.model.inside)
    @rule(both=st.booleans())
    def cancel_as_it_is_let_in(self, both: bool) -> None:
        """The place of the one who was to have it next goes on to the one after."""
        self.world.tick()
        ending, (following, _) = self.model.inside[0], self.model.waiting[0]
        ending.end("answer")
        if both:  # the permit comes free, and is handed over, before the other's task runs
            while self.real.waiting == len(self.model.waiting):
                self.world.step()
        self.model.goes(ending)
        self.leave(following)
        self.world.settle()
        self.same()

    @rule(seconds=st.sampled_from([0.5, 1.0, 2.5]))
    def time_passes(self, seconds: float) -> None:
        self.world.pass_time(seconds)
        self.model.look(self.world.now)
        self.same()

    def teardown(self) -> None:
        self.world.close()
        if hasattr(self, "real"):
            assert self.real.in_flight == self.real.waiting == 0


def test_a_bulkhead_does_what_its_page_says() -> None:
    """Through any comings and goings, cancelled callers too, bulkhead and model agree."""
    run_state_machine_as_test(Bulkheads, settings=examples(25))
