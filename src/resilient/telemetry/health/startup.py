"""Whether startup has ended."""

from __future__ import annotations

from typing import final

from resilient.telemetry.health.report import Report

__all__ = ["started", "startup"]


@final
class _Process:
    started = False


_process = _Process()


def started(value: bool = True) -> None:
    """Say that startup is done."""
    _process.started = value


def startup() -> Report:
    """Return whether startup is done."""
    return Report("pass" if _process.started else "fail")
