"""``python -m resilient doctor``: is this installation as it should be?"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import time
from collections.abc import Iterable
from pathlib import Path

import resilient

__all__ = ["add_to", "run"]

#: What is built upon; its versions are the first thing that a bug report needs.
FOUNDATIONS = ("tenacity", "pybreaker", "structlog", "prometheus-client")
#: Another distribution, a client for a security product, with our import name.
NAMESAKE = "resilient"
#: Where the processes of one service put their metrics, to be shown as one.
MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"
#: Seconds; a coarser clock cannot tell how long a call took.
COARSE = 0.001


def add_to(parser: argparse.ArgumentParser) -> None:
    """Add nothing: it has no arguments."""


def run(_: argparse.Namespace) -> int:
    """Print what there is to know about this installation; return 1 if something is wrong."""
    print(f"resilient-calls {resilient.__version__} at {Path(resilient.__file__).parent}")
    print(f"{platform.python_implementation()} {platform.python_version()}")
    for name in FOUNDATIONS:
        print(f"{name} {_version(name) or 'is missing: install it'}")
    clock = time.get_clock_info("monotonic")
    print(f"clock {clock.implementation}, to {clock.resolution:g} s")
    path = os.environ.get(MULTIPROCESS)
    print(f"{MULTIPROCESS} {path or 'is not set: each process shows its own metrics'}")
    complaints = [*_of_packages(), *_of_the_clock(), *_of_the_directory()]
    for complaint in complaints:
        print(f"WRONG: {complaint}")
    print("something is wrong" if complaints else "all is well")
    return 1 if complaints else 0


def _of_packages() -> Iterable[str]:
    for name in FOUNDATIONS:
        if _version(name) is None:
            yield f"{name} is not installed"
    namesake = _version(NAMESAKE)
    if namesake is not None:
        yield (
            f"the distribution {NAMESAKE!r} {namesake} is installed as well and has the same "
            "import name: one of the two has overwritten parts of the other; give each an "
            "environment of its own"
        )


def _of_the_clock() -> Iterable[str]:
    clock = time.get_clock_info("monotonic")
    if clock.resolution > COARSE:
        yield f"the clock {clock.implementation} ticks every {clock.resolution:g} s only"


def _of_the_directory() -> Iterable[str]:
    path = os.environ.get(MULTIPROCESS)
    if not path:
        return
    if not Path(path).is_dir():
        yield f"{MULTIPROCESS} is {path}, and there is no such directory: make it"
    elif not os.access(path, os.W_OK | os.X_OK):
        yield f"{MULTIPROCESS} is {path}, and this user cannot write there"


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
