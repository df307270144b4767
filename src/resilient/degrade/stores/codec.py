"""How values become bytes, for stores outside of the process."""

from __future__ import annotations

import json
import math
import typing
from collections.abc import Callable
from typing import Any, Protocol, final

from resilient.engine.strategy import Target
from resilient.errors import InvalidSetting, InvalidUse

__all__ = ["Codec", "JSONCodec", "MsgspecCodec"]


class Codec(Protocol):
    """Turns values into bytes and back; what cannot be turned raises.

    What comes back is handed to callers: a codec must give back what it was given, and must not
    carry out what it reads, as pickle does.

    Attributes:
        name: Which form the bytes have; what was written under another name is not read.
    """

    name: str

    def encode(self, value: Any) -> bytes:
        """Return `value` as bytes."""
        ...

    def decode(self, data: bytes) -> Any:
        """Return the value that `data` was made from."""
        ...


@final
class JSONCodec:
    """Plain values as JSON: None, bool, int, float, str, lists, and dictionaries with text as keys.

    What JSON would not give back as it was, such as a tuple or a date, is refused and not kept.
    """

    name = "json"

    def encode(self, value: Any) -> bytes:
        """Return `value` as JSON."""
        _check_plain(value)
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()

    def decode(self, data: bytes) -> Any:
        """Return the value of a JSON text."""
        return json.loads(data)


def _check_plain(value: Any) -> None:
    kind = type(value)
    if kind is list:
        for item in value:
            _check_plain(item)
    elif kind is dict:
        for name, item in value.items():
            if type(name) is not str:
                raise _not_plain(name, " as a key")
            _check_plain(item)
    elif not (value is None or kind in (bool, int, str) or (kind is float and _finite(value))):
        raise _not_plain(value)


def _finite(value: float) -> bool:
    return math.isfinite(value)


def _not_plain(value: object, where: str = "") -> InvalidUse:
    return InvalidUse(
        f"JSON does not give back a {type(value).__qualname__}{where} as it was: give "
        "cached(..., codec=MsgspecCodec()) or a codec of your own"
    )


@final
class MsgspecCodec:
    """Typed values through msgspec: structs, dataclasses, dates, tuples, and what else it knows.

    Arguments:
        type: The type of the values; the return annotation of the cached function unless given.
            What does not fit it when it is read, such as a struct of an older shape, is no answer.

    Raises:
        InvalidSetting: If `type` is none that msgspec knows.
        InvalidUse: Without msgspec (`pip install "resilient-calls[msgspec]"`), or when decorating a
            function that does not say what it returns.

    Example:
        >>> from resilient import MsgspecCodec
        >>> pairs = MsgspecCodec(list[tuple[str, int]])
        >>> pairs.decode(pairs.encode([("a", 1)]))
        [('a', 1)]
    """

    def __init__(self, type: Any = None) -> None:  # noqa: A002 - what it is
        self.type = type
        try:
            from msgspec import msgpack
        except ImportError as missing:
            raise InvalidUse(
                'MsgspecCodec needs msgspec: pip install "resilient-calls[msgspec]"'
            ) from missing
        self._encode: Callable[[Any], bytes] = msgpack.Encoder().encode
        try:
            decoder = msgpack.Decoder(Any if type is None else type)
        except Exception:  # msgspec's own, or that of a type that cannot be shown
            expected = "a type that msgspec knows how to read"
            raise InvalidSetting("type", type, expected) from None
        self._decode: Callable[[bytes], Any] = decoder.decode
        self.name = f"msgspec:{type!r}"

    def encode(self, value: Any) -> bytes:
        """Return `value` as MessagePack."""
        return self._encode(value)

    def decode(self, data: bytes) -> Any:
        """Return the value of a message, if it fits the type."""
        return self._decode(data)

    def for_target(self, target: Target) -> MsgspecCodec:
        """Return the codec for what `target` returns, unless a type was given."""
        if self.type is not None:
            return self
        try:
            returned = typing.get_type_hints(target.function, include_extras=True).get("return")
        except Exception:
            returned = None
        if returned is None or returned is Any:
            raise InvalidUse(
                f"{target.name} does not say what it returns in a way that can be read here: "
                "annotate it, or give MsgspecCodec(its_type)"
            )
        return MsgspecCodec(returned)
