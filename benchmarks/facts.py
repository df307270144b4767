"""What a table was measured with: versions and the machine, without anything that names it."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

__all__ = ["facts"]

DISTRIBUTIONS = (
    "resilient-calls",
    "tenacity",
    "stamina",
    "backoff",
    "pybreaker",
    "circuitbreaker",
    "aiobreaker",
    "purgatory",
    "hyx",
    "interlock-cb",
    "pyresilience",
    "structlog",
    "prometheus-client",
)


def facts() -> dict[str, str]:
    """Return what there is to know, in the order in which it is shown."""
    return {
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()}, {platform.machine()}",
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        **{name: version(name) for name in DISTRIBUTIONS},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )
