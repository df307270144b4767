"""What two calls must have in common to be the same call: templates and functions of arguments.

A key is a tuple, never a joined text: `"{a}:{b}"` for `("1:2", "3")` and `("1", "2:3")` must be
two keys, or one user is served another one's answer.
"""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import inspect
import pathlib
import re
import string
import sys
import uuid
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeAlias

from resilient.engine.callables import is_async_function
from resilient.engine.strategy import Target
from resilient.errors import InvalidSetting, InvalidUse, UnstableKey

__all__ = ["Key", "KeyFunction", "KeySetting", "key_function"]

Key: TypeAlias = Hashable
#: Called with (args, kwargs).
KeyFunction: TypeAlias = Callable[[tuple[Any, ...], Mapping[str, Any]], Key]
#: A template such as "rec:{user_id}", a function of the arguments, or None for all of them.
KeySetting: TypeAlias = str | Callable[..., Hashable] | None

_SCALARS = (
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    type(None),
    decimal.Decimal,
    dt.date,
    dt.time,
    dt.timedelta,
    uuid.UUID,
    enum.Enum,
    pathlib.PurePath,
)


#: Of these, equal values can be told apart, as 1.0 and 1.00, or one moment in two time zones.
_BY_TEXT = (float, complex, decimal.Decimal, dt.date, dt.time)
#: What types have whose instances are equal if their fields are, of whatever types these are.
_MADE_OF_FIELDS = ("__dataclass_fields__", "__struct_fields__", "__attrs_attrs__")


def key_function(setting: KeySetting, target: Target) -> KeyFunction:
    """Return the function that makes the key of a call to `target`.

    Raises:
        InvalidSetting: If a template names something that is no parameter.
        InvalidUse: If all arguments are to be the key, and one of them is `self`, or if a function
            does not take what the target takes.
    """
    if isinstance(setting, str):
        return _from_template(setting, target)
    if setting is not None:
        return _from_function(setting, target)
    return _from_all(target)


def _from_function(function: Callable[..., Hashable], target: Target) -> KeyFunction:
    if is_async_function(function):
        raise InvalidUse("key: an asynchronous function makes no key; give a plain one")
    target.check_takes_call(function, "key", some_will_do=True)

    def key(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Key:
        own_key = function(*args, **kwargs)
        hash(own_key)  # what has none is no key, and is told here
        return own_key

    return key


def _from_template(template: str, target: Target) -> KeyFunction:
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise InvalidSetting("key", template, f"a template that can be parsed ({error})") from None
    signature = target.signature
    if signature is None:
        raise InvalidUse(f"key={template!r}: {target.name} has no signature; give a function")
    fields = [
        (field, form or "", conversion)
        for _, field, form, conversion in parsed
        if field is not None
    ]
    if len(fields) == 1 and fields[0][0] in signature.parameters and fields[0][1:] == ("", None):
        return _from_parameter(template, *_place(fields[0][0], template, target, signature))
    parts = [
        (_getter(field, template, target, signature), _written(template, conversion, form))
        for field, form, conversion in fields
    ]
    if len(parts) == 1:
        get, text = parts[0]
        return lambda args, kwargs: (template, text(get(args, kwargs)))
    return lambda args, kwargs: (template, *[text(get(args, kwargs)) for get, text in parts])


def _getter(
    field: str, template: str, target: Target, signature: inspect.Signature
) -> Callable[[tuple[Any, ...], Mapping[str, Any]], Any]:
    name = field.split(".", maxsplit=1)[0].split("[", maxsplit=1)[0]
    name, position, default = _place(name, template, target, signature)

    def get(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        return args[position] if position < len(args) else kwargs.get(name, default)

    if field == name:
        return get

    def get_within(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        return string.Formatter().get_field(field, (), {name: get(args, kwargs)})[0]

    return get_within


def _from_parameter(template: str, name: str, position: int, default: Any) -> KeyFunction:
    """Return the same for one parameter as it is: most are that, and each answer is kept under one.

    It is a part of the fast lane, and so written out.
    """

    def key(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Key:
        value = args[position] if position < len(args) else kwargs.get(name, default)
        return (template, value if type(value) is str else _text(value))

    return key


def _place(
    name: str, template: str, target: Target, signature: inspect.Signature
) -> tuple[str, int, Any]:
    """Return a parameter's name, its place among those by position, and its default."""
    parameter = signature.parameters.get(name)
    if parameter is None:
        known = ", ".join(signature.parameters) or "none"
        raise InvalidSetting("key", template, f"made of the parameters of {target.name}: {known}")
    kinds = inspect.Parameter
    if parameter.kind in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD):
        raise InvalidSetting("key", template, "made of single parameters, not of * or **")
    position = list(signature.parameters).index(name)
    if parameter.kind is kinds.KEYWORD_ONLY:
        position = sys.maxsize
    return name, position, parameter.default


def _written(template: str, conversion: str | None, form: str) -> Callable[[Any], str]:
    """Return the function that writes a field as the template says, as in `{a!r}` or `{a:.0f}`."""
    if conversion not in (None, "r", "s", "a") or "{" in form:
        raise InvalidSetting("key", template, "made of fields such as {a}, {a!r} or {a:.0f}")
    if conversion is None and not form:
        return _text

    def text(value: Any) -> str:
        _text(value)
        return format(string.Formatter().convert_field(value, conversion), form)

    return text


#: What is in the text of objects that have none of their own: an address, soon another's.
_ADDRESS = re.compile(r"\bat 0x[0-9A-Fa-f]+")


def _text(value: Any) -> str:
    if type(value) is str:
        return value
    text = str(value)
    if not isinstance(value, _SCALARS) and _ADDRESS.search(text):
        raise UnstableKey(_unstable(value))
    return text


def _defines(value: object, method: str) -> bool:
    """Whether the type of `value` has a `method` of its own, not that of every object."""
    return getattr(type(value), method) is not getattr(object, method)


def _unstable(value: object) -> str:
    return (
        f"an argument of type {type(value).__qualname__} has no stable text and cannot be part "
        "of a key: name the parts that matter, as in key='user:{user.id}', or give a function"
    )


def _from_all(target: Target) -> KeyFunction:
    signature = target.signature
    first = next(iter(signature.parameters), None) if signature is not None else None
    if first in ("self", "cls"):
        raise InvalidUse(
            f"{target.name}: its first argument is an object, which has no stable text: say what "
            "the key is, as in key='rec:{user_id}'"
        )

    def key(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Key:
        if signature is not None:
            try:
                bound = signature.bind(*args, **kwargs)
            except TypeError:
                return None  # such a call fails by itself
            bound.apply_defaults()
            args, kwargs = bound.args, bound.kwargs
        named = tuple((name, _typed(kwargs[name])) for name in sorted(kwargs))
        return (tuple(map(_typed, args)), named)

    return key


def _typed(value: Any) -> Hashable:
    """Return something that equals that of another value only if type and value are the same."""
    kind = type(value)
    if isinstance(value, _SCALARS):
        return (kind, repr(value) if isinstance(value, _BY_TEXT) else value)
    if isinstance(value, list | tuple):
        return (kind, tuple(map(_typed, value)))
    if isinstance(value, set | frozenset):
        return (kind, frozenset(map(_typed, value)))
    if isinstance(value, Mapping):
        return (kind, frozenset((_typed(name), _typed(item)) for name, item in value.items()))
    if not _defines(value, "__repr__") or not isinstance(value, Hashable):
        raise UnstableKey(_unstable(value))
    is_compared = _defines(value, "__eq__")
    if is_compared and not any(hasattr(kind, mark) for mark in _MADE_OF_FIELDS):
        return (kind, value)
    text = repr(value)
    is_stable = not _ADDRESS.search(text)
    if is_compared:
        return (kind, value, text) if is_stable else (kind, value)
    if not is_stable:
        raise UnstableKey(_unstable(value))
    return (kind, text)
