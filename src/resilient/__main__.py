"""``python -m resilient``: is this installation as it should be, what guards an application?"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence

import resilient

__all__ = ["main"]

#: Each is a module in `resilient.commands`, loaded for its own command line only.
COMMANDS = {
    "doctor": "tell whether this installation is as it should be",
    "outbox": "list, show, retry, drop, drain or run an outbox",
    "show": "show every dependency of an application, with its settings",
}
#: The exit status of what has ended by SIGINT or SIGPIPE, as shells have it.
INTERRUPTED, BROKEN_PIPE = 130, 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that `arguments` name; return the exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what it cannot encode is shown all the same
            stream.reconfigure(errors="backslashreplace")
    parser = argparse.ArgumentParser(prog="python -m resilient", description=resilient.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    parsers = {name: commands.add_parser(name, help=text) for name, text in COMMANDS.items()}
    name = parser.parse_args(given[:1]).command  # or says what there is, and ends
    command = importlib.import_module(f"resilient.commands.{name}")
    command.add_to(parsers[name])
    try:
        status: int = command.run(parser.parse_args(given))
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has seen enough, as `head` has
        nobody = os.open(os.devnull, os.O_WRONLY)  # to whom Python gives the rest when it ends
        os.dup2(nobody, sys.stdout.fileno())
        os.close(nobody)
        return BROKEN_PIPE
    except KeyboardInterrupt:
        return INTERRUPTED
    return status


if __name__ == "__main__":
    sys.exit(main())
