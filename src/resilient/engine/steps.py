"""What a strategy may ask of its driver.

A strategy is a generator that yields steps and is sent what came of them; it knows no clock, no
thread and no loop. That is why each strategy is written once.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from resilient.engine.outcome import Outcome

if TYPE_CHECKING:
    from resilient.engine.call import Call
    from resilient.engine.limits import Limit
    from resilient.engine.waiting import Waiter
    from resilient.engine.workers import Workers

__all__ = ["Attempt", "Detach", "Invoke", "Proceed", "Sleep", "Step", "Steps", "Wait"]


class Invoke:
    """Call a function and send back its `Outcome`: a tier, a probe, or the guarded one itself.

    Where there are `workers`, a synchronous function runs on one of them and is abandoned when
    `limit` comes; `late` is given the outcome of an abandoned call once it has ended.
    """

    __slots__ = ("args", "function", "kwargs", "late", "limit", "workers")

    def __init__(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        limit: Limit | None = None,
        workers: Workers | None = None,
        late: Callable[[Outcome], object] | None = None,
    ) -> None:
        self.function = function
        self.args = args
        self.kwargs = kwargs or {}
        self.limit = limit
        self.workers = workers
        self.late = late


class Attempt(Invoke):
    """Call the guarded function."""

    __slots__ = ()


class Sleep:
    """Let `seconds` pass."""

    __slots__ = ("seconds",)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds


class Wait:
    """Wait for `waiter` to be woken, and send back whether it was before `until`."""

    __slots__ = ("until", "waiter")

    def __init__(self, waiter: Waiter, until: float | None = None) -> None:
        self.waiter = waiter
        self.until = until


class Detach:
    """Carry `steps` out so that they go on when this caller is cancelled; send back a canceller.

    On asyncio they run as a task of their own; on a thread, which nobody can cancel, at once.
    """

    __slots__ = ("steps",)

    def __init__(self, steps: Steps[Any]) -> None:
        self.steps = steps


Step: TypeAlias = Invoke | Sleep | Wait | Detach
#: Steps that come to something: what drivers carry out.


T = TypeVar("T")
Steps: TypeAlias = Generator[Step, Any, T]
#: The strategies further in, and at last the attempt.
Proceed: TypeAlias = "Callable[[Call], Steps[Outcome]]"
