"""Values as they are now, whoever changes the original later.

A caller that appends to the list which it was given must not change what the next one gets. What
cannot change is not copied, lists and dictionaries of such are copied fast, all else by `copy`.
"""

from __future__ import annotations

import copy
import datetime as dt
import decimal
import sys
import uuid
from typing import Any

__all__ = ["IMMUTABLE", "snapshot", "weight"]

#: Types whose values cannot change.
IMMUTABLE = frozenset(
    {
        type(None),
        bool,
        int,
        float,
        complex,
        str,
        bytes,
        range,
        decimal.Decimal,
        dt.date,
        dt.datetime,
        dt.time,
        dt.timedelta,
        uuid.UUID,
    }
)

#: Deeper ones are handed to `copy`, which also knows what contains itself.
_DEEPEST = 12


def snapshot(value: Any, depth: int = 0) -> Any:
    """Return `value`, or a copy that shares nothing with it that can change.

    Raises:
        Exception: What `copy.deepcopy` raises for what cannot be copied, such as a connection.
    """
    kind = type(value)
    if kind in IMMUTABLE:
        return value
    if depth < _DEEPEST:
        if kind is list:
            return [
                item if type(item) in IMMUTABLE else snapshot(item, depth + 1) for item in value
            ]
        if kind is dict:
            return {
                (name if type(name) in IMMUTABLE else snapshot(name, depth + 1)): (
                    item if type(item) in IMMUTABLE else snapshot(item, depth + 1)
                )
                for name, item in value.items()
            }
        if kind is tuple:
            return tuple([snapshot(item, depth + 1) for item in value])
    return copy.deepcopy(value)


_CONTAINERS = (list, tuple, set, frozenset)


def weight(value: Any) -> int:
    """Return about how many bytes of memory `value` takes, each of its parts counted once."""
    seen: set[int] = set()
    total = 0
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        total += sys.getsizeof(one, 64)
        if isinstance(one, dict):
            waiting += one.keys()
            waiting += one.values()
        elif isinstance(one, _CONTAINERS):
            waiting += one
        elif type(one) not in IMMUTABLE:
            waiting += getattr(one, "__dict__", {}).values()
    return total
