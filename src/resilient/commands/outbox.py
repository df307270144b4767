"""``python -m resilient outbox``: what waits, what is dead, and what is done about it."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import Callable
from typing import Any

from resilient.commands.table import shown, table
from resilient.commands.target import imported
from resilient.degrade.outbox.calls import QueuedCall
from resilient.degrade.outbox.outbox import Outbox
from resilient.errors import InvalidUse, OutboxError, ResilientError

__all__ = ["add_to", "run"]

TARGET = "module:outbox as in an import, or sqlite:///FILE"
MODULE = "module:outbox as in an import: its functions make the calls"
COLUMNS = ("id", "name", "key", "state", "attempts", "queued", "due", "error")


def add_to(parser: argparse.ArgumentParser) -> None:
    """Add the commands of an outbox to `parser`."""
    commands = parser.add_subparsers(dest="action", required=True)

    def command(name: str, action: Callable[..., int], target: str, help_text: str) -> Any:
        one = commands.add_parser(name, help=help_text, description=help_text)
        one.add_argument("target", help=target)
        one.set_defaults(action=action)
        return one

    one = command("list", _list, TARGET, "list calls by name and key, without their arguments")
    one.add_argument("--dead", action="store_true", help="those that were given up")
    one.add_argument("--limit", type=int, default=1000, help="at most so many (1000)")
    one.add_argument("--json", action="store_true", help="an object a line")
    one = command("show", _show, TARGET, "show one call with its arguments, which may be secret")
    one.add_argument("id", help="its number")
    one.add_argument("--json", action="store_true", help="one object")
    one = command("retry", _retry, TARGET, "have dead calls made again")
    _which(one)
    one = command("drop", _drop, TARGET, "delete calls for ever, dead ones or those that wait")
    _which(one)
    one = command("drain", _drain, MODULE, "make calls until none waits any more")
    one.add_argument("--timeout", type=float, help="seconds; without it, as long as it takes")
    one = command("run", _run, MODULE, "make calls until ended by SIGTERM or Ctrl-C")
    one.add_argument("--concurrency", type=int, default=1, help="calls at once (1)")
    one.add_argument("--stop-within", type=float, default=10.0, help="seconds for the last (10)")


def _which(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("ids", nargs="*", default=[], metavar="id", help="their numbers")
    which.add_argument("--all-dead", action="store_true", help="all that were given up")


def run(arguments: argparse.Namespace) -> int:
    """Do what `arguments` say; return the exit status: 0, 1 for no, 2 for trouble."""
    try:
        outbox = _outbox_of(arguments.target)
        try:
            status: int = arguments.action(outbox, arguments)
        finally:
            outbox.close()
        return status
    except ResilientError as error:
        print(error, file=sys.stderr)
        return 2


def _outbox_of(target: str) -> Outbox:
    if target.startswith("sqlite:"):
        outbox = Outbox(target)
        if not outbox.path.exists():  # a mistyped name makes no file
            raise OutboxError(f"{outbox.path}: there is no such file")
        return outbox
    found = imported(target)
    if not isinstance(found, Outbox):
        raise InvalidUse(f"{target} is no Outbox but a {type(found).__qualname__}")
    return found


def _list(outbox: Outbox, arguments: argparse.Namespace) -> int:
    calls = outbox.dead(arguments.limit) if arguments.dead else outbox.pending(arguments.limit)
    rows = [_row(call) for call in calls]
    if arguments.json:
        for row in rows:
            print(json.dumps(row))
    else:
        print(table([COLUMNS, *([shown(row[name]) for name in COLUMNS] for row in rows)]))
        depth = outbox.table.depth()
        print(f"{depth.waiting} waiting, {depth.dead} dead")
    return 0


def _show(outbox: Outbox, arguments: argparse.Namespace) -> int:
    call = outbox.find(arguments.id)
    if call is None:
        what = f"there is no call {arguments.id}: it was made, or dropped, or never put"
        print(what, file=sys.stderr)
        return 1
    row = _row(call) | {"ordered_by": call.ordered_by, "arguments": _arguments(call)}
    if arguments.json:
        print(json.dumps(row))
    else:
        print(table([(name, shown(value)) for name, value in row.items()]))
    return 0


def _retry(outbox: Outbox, arguments: argparse.Namespace) -> int:
    return _each(arguments, outbox.retry, "will be made again")


def _drop(outbox: Outbox, arguments: argparse.Namespace) -> int:
    return _each(arguments, outbox.drop, "dropped")


def _each(arguments: argparse.Namespace, change: Callable[..., int], what: str) -> int:
    if arguments.all_dead:
        print(f"{change()} {what}")
        return 0
    unchanged = [one for one in arguments.ids if not change(one)]
    print(f"{len(arguments.ids) - len(unchanged)} {what}")
    for one in unchanged:
        print(f"{one} was not: see `show {arguments.target} {one}`")
    return 1 if unchanged else 0


def _check_functions(outbox: Outbox, target: str) -> None:
    """Make sure that there is something to make calls with: else all of them were given up."""
    if not outbox.replays:
        raise InvalidUse(
            f"{target}: no function puts its calls into it in the modules that were imported; name "
            "a module that imports those functions"
        )


def _drain(outbox: Outbox, arguments: argparse.Namespace) -> int:
    _check_functions(outbox, arguments.target)
    left = outbox.drain(arguments.timeout)
    print(f"{left} waiting, {outbox.table.depth().dead} dead")
    return 1 if left else 0


def _run(outbox: Outbox, arguments: argparse.Namespace) -> int:
    _check_functions(outbox, arguments.target)

    async def until_ended() -> None:
        loop = asyncio.get_running_loop()
        serving = asyncio.create_task(
            outbox.run(concurrency=arguments.concurrency, stop_within=arguments.stop_within)
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, serving.cancel)
        print(f"making the calls in {outbox.path}", flush=True)
        with contextlib.suppress(asyncio.CancelledError):
            await serving

    asyncio.run(until_ended())
    return 0


def _row(call: QueuedCall) -> dict[str, Any]:
    return {
        "id": call.id,
        "name": call.name,
        "key": call.key,
        "state": call.state,
        "attempts": call.attempts,
        "queued": call.queued.isoformat(timespec="seconds"),
        "due": call.due.isoformat(timespec="seconds"),
        "error": call.error,
    }


def _arguments(call: QueuedCall) -> Any:
    try:
        return json.loads(call.arguments)
    except ValueError:  # of a broken row
        return call.arguments
