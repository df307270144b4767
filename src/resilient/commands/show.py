"""``python -m resilient show``: every dependency of an application, with its settings."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from resilient.commands.inventory import Described, inventory
from resilient.commands.table import shown, table
from resilient.commands.target import imported
from resilient.dependency import Dependency
from resilient.errors import InvalidUse

__all__ = ["add_to", "run"]

HEAD = ("DEPENDENCY", "PART", "SETTINGS")
ABOUT = ("critical", "rto", "owner", "runbook", "failures")


def add_to(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.description = (
        "Import a module and show what it calls, with all that guards it. What the module does "
        "when it is imported is done; nothing else is: no server is started, no call is made."
    )
    parser.add_argument("target", metavar="module[:attribute]", help="as in an import")
    parser.add_argument("--json", action="store_true", help="a list of objects")


def run(arguments: argparse.Namespace) -> int:
    """Show the dependencies; return 0, 1 if there is none, or 2 if nothing could be imported."""
    try:
        found = imported(arguments.target)
    except InvalidUse as error:
        print(error, file=sys.stderr)
        return 2
    dependencies = inventory()
    if isinstance(found, Dependency):
        dependencies = [one for one in dependencies if one["dependency"] == found.name]
    if arguments.json:
        print(json.dumps(dependencies, indent=2))
        return 0 if dependencies else 1
    print(f"imported {arguments.target}; nothing was started, and nothing was called")
    if not dependencies:
        print("it has no dependency, and no guarded function")
        return 1
    print()
    print(table([HEAD, *(row for one in dependencies for row in _rows(one))]))
    return 0


def _rows(one: Described) -> list[tuple[str, str, str]]:
    name: str = one["dependency"]
    rows = [(name, part, _said(one[part])) for part in ABOUT if part in one]
    rows += [(name, part["strategy"], _settings(part)) for part in one["strategies"]]
    for function in one["functions"]:
        rows.append((name, "function", function["function"]))
        rows += [
            (name, f"  {part['strategy']}", _settings(part)) for part in function["strategies"]
        ]
        if function["served_instead"]:
            rows.append((name, "  served instead", ", then ".join(function["served_instead"])))
    return rows


def _settings(part: Described) -> str:
    said = {name: _said(value) for name, value in part.items() if name != "strategy"}
    return ", ".join(f"{name}={value}" for name, value in said.items())


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " | ".join(value) if isinstance(value, list) else shown(value)
