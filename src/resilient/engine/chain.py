"""Several strategies, and the function in their midst, made one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from resilient.engine import faults
from resilient.engine.call import Call
from resilient.engine.outcome import Outcome
from resilient.engine.steps import Attempt, Proceed, Steps
from resilient.engine.strategy import Accept, Strategy

__all__ = ["accept_of", "all_of", "attempt", "chain_of", "permits_of"]


def chain_of(strategies: Sequence[Strategy]) -> Proceed:
    """Return the steps of all `strategies`, outermost first, around the attempt."""
    proceed: Proceed = attempt
    for strategy in reversed(strategies):
        proceed = partial(strategy.steps, proceed=proceed)
    return proceed


def attempt(call: Call) -> Steps[Outcome]:
    """Call the guarded function, unless the fast lane has done so already."""
    call.attempts += 1
    if call.resumed is not None:
        resumed, call.resumed = call.resumed, None
        return resumed
    is_alike = call.workers is None and not faults.active
    outcome: Outcome = yield call if is_alike else _attempt_apart(call)
    return outcome


def _attempt_apart(call: Call) -> Attempt:
    """Return the step for an attempt of which more is to be told than of the call."""
    function = call.function
    if (fault := faults.active.get(call.name)) is not None:
        function = partial(fault, function)
    late = partial(call.pipeline.came_late, call) if call.workers and call.pipeline.late else None
    return Attempt(function, call.args, call.kwargs, call.limit, call.workers, late)


def permits_of(
    strategies: Sequence[Strategy],
) -> tuple[Callable[[], bool] | None, Callable[[], object] | None]:
    """Return what takes a permit of each of `strategies` or of none, and what gives them back."""
    pairs = [
        (take_one, one.give, one.untake) for one in strategies if (take_one := one.take) is not None
    ]
    if not pairs:
        return None, None
    if len(pairs) == 1:
        return pairs[0][:2]
    gives = [give_one for _, give_one, _ in pairs if give_one is not None]

    def take() -> bool:
        for taken, (take_one, _, _) in enumerate(pairs):
            if not take_one():
                for _, _, untake_one in pairs[:taken]:
                    if untake_one is not None:
                        untake_one()
                return False
        return True

    def give() -> None:
        for give_one in gives:
            give_one()

    return take, give


def accept_of(strategies: Sequence[Strategy]) -> Accept | None:
    """Return what looks at a success for each of `strategies`, innermost first."""
    return all_of([part for one in reversed(strategies) if (part := one.accept) is not None])


def all_of(parts: Sequence[Accept]) -> Accept | None:
    """Return what asks each of `parts`, until one says no."""
    if len(parts) < 2:
        return parts[0] if parts else None

    def accept(args: Any, kwargs: Any, value: Any, started: float, ended: float) -> bool:
        for part in parts:  # noqa: SIM110 - a generator takes longer than they do
            if not part(args, kwargs, value, started, ended):
                return False
        return True

    return accept
