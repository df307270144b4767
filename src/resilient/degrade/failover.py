"""Another way to the same answer: a replica, another region."""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar, overload

from resilient.degrade.tier import Answer, Tier, checked
from resilient.engine import settings
from resilient.engine.callables import plain_name
from resilient.engine.outcome import Outcome
from resilient.engine.steps import Steps

if TYPE_CHECKING:
    from resilient.engine.call import Call
    from resilient.engine.strategy import Target

__all__ = ["Failover", "failover"]

D = TypeVar("D")


class Failover(Tier[D]):
    """Serves what another function returns for the same arguments."""

    name = "failover"

    def __init__(self, function: Callable[..., Any], limit: float | None = None) -> None:
        super().__init__(limit)
        self._function = settings.function("function", function)

    def __repr__(self) -> str:
        return f"failover({plain_name(self._function)})"

    def attach(self, target: Target) -> Tier[D]:
        """Check that the function takes what the guarded one takes."""
        checked(self._function, target, "failover", takes_call=True)
        return copy.copy(super().attach(target))

    def answer(self, call: Call, failed: Outcome) -> Steps[Answer]:
        """Call the function with the arguments of the call."""
        return Answer((yield from self.invoke(call, self._function, call.args, call.kwargs)))


@overload
def failover(
    function: Callable[..., Awaitable[D]], *, timeout: float | None = None
) -> Failover[D]: ...
@overload
def failover(function: Callable[..., D], *, timeout: float | None = None) -> Failover[D]: ...
def failover(function: Callable[..., Any], *, timeout: float | None = None) -> Failover[Any]:
    """Return a tier that calls `function` with the arguments of the call that failed.

    Arguments:
        function: An equivalent of the guarded function; guard it as well, it can also fail.
        timeout: The most seconds for it; None for no limit of its own.

    Raises:
        InvalidUse: When decorating, if it does not take what the guarded function takes.

    Example:
        >>> from resilient import failover, with_fallback
        >>> def from_replica(order_id: str) -> str:
        ...     return f"{order_id} from the replica"
        >>> @with_fallback(failover(from_replica))
        ... def load(order_id: str) -> str:
        ...     raise ConnectionError("primary is down")
        >>> load("o1")
        'o1 from the replica'
    """
    return Failover(function, timeout)
