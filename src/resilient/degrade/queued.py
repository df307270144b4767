"""A receipt now, and the call as soon as the dependency is well."""

from __future__ import annotations

import copy
import string
import urllib.parse
from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING, Any, final

from resilient.degrade.outbox.arguments import check_parameters, written
from resilient.degrade.outbox.calls import CallQueue, NewCall, Receipt
from resilient.degrade.outbox.replay import Replay, lasting_name
from resilient.degrade.tier import Answer, Tier
from resilient.engine import settings
from resilient.engine.call import Call
from resilient.engine.key import key_function
from resilient.engine.pipeline import Pipeline
from resilient.errors import InvalidSetting, InvalidUse
from resilient.strategies.bulkhead import Bulkhead
from resilient.strategies.off_loop import OffLoop

if TYPE_CHECKING:
    from resilient.engine.outcome import Outcome
    from resilient.engine.steps import Steps
    from resilient.engine.strategy import Strategy, Target

__all__ = ["Queued", "queued"]

#: How many calls may be on their way into an outbox at once; more wait for their turn.
AT_ONCE = 32

_Text = Callable[[tuple[Any, ...], Mapping[str, Any]], str]


@final
class Queued(Tier[Receipt]):
    """Puts a call that failed into an outbox, which makes it later; serves a `Receipt`.

    A tier of `with_fallback`. The call is made at least once, through all that guards the function
    but this fallback. So it must be one that may be made twice, or whose other side recognises
    what it has had already.

    Arguments:
        outbox: An `Outbox`, or something else that takes calls.
        key: The idempotency key of a call: a template of the function's parameters such as
            "charge:{order_id}", or a function of the arguments that returns a text. While a call
            waits, another one of the same key gets its receipt and is not queued. None for none.
        ordered_by: What calls have in common that must be made one after the other, as a template
            or function; None for any order.
        name: The name under which the function's calls are kept, instead of its module and own:
            for functions that may move while calls are waiting.
        timeout: The most seconds for putting a call into the outbox.

    Raises:
        InvalidSetting: If an argument is outside of its range, or a template does not fit.
        InvalidUse: When decorating a method, a generator, or what has a parameter that is no JSON.
        DuplicateName: When decorating, if the outbox has another function of that name.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from resilient import Outbox, queued, with_fallback
        >>> folder = TemporaryDirectory()
        >>> outbox = Outbox(Path(folder.name) / "mails.db")
        >>> @with_fallback(queued(outbox, key="welcome:{user_id}"))
        ... def send_welcome(user_id: str) -> None:
        ...     raise ConnectionError("mail is down")
        >>> first, again = send_welcome("u1"), send_welcome("u1")
        >>> first == again
        True
        >>> outbox.close()
        >>> folder.cleanup()

    Where the rules come from: the transactional outbox, and idempotency keys as in Stripe's API.
    """

    name = "queued"

    def __init__(
        self,
        outbox: CallQueue,
        key: str | Callable[..., str] | None = None,
        *,
        ordered_by: str | Callable[..., str] | None = None,
        name: str | None = None,
        timeout: float = 5.0,
    ) -> None:
        super().__init__()
        expected = "an Outbox, or what has its register and put"
        self.outbox = settings.having("outbox", outbox, ("register", "put"), expected)
        for parameter, value in (("key", key), ("ordered_by", ordered_by)):
            if value is not None and not isinstance(value, str) and not callable(value):
                raise InvalidSetting(parameter, value, 'a template such as "charge:{order_id}"')
        if ordered_by is not None and not getattr(outbox, "keeps_order", True):
            raise InvalidSetting("ordered_by", ordered_by, f"None: {outbox!r} keeps no order")
        self.key = key
        self.ordered_by = ordered_by
        self._name = None if name is None else settings.text("name", name)
        limit = OffLoop(settings.seconds("timeout", timeout, above_zero=True))
        # Fewer at once than there are workers, for which a task cannot wait.
        turns = Bulkhead(AT_ONCE, max_waiting=100_000)
        self._putting = Pipeline(limit, turns, name=f"{type(outbox).__name__} of calls")
        self._target: Target | None = None
        self._key_of: _Text | None = None
        self._order_of: _Text | None = None

    def __repr__(self) -> str:
        return f"queued({self.outbox!r}, key={self.key!r})"

    def attach(self, target: Target) -> Queued:
        """Return this tier with the key for `target`, whose calls can be kept."""
        check_parameters(target)
        tier = copy.copy(self)
        tier._target = target
        tier._name = self._name or lasting_name(target.function)
        tier._key_of = None if self.key is None else _text_function("key", self.key, target)
        if self.ordered_by is not None:
            tier._order_of = _text_function("ordered_by", self.ordered_by, target)
        return tier

    def joined(self, pipeline: Pipeline, fallback: Strategy) -> None:
        """Tell the outbox how to make the calls that are queued."""
        assert self._target is not None
        assert self._name is not None
        self.outbox.register(Replay(self._name, self._target.function, pipeline, fallback))

    def answer(self, call: Call, failed: Outcome) -> Steps[Answer]:
        """Put the call into the outbox, and serve the receipt."""
        new = self._written(call)
        putting = Call(self._putting, self.outbox.put, (new,), {}, is_async=call.is_async)
        return Answer((yield from self._putting.steps(putting)))

    def _written(self, call: Call) -> NewCall:
        assert self._target is not None
        assert self._target.signature is not None
        assert self._name is not None
        args, kwargs = call.args, call.kwargs
        return NewCall(
            self._name,
            written(self._target.signature, args, kwargs),
            None if self._key_of is None else self._key_of(args, kwargs),
            None if self._order_of is None else self._order_of(args, kwargs),
        )


queued = Queued


def _text_function(parameter: str, setting: str | Callable[..., str], target: Target) -> _Text:
    """Return the function that makes the text of a call."""
    make = key_function(setting, target)
    if not isinstance(setting, str):

        def given(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
            text = make(args, kwargs)
            if not isinstance(text, str):
                raise InvalidUse(f"{parameter}: its function returned no text")
            return text

        return given

    literals = [literal for literal, *_ in string.Formatter().parse(setting)]
    fields = [field for _, field, *_ in string.Formatter().parse(setting) if field is not None]
    is_joined = len(fields) > 1
    if is_joined and any(
        urllib.parse.quote(one, safe="") == one for one in literals[1 : len(fields)]
    ):
        # ("1", "23") and ("12", "3") would have one key.
        raise InvalidSetting(parameter, setting, 'made of fields with a ":" or the like between')

    def filled(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        _, *texts = _parts(make(args, kwargs))
        if is_joined:  # so that what is between the fields is never found within one
            texts = [urllib.parse.quote(text, safe="") for text in texts]
        return "".join(part for pair in zip(literals, [*texts, ""], strict=False) for part in pair)

    return filled


def _parts(key: Hashable) -> tuple[str, ...]:
    assert isinstance(key, tuple)
    return key
