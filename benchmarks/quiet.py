"""A service that shows nothing below its level: events are made, and filtered by structlog."""

from __future__ import annotations

import logging

import structlog

__all__ = ["show_nothing"]


def show_nothing() -> None:
    """Set structlog and logging to show nothing, by their own levels."""
    level = structlog.make_filtering_bound_logger(logging.CRITICAL)
    structlog.configure(wrapper_class=level, cache_logger_on_first_use=True)
    logging.disable(logging.CRITICAL)
