"""A time limit for what blocks: it runs on a worker, also for a caller on an event loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilient.strategies.timeout import Timeout

if TYPE_CHECKING:
    from resilient.engine.call import Call
    from resilient.engine.outcome import Outcome
    from resilient.engine.steps import Proceed, Steps

__all__ = ["OffLoop"]


class OffLoop(Timeout):
    """A limit that also takes what blocks off the event loop."""

    def steps(self, call: Call, proceed: Proceed) -> Steps[Outcome]:
        """Have the call made on a worker."""
        call.workers = self.need_workers()
        return (yield from super().steps(call, proceed))
