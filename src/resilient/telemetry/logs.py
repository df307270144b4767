"""Where events go: to structlog as it is configured, else to the standard library's logging.

Neither is ever configured here. A logger of structlog is bound once for each configuration, not
once for each event: that takes a third of what an event costs.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, final

import structlog

from resilient.engine import settings
from resilient.errors import InvalidUse
from resilient.telemetry.swallowed import heard, is_shown, standard_logger

__all__ = ["LEVELS", "RESERVED", "Log", "rendered"]

LEVELS = ("info", "warning", "error")
#: Keys that loggers need for themselves, or that events of this library have a use for.
RESERVED = frozenset(
    {"event", "error", "attempts", "degraded", "duration_ms", "level", "timestamp"}
    | {"exc_info", "stack_info", "stacklevel", "extra"}
    | {"self", "method_name", "positional_args"}
)
_RECORD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_PLAIN = re.compile(r"[\w.:/@+%-]+")


@final
class Log:
    """A logger by name, or one that a user has made, with the methods for each level at hand."""

    __slots__ = (
        "_by_structlog",
        "_config",
        "_given",
        "_methods",
        "_name",
        "_shows",
        "_standard",
        "_streams",
    )

    def __init__(self, name: str, given: Any = None) -> None:
        """Take `given`, a logger of either library, or find the one of `name` when needed."""
        if given is not None:
            settings.having("logger", given, LEVELS, "a logger, with info, warning and error")
        self._name = name
        self._given = given
        self._by_structlog = False
        self._config: Mapping[str, Any] = {}
        self._streams: tuple[Any, Any] = (None, None)
        self._shows: Callable[[int], bool] = bool
        self._standard: logging.Logger | None = None
        self._methods: dict[str, Callable[..., object]] = {}

    def tell(self, level: str, event: str, fields: Mapping[str, Any]) -> None:
        """Log one event."""
        if not self._is_bound():
            self._bind()
        self._methods[level](event, **fields)

    def tell_for_sure(self, level: str, event: str, fields: Mapping[str, Any]) -> None:
        """Log one event, or raise if the logger does not show it, or a handler cannot take it."""
        if not self._is_bound():
            self._bind()
        number, standard = getattr(logging, level.upper()), self._standard
        if not self._shows(number) or not (standard is None or is_shown(standard, number)):
            raise InvalidUse(f"the logger is set not to show events of level {level}")
        with nullcontext() if standard is None else heard(standard):
            self._methods[level](event, **fields)

    def _is_bound(self) -> bool:
        """Whether structlog is configured as it was, and would write to where it did."""
        config, seen = structlog.get_config(), self._config
        return (
            bool(self._methods)
            and structlog.is_configured() is self._by_structlog
            and config["processors"] is seen["processors"]
            and config["wrapper_class"] is seen["wrapper_class"]
            and config["logger_factory"] is seen["logger_factory"]
            and config["context_class"] is seen["context_class"]
            and (sys.stdout is self._streams[0] and sys.stderr is self._streams[1])
        )

    def _bind(self) -> None:
        config, by_structlog = structlog.get_config(), structlog.is_configured()
        streams = sys.stdout, sys.stderr
        logger = self._given
        if logger is None and by_structlog:
            logger = structlog.get_logger(self._name)
        elif logger is None:
            logger = logging.getLogger(self._name)
        bind = getattr(logger, "bind", None)
        if bind is not None:
            logger = bind()
            logger = getattr(logger, "sync_bl", logger)  # of one whose methods are coroutines
        self._standard = standard_logger(logger)
        if isinstance(logger, logging.Logger | logging.LoggerAdapter):
            logger = _Standard(logger)
        self._shows = _level_check(logger)
        # Last comes what another thread looks at before it takes a method.
        self._methods = {level: getattr(logger, level) for level in LEVELS}
        self._by_structlog, self._streams, self._config = by_structlog, streams, config


def _level_check(logger: Any) -> Callable[[int], bool]:
    """Return what tells whether `logger` shows a level; one that cannot tell shows them all."""
    for name in ("is_enabled_for", "isEnabledFor"):
        if hasattr(type(logger), name):  # of the class: instances of structlog have any name
            check: Callable[[int], bool] = getattr(logger, name)
            return check
    return bool


@final
class _Standard:
    """The standard library's logging, in the form of structlog.

    Key-values are in the message for those who read, and attributes of the record (`extra`) for
    formatters; what is bound to structlog's context variables is among them.
    """

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802
        enabled: bool = self._logger.isEnabledFor(level)
        return enabled

    def info(self, event: str, /, **fields: Any) -> None:
        self._log(logging.INFO, event, fields)

    def warning(self, event: str, /, **fields: Any) -> None:
        self._log(logging.WARNING, event, fields)

    def error(self, event: str, /, **fields: Any) -> None:
        self._log(logging.ERROR, event, fields)

    def _log(self, level: int, event: str, fields: dict[str, Any]) -> None:
        if not self.isEnabledFor(level):
            return
        error = fields.pop("exc_info", None)
        fields = {**structlog.contextvars.get_contextvars(), **fields}
        extra = {f"{key}_" if key in _RECORD else key: value for key, value in fields.items()}
        extra["event"] = event
        self._logger.log(level, rendered(event, fields), exc_info=error, extra=extra)


def rendered(event: str, fields: Mapping[str, Any]) -> str:
    """Return an event as one line of text, whatever its values are."""
    return " ".join([event, *(f"{key}={_shown(value)}" for key, value in fields.items())])


def _shown(value: Any) -> str:
    return value if isinstance(value, str) and _PLAIN.fullmatch(value) else repr(value)
