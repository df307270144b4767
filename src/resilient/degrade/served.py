"""What is said when something else has served a call, and when nothing could."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilient.degrade.degradations import Degradation, note_degradation, scope
from resilient.engine import signals
from resilient.engine.call import Served
from resilient.engine.notes import annotate, put

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resilient.engine.call import Call

__all__ = ["note_all_failed", "note_served", "tell_served"]


def note_served(call: Call, tier: str, age: float | None, reason: str) -> None:
    """Tell everybody who wants to know that `tier` has answered `call`, and why."""
    rounded = None if age is None else round(age, 3)
    call.served = Served(tier, rounded, reason)
    call.pipeline.measures.served(tier, age)
    name = call.pipeline.name
    if scope.get() is not None:
        note_degradation(Degradation(name, tier, rounded, reason))
    tell_served(name, tier, rounded, reason)


def tell_served(dependency: str, tier: str, age: float | None, reason: str, count: int = 1) -> None:
    """Tell those who listen that `tier` has answered, or that it has answered `count` calls."""
    more = {} if count == 1 else {"count": count}
    signals.emit(
        "resilient.fallback_served",
        dependency=dependency,
        tier=tier,
        age_seconds=age,
        reason=reason,
        **more,
    )


def note_all_failed(
    call: Call, kind: str, error: Exception, failures: Sequence[tuple[str, Exception]]
) -> None:
    """Say on the call's own error what became of each other thing of that kind."""
    begin = f"resilient: {call.name}: {kind} "
    notes = [f"{begin}{name} failed as well: {type(why).__name__}" for name, why in failures]
    annotate(error, begin, *notes)
    last = failures[-1][1]
    if error.__cause__ is None and not _comes_from(last, error):
        put(error, "__cause__", last)


def _comes_from(error: BaseException | None, origin: Exception) -> bool:
    """Whether `origin` led to `error`: then each would be the other's cause, for ever."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if error is origin:
            return True
        seen.add(id(error))
        error = error.__context__ if error.__cause__ is None else error.__cause__
    return False
