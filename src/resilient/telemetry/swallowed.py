"""What the handlers of logging keep to themselves: their errors never reach whoever logs."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, final

__all__ = ["heard", "is_shown", "standard_logger"]


#: More wrappers around one logger than anybody has; they might be a ring.
MOST_WRAPPERS = 5


def standard_logger(logger: Any) -> logging.Logger | None:
    """Return the logger of the standard library that `logger` writes to, if it is one of those."""
    for _ in range(MOST_WRAPPERS):
        if isinstance(logger, logging.Logger):
            return logger
        own = getattr(logger, "__dict__", {})
        logger = own.get("logger", own.get("_logger"))  # of an adapter, of structlog's wrappers
    return None


def is_shown(logger: logging.Logger, level: int) -> bool:
    """Whether a handler takes records of that level, which the logger itself lets pass."""
    taking = _handlers(logger)
    if not taking and logging.lastResort is not None:
        taking = [logging.lastResort]
    return any(level >= one.level for one in taking)


@contextmanager
def heard(logger: logging.Logger) -> Generator[None]:
    """Raise what a handler of `logger` has failed with, and has not raised itself."""
    errors: list[BaseException] = []
    for handler in _handlers(logger):
        if not isinstance(vars(handler).get("handleError"), _Report):
            handler.handleError = _Report(handler.handleError)  # type: ignore[method-assign]
    token = _errors.set(errors)
    try:
        yield
    finally:
        _errors.reset(token)
    if errors:
        raise errors[0]


#: The errors of the handlers to which something is being told here, where somebody wants to know.
_errors: ContextVar[list[BaseException] | None] = ContextVar("resilient_lost", default=None)


@final
class _Report:
    """A handler's own way to take its errors, and a note of them for who is interested."""

    def __init__(self, own: Callable[[logging.LogRecord], None]) -> None:
        self._own = own

    def __call__(self, record: logging.LogRecord) -> None:
        """Note the error that is being handled, and do what was done before."""
        error, errors = sys.exc_info()[1], _errors.get()
        if errors is not None and error is not None:
            errors.append(error)
        self._own(record)


def _handlers(logger: logging.Logger) -> list[logging.Handler]:
    """Return those to which records of `logger` go."""
    found: list[logging.Handler] = []
    one: logging.Logger | None = logger
    while one is not None:
        found += one.handlers
        one = one.parent if one.propagate else None
    return found
