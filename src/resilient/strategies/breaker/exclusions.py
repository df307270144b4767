"""Errors that say nothing against the dependency, as pybreaker's users write them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from resilient.engine import settings
from resilient.engine.isolation import isolated
from resilient.errors import InvalidSetting
from resilient.strategies.matching import predicate

__all__ = ["Exclusion", "checked_exclusions", "is_excluded"]

#: What an `exclude` may hold: an exception type, or a predicate on the exception.
Exclusion = type[BaseException] | Callable[[Any], bool]


def checked_exclusions(exclude: Iterable[Exclusion] | None) -> list[Any]:
    """Return the exclusions, or raise `InvalidSetting` for what is none."""
    expected = "a list of exception types and predicates"
    exclusions = list(settings.items("exclude", () if exclude is None else exclude, expected))
    for one in exclusions:
        if callable(one) and not isinstance(one, type):
            predicate("exclude", one)
        elif not (isinstance(one, type) and issubclass(one, BaseException)):
            raise InvalidSetting("exclude", one, "made of exception types and predicates")
    return exclusions


def is_excluded(error: BaseException, exclusions: list[Any]) -> bool:
    """Whether `error` is one of them, by `isinstance` or by a predicate."""
    for exclusion in exclusions:
        if isinstance(exclusion, type):
            if isinstance(error, exclusion):
                return True
        elif isolated("breaker exclude", False, exclusion, error):
            return True
    return False
