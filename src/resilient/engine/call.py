"""One call on its way through a pipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, final

from resilient.engine import clock
from resilient.engine.limits import current_limit
from resilient.engine.steps import Attempt

if TYPE_CHECKING:
    from resilient.engine.outcome import Outcome
    from resilient.engine.pipeline import Pipeline
    from resilient.engine.workers import Workers

__all__ = ["Call", "Served"]


_NOWHERE: Mapping[object, float] = MappingProxyType({})


@final
class Served:
    """What a fallback served instead of the call's own answer: tier, age in seconds, and why."""

    __slots__ = ("age", "reason", "tier")

    def __init__(self, tier: str, age: float | None, reason: str) -> None:
        self.tier = tier
        self.age = age
        self.reason = reason


@final
class Call(Attempt):
    """A guarded call in the slow lane: what is called, its limits, and what it came to so far.

    It is the step for each of its attempts as well, unless one has something that others have not.

    `resumed` is the outcome of a first attempt that the fast lane has made already. While it is
    set, the call has been let in by every strategy on its way; the innermost step takes it.
    """

    __slots__ = (
        "attempts",
        "is_async",
        "looked",
        "pipeline",
        "resumed",
        "retries",
        "served",
        "started",
        "turned",
        "until_end",
    )

    def __init__(
        self,
        pipeline: Pipeline,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        is_async: bool,
        resumed: Outcome | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.function = function
        self.args = args
        self.kwargs = kwargs
        self.is_async = is_async
        self.resumed = resumed
        self.started = clock.now() if resumed is None else resumed.started
        self.limit = current_limit()
        self.workers: Workers | None = None
        self.late = None
        #: Whether a plain function has returned a coroutine, and the call began anew for that.
        self.turned = False
        self.attempts = 0
        self.retries = 0
        self.served: Served | None = None
        #: How many seconds each store has been looked into in vain for this call.
        self.looked = _NOWHERE
        #: For a stream: what waits for its end, to be told what it came to, or None if it was left.
        self.until_end: list[Callable[[Outcome | None], object]] | None = None

    @property
    def is_known(self) -> bool:
        """Whether strategies see this call for the second time, as it has turned asynchronous.

        What they do once for each call, such as counting it, is done.
        """
        return self.turned and self.attempts == 0

    @property
    def name(self) -> str:
        """The name of the dependency, for messages, logs and metrics."""
        return self.pipeline.name
