"""Which errors are meant: types, a predicate, or tenacity's retry objects."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from resilient.engine import settings
from resilient.engine.isolation import isolated
from resilient.errors import CallRejected, InvalidSetting, refusal_in

if TYPE_CHECKING:
    from tenacity import RetryCallState
    from tenacity.retry import retry_base

__all__ = ["Matches", "error_matcher", "judges_values", "matcher", "predicate", "speaks_for"]

#: What says which errors are meant.
Matches: TypeAlias = (
    type[BaseException] | Iterable[type[BaseException]] | Callable[[BaseException], bool]
)
#: Called with the error, and with what makes tenacity's view of the call if that is needed.
Matcher: TypeAlias = "Callable[[Exception | None, Callable[[], RetryCallState]], bool]"


class ErrorMatcher(Protocol):
    """Tells whether an error is meant; tenacity's view of the call is not needed for that."""

    def __call__(self, error: Any, _state: object = None) -> bool:
        """Return whether `error` is meant."""
        ...


def matcher(parameter: str, on: Matches | retry_base) -> Matcher:
    """Return a function that tells whether an error is one of `on`."""
    if _is_retry_object(on):
        for part in _parts(on):
            settings.plain_function(parameter, part, takes=["the state of the call"])
        decide: Any = on
        return lambda _error, state: bool(decide(state()))
    return _errors(parameter, on, f"{_ERRORS}, or retry objects")


def judges_values(on: object) -> bool:
    """Whether `on` is a retry object of tenacity that may want values tried again, not errors."""
    if not _is_retry_object(on):
        return False
    tenacity = sys.modules["tenacity"]
    # The subclasses that keep this method say no to whatever is not an error.
    only_errors = tenacity.retry_if_exception.__call__
    return any(type(part).__call__ is not only_errors for part in _parts(on))


def _is_retry_object(on: object) -> bool:
    tenacity = sys.modules.get("tenacity")
    return tenacity is not None and isinstance(on, tenacity.retry_base)


def _parts(on: Any) -> Iterator[Any]:
    """Yield what a retry object is composed of: retry objects, and functions of the state."""
    tenacity = sys.modules["tenacity"]
    if isinstance(on, tenacity.retry_any | tenacity.retry_all):
        for part in on.retries:
            yield from _parts(part)
    else:
        yield on


def error_matcher(parameter: str, on: Matches) -> ErrorMatcher:
    """Return a function that tells whether an error, or all leaves of a group, is one of `on`."""
    return _errors(parameter, on, _ERRORS)


_ERRORS = "exception types, or a predicate on the exception"


def predicate(parameter: str, on: Any) -> Callable[[BaseException], bool]:
    """Return `on` if it is a function that can be asked about an error."""
    if _is_retry_object(on):  # they look at a call that is tried again, and there is none here
        raise InvalidSetting(parameter, on, _ERRORS)
    return settings.plain_function(parameter, on, takes=["the exception"])


def _errors(parameter: str, on: Any, expected: str) -> ErrorMatcher:
    if callable(on) and not isinstance(on, type):
        return _of_leaves(predicate(parameter, on))
    try:
        return _of_types(settings.error_types(parameter, on))
    except InvalidSetting:
        raise InvalidSetting(parameter, on, expected) from None


@lru_cache  # most dependencies name the same few types
def _of_types(types: tuple[type[BaseException], ...]) -> ErrorMatcher:
    def matches(error: BaseException, _state: object = None) -> bool:
        if isinstance(error, types):
            return True
        return isinstance(error, BaseExceptionGroup) and all(map(matches, error.exceptions))

    return matches


def _of_leaves(is_meant: Callable[[BaseException], bool]) -> ErrorMatcher:
    def matches(error: BaseException, _state: object = None) -> bool:
        if is_meant(error):
            return True
        return isinstance(error, BaseExceptionGroup) and all(map(matches, error.exceptions))

    return matches


def speaks_for(on: Matches, exclude: Matches | None) -> Callable[[Exception], bool]:
    """Return a function that tells whether an error calls for another answer.

    Rejections do, whatever `on` says, unless they are excluded: they are failures noticed earlier.
    """
    if on is Exception and exclude is None:
        return lambda _error: True
    matches = error_matcher("on", on)
    excludes = None if exclude is None else error_matcher("exclude", exclude)

    def speaks(error: Exception) -> bool:
        if excludes is not None and isolated("exclude", False, excludes, error):
            return False
        is_rejection = isinstance(refusal_in(error), CallRejected)
        return is_rejection or isolated("on", True, matches, error)

    return speaks
