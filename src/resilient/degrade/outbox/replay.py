"""A function as it is called from the outbox: guarded, but never queued again."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from resilient.engine.callables import code_of, is_async_function, plain_name
from resilient.engine.lanes import call_through
from resilient.engine.pipeline import Pipeline
from resilient.errors import CallRejected, DuplicateName

if TYPE_CHECKING:
    from resilient.engine.strategy import Strategy

__all__ = ["Replay", "add_replay", "lasting_name"]


@final
class Replay:
    """Calls a function through everything that guards it but the fallback that queues its calls.

    Attributes:
        name: The name under which its calls are kept.
        function: The function itself.
        is_async: Whether calling this gives a coroutine.
        dependency: The name of the dependency that it calls.
    """

    def __init__(
        self, name: str, function: Callable[..., Any], pipeline: Pipeline, without: Strategy
    ) -> None:
        self.name = name
        self.function = function
        self.is_async = is_async_function(function)
        self.dependency = pipeline.name
        self._strategies = tuple(one for one in pipeline.strategies if one is not without)
        self._judge = pipeline.judge
        self._pipeline: Pipeline | None = None

    def __repr__(self) -> str:
        return f"<Replay {self.name}>"

    @property
    def pipeline(self) -> Pipeline:
        """What guards it; made when it is first needed, which is never in most processes."""
        if self._pipeline is None:
            self._pipeline = Pipeline(
                *self._strategies, name=self.dependency, is_failure=self._judge
            )
        return self._pipeline

    def rejects_only_some(self, rejected: CallRejected) -> bool:
        """Whether other calls may be let through: that one's key has a circuit of its own."""
        return any(one.rejects_by_key and one.label == rejected.name for one in self._strategies)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function; of an asynchronous one, return the awaitable."""
        return call_through(self.pipeline, self.function, args, kwargs)


def add_replay(replays: dict[str, Replay], replay: Replay, queue: object) -> None:
    """Take `replay` into those of `queue`, by its name.

    Raises:
        DuplicateName: If another function has that name.
    """
    known = replays.get(replay.name)
    if known is not None and _code(known.function) != _code(replay.function):
        raise DuplicateName(
            f"{queue!r} has another function under the name {replay.name!r} already: its calls "
            "would be made with the wrong one"
        )
    replays[replay.name] = replay


def lasting_name(function: Callable[..., Any]) -> str:
    """Return the module and name of `function`, as every process knows them.

    A program's own module is called `__main__` in that program only.
    """
    module, _, rest = plain_name(function).partition(".")
    if module != "__main__":
        return f"{module}.{rest}"
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    file = getattr(main, "__file__", None)
    known = spec.name if spec is not None else Path(file).stem if file else module
    return f"{known}.{rest}"


def _code(function: object) -> tuple[str, str]:
    """Return where a function is written, which a module that is loaded anew does not change."""
    code = getattr(code_of(function), "__code__", None)
    return (getattr(code, "co_filename", ""), getattr(code, "co_qualname", repr(function)))
