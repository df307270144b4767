"""The arguments of a call that are named to be seen, and no others: they may hold secrets."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from contextlib import suppress
from operator import attrgetter
from typing import Any, NamedTuple

from resilient.engine import settings
from resilient.engine.callables import plain_name
from resilient.engine.isolation import isolated
from resilient.errors import InvalidSetting
from resilient.telemetry.logs import RESERVED

__all__ = ["Arguments", "attributes_of", "checked_names", "named_arguments"]

#: Called with the positional and the named arguments of a call.
Arguments = Callable[[tuple[Any, ...], dict[str, Any]], dict[str, Any]]

_Parameter = inspect.Parameter
_ABSENT: Any = object()


class _Named(NamedTuple):
    """Where the value of one field is found."""

    field: str
    position: int
    #: A text that no argument has as its name, if it is found by its position alone.
    keyword: str
    default: Any
    #: Finds the attribute that is meant, if it is not the argument itself.
    within: Callable[[Any], Any] | None


def checked_names(parameter: str, names: Any) -> tuple[str, ...]:
    """Return `names` if they are texts of which each can be the key of an event."""
    expected = "a list of names"
    found = settings.items(parameter, names, expected)
    for name in found:
        if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
            raise InvalidSetting(parameter, name, f'{expected}, such as "user_id" or "order.id"')
        if name in RESERVED:
            raise InvalidSetting(parameter, name, "a name that events have no other use for")
    return found


def named_arguments(function: Callable[..., Any], fields: tuple[str, ...]) -> Arguments:
    """Return what finds the values of `fields` among the arguments of a call of `function`."""
    plan = [_find(function, field) for field in fields]

    def find(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        given = len(args)
        for field, position, keyword, default, within in plan:
            value = args[position] if position < given else kwargs.get(keyword, default)
            if within is not None and value is not _ABSENT:
                value = isolated("observed field", _ABSENT, within, value)
            if value is not _ABSENT:
                found[field] = value
        return found

    return find


def _find(function: Callable[..., Any], field: str) -> _Named:
    name, _, path = field.partition(".")
    within = attrgetter(path) if path else None
    parameters: list[_Parameter] = []
    with suppress(TypeError, ValueError):  # some callables written in C have no signature
        parameters = list(inspect.signature(function).parameters.values())
    several = (_Parameter.VAR_POSITIONAL, _Parameter.VAR_KEYWORD)
    single = {one.name: one for one in parameters if one.kind not in several}
    parameter = single.get(name)
    if parameter is None:
        if any(one.kind is _Parameter.VAR_KEYWORD for one in parameters):
            return _Named(field, sys.maxsize, name, _ABSENT, within)
        there_is = ", ".join(single) or "none"
        raise InvalidSetting(
            "fields", field, f"a parameter of {plain_name(function)} ({there_is}), or within one"
        )
    return _Named(
        field,
        sys.maxsize if parameter.kind is _Parameter.KEYWORD_ONLY else list(single).index(name),
        "" if parameter.kind is _Parameter.POSITIONAL_ONLY else name,
        _ABSENT if parameter.default is _Parameter.empty else parameter.default,
        within,
    )


def attributes_of(error: BaseException, names: tuple[str, ...]) -> dict[str, Any]:
    """Return those attributes of an error that are named and there."""
    found = {
        name: isolated("observed error field", _ABSENT, _attribute, error, name) for name in names
    }
    return {name: value for name, value in found.items() if value is not _ABSENT}


def _attribute(error: BaseException, path: str) -> Any:
    value: Any = error
    for name in path.split("."):
        value = getattr(value, name, _ABSENT)
    return value
