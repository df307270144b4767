"""Whether startup has ended."""

from __future__ import annotations

from typing import final

from resilient.engine import settings
from resilient.telemetry.health.checks import begin_checks
from resilient.telemetry.health.report import Report

__all__ = ["started", "startup"]


@final
class _Process:
    started = False


def started(value: bool = True) -> None:
    """Say that startup is done: caches are warm, migrations have run.

    Until then `/health/startup` is a 503, so that Kubernetes asks nothing else yet.

    Arguments:
        value: False to take it back.

    Raises:
        InvalidSetting: If it is neither True nor False.

    Example:
        >>> from resilient import health
        >>> health.startup().status
        'fail'
        >>> health.started()
        >>> health.startup().status
        'pass'
        >>> health.started(False)
    """
    _Process.started = settings.flag("value", value)
    begin_checks(here=True)


def startup() -> Report:
    """Return whether startup is done."""
    begin_checks()
    return Report("pass" if _Process.started else "fail")
