"""``python -m resilient doctor``: is this installation as it should be? And other commands."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import resilient

__all__ = ["main"]

#: What is built upon; its versions are the first thing that a bug report needs.
FOUNDATIONS = ("tenacity", "pybreaker", "structlog", "prometheus-client")
#: Another distribution, a client for a security product, with our import name.
NAMESAKE = "resilient"


def doctor() -> int:
    """Print what there is to know about this installation; return 1 if something is wrong."""
    print(f"resilient-calls {resilient.__version__} at {Path(resilient.__file__).parent}")
    print(f"{platform.python_implementation()} {platform.python_version()}")
    for name in FOUNDATIONS:
        print(f"{name} {_version(name) or 'is missing: install it'}")
    multiprocess = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    print(f"PROMETHEUS_MULTIPROC_DIR {multiprocess or 'is not set'}")
    complaints = list(_complaints())
    for complaint in complaints:
        print(f"WRONG: {complaint}")
    print("something is wrong" if complaints else "all is well")
    return 1 if complaints else 0


def _complaints() -> Iterable[str]:
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


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that `arguments` name; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m resilient", description=resilient.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("doctor", help="tell whether this installation is as it should be")
    # A part brings its own commands; it is loaded for its own command line only.
    outbox = commands.add_parser("outbox", help="list, show, retry, drop, drain or run an outbox")
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given[:1] == ["outbox"]:
        from resilient.degrade.outbox import command

        command.add_to(outbox)
        return command.run(parser.parse_args(given))
    parser.parse_args(given)
    return doctor()


if __name__ == "__main__":
    sys.exit(main())
