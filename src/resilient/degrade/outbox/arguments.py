"""The arguments of a call as text, and back, so that what comes back is what was given.

JSON alone would turn a tuple into a list and the key 1 into "1" without a word, and the call would
be made with something else than its caller gave.
"""

from __future__ import annotations

import collections.abc
import inspect
import json
import math
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from resilient.engine.callables import code_of
from resilient.engine.strategy import Target
from resilient.errors import InvalidUse

__all__ = ["check_parameters", "read", "written"]

_SCALARS = (str, int, float, bool, types.NoneType)
_LISTS = (list, collections.abc.Sequence, collections.abc.Collection, collections.abc.Iterable)
_DICTS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
_KINDS = inspect.Parameter


def check_parameters(target: Target) -> inspect.Signature:
    """Return the signature of `target`, if its calls can be written down and made later.

    Raises:
        InvalidUse: If it is a method or a generator, or has a parameter that is no JSON.
    """
    signature = target.signature
    if signature is None:
        raise InvalidUse(f"queued: {target.name} has no signature to check arguments against")
    if target.is_stream:
        raise InvalidUse(f"queued: {target.name} is a generator: nobody is there to read it later")
    if next(iter(signature.parameters), None) in ("self", "cls"):
        raise InvalidUse(
            f"queued: {target.name} is a method, and its object cannot be kept as text: queue a "
            "function that is given what the object is made from, such as its id"
        )
    try:
        hints = typing.get_type_hints(code_of(target.function))
    except Exception:  # names that exist for type checkers only: each call is checked anyway
        hints = {}
    for name in signature.parameters:
        if name in hints and not _is_json(hints[name]):
            raise InvalidUse(
                f"queued: the parameter {name} of {target.name} is a {_shown(hints[name])}, which "
                "is no JSON (str, int, float, bool, None, list, dict): take something that is, and "
                "make the other from it within the function"
            )
    return signature


def _shown(hint: Any) -> str:
    return hint.__qualname__ if inspect.isclass(hint) else str(hint)


def _is_json(hint: Any) -> bool:
    """Whether what has the type `hint` may come back from JSON as it was."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint in _SCALARS or hint in (object, Any):
        return True
    if origin in (typing.Union, types.UnionType):
        return all(map(_is_json, inner))
    if origin is typing.Literal:
        return all(type(one) in _SCALARS for one in inner)
    if (origin or hint) in _LISTS:
        return all(map(_is_json, inner))
    if (origin or hint) in _DICTS:
        return not inner or (inner[0] in (str, Any) and _is_json(inner[1]))
    if isinstance(hint, typing.NewType):
        return _is_json(hint.__supertype__)
    return typing.is_typeddict(hint) or not inspect.isclass(origin or hint)


def written(signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Return the arguments of a call as JSON.

    They are named where that can be, so that a later version of the function with its parameters
    in another order understands them, and so do people.

    Raises:
        InvalidUse: If one of them is no JSON; its value is not in the message.
    """
    bound = signature.bind(*args, **kwargs)
    positional, named = bound.args, bound.kwargs
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    if not kinds & {_KINDS.POSITIONAL_ONLY, _KINDS.VAR_POSITIONAL}:
        positional, named = (), {**bound.arguments}
        for parameter in signature.parameters.values():
            if parameter.kind is _KINDS.VAR_KEYWORD:
                named |= named.pop(parameter.name, {})
    for position, value in enumerate(positional):
        _check(value, f"argument {position + 1}")
    for name, value in named.items():
        _check(value, name)
    return json.dumps({"args": positional, "kwargs": named}, separators=(",", ":"))


def _check(value: Any, place: str) -> None:
    kind = type(value)
    if kind is list:
        for one in value:
            _check(one, place)
    elif kind is dict:
        for key, one in value.items():
            if type(key) is not str:
                raise InvalidUse(f"{place}: a key of a dict is a {type(key).__qualname__}, no str")
            _check(one, place)
    elif kind not in _SCALARS or (kind is float and not math.isfinite(value)):
        raise InvalidUse(f"{place}: a {kind.__qualname__} is no JSON, and cannot be kept as text")


def read(text: str, function: Callable[..., Any]) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments in `text`, if `function` takes them.

    Raises:
        InvalidUse: If it does not, or the text is not what `written` returns.
    """
    try:
        found = json.loads(text)
        args, kwargs = found["args"], found["kwargs"]
        inspect.signature(function).bind(*args, **kwargs)
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise InvalidUse("its arguments do not fit the function any more") from error
    return args, kwargs
