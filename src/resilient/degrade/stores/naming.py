"""The names of answers in stores outside of the process: keys as text, no two as the same.

Every part says its type and, where it is text, its length, so that no argument can end one part
and begin another. What a template names is readable while it is short; all other arguments may be
secret, and are only there as a hash.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import hashlib
import pathlib
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from resilient.errors import UnstableKey

__all__ = ["name_of"]

_LONGEST = 200

_BY_REPR = (
    complex,
    decimal.Decimal,
    dt.date,
    dt.time,
    dt.timedelta,
    uuid.UUID,
    pathlib.PurePath,
)


def name_of(key: Any, version: str, label: str, *, readable: bool) -> str:
    """Return the name under which the answer for `key` is kept.

    Raises:
        UnstableKey: If a part of it is of a type that has no text which no other value has.
    """
    text = encoded((version, key))
    if readable and len(text) <= _LONGEST and text.isascii() and text.isprintable():
        return text
    return f"{label}#{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()}"


def encoded(value: Any) -> str:
    """Return a text that no other value has, of whatever type."""
    kind = type(value)
    if kind in _PLAIN:
        return _PLAIN[kind](value)
    for base, write in _DERIVED.items():
        if isinstance(value, base):
            return f"x{_sized(_qualified(kind))}{write(value)}"
    fields = _fields(value)
    if fields is None:
        raise UnstableKey(
            f"a key of type {kind.__qualname__} has no text that no other value has: name the "
            "parts that matter, as in key='user:{user.id}', or give a function that returns text"
        )
    parts = "".join(encoded((name, getattr(value, name))) for name in fields)
    return f"o{_sized(_qualified(kind))}{{{parts}}}"


def _many(begin: str, end: str, values: Iterable[Any]) -> str:
    return f"{begin}{''.join(map(encoded, values))}{end}"


def _unordered(texts: Iterable[str]) -> str:
    return f"{{{''.join(sorted(texts))}}}"


#: How values of exactly these types are written.
_PLAIN: dict[type, Callable[[Any], str]] = {
    type(None): lambda _: "n",
    bool: lambda value: "t" if value else "f",
    int: lambda value: f"i{value};",
    float: lambda value: f"d{value!r};",
    str: lambda value: f"s{_sized(value)}",
    bytes: lambda value: f"b{_sized(value.hex())}",
    tuple: lambda value: _many("(", ")", value),
    list: lambda value: _many("[", "]", value),
    type: lambda value: f"T{_sized(_qualified(value))}",
}

#: How values of other types are written, after the name of the type: by the first that fits.
_DERIVED: dict[type, Callable[[Any], str]] = {
    type: _PLAIN[type],
    enum.Enum: lambda value: _sized(str(value.name)),
    **{one: lambda value: _sized(repr(value)) for one in _BY_REPR},
    frozenset: lambda value: _unordered(map(encoded, value)),
    set: lambda value: _unordered(map(encoded, value)),
    Mapping: lambda value: _unordered(map(encoded, value.items())),
    int: lambda value: _PLAIN[int](int(value)),
    float: lambda value: _PLAIN[float](float(value)),
    str: lambda value: _PLAIN[str](str.__str__(value)),
    bytes: lambda value: _PLAIN[bytes](bytes(value)),
    tuple: lambda value: _many("(", ")", value),
    list: lambda value: _many("[", "]", value),
}


def _sized(text: str) -> str:
    return f"{len(text)}:{text}"


def _qualified(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _fields(value: object) -> list[str] | None:
    """Return the fields that make `value` equal to others, if its type declares them."""
    if dataclasses.is_dataclass(value):
        return [field.name for field in dataclasses.fields(value) if field.compare]
    fields = getattr(type(value), "__struct_fields__", None)
    return None if fields is None else list(fields)
