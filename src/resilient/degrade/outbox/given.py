"""What an outbox is given, checked where it is: files, numbers of calls, calls."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from resilient.degrade.outbox.calls import NewCall
from resilient.engine import settings
from resilient.errors import InvalidSetting

__all__ = ["at_once", "can_be_kept", "number_of", "path_of"]


def path_of(url: object) -> Path:
    """Return where the file of an outbox is, if there could be one."""
    if isinstance(url, str):
        begin, path = url[:10], url[10:]
        if begin != "sqlite:///" or not path:
            raise InvalidSetting("url", url, 'a Path, or a text such as "sqlite:///var/outbox.db"')
        url = Path(path)
    if not isinstance(url, Path):
        raise InvalidSetting("url", url, 'a Path, or a text such as "sqlite:///var/outbox.db"')
    # A change of the working directory must not make it another file.
    absolute = url.absolute()
    try:
        is_in_a_folder = absolute.parent.is_dir()
        with contextlib.suppress(FileNotFoundError):
            absolute.lstat()
    except (OSError, ValueError):  # a name that is too long, or has a character that none has
        raise InvalidSetting("url", url, "the name of a file that there could be") from None
    if not is_in_a_folder:
        raise InvalidSetting("url", str(absolute), "in a folder that exists")
    return absolute


def at_once(concurrency: object) -> int:
    """Return how many calls are made at once; more than these are a mistake: each is a task."""
    return settings.count("concurrency", concurrency, most=10_000)


def number_of(call_id: object) -> str:
    """Return the number of a call, or one that none has; no other text is known to SQLite."""
    if not isinstance(call_id, str):
        raise InvalidSetting("call_id", call_id, "the number of a call, as a text")
    return call_id if call_id.isascii() and call_id.isdecimal() else "0"


def can_be_kept(call: object) -> bool:
    """Whether `call` is one, and all of it is text that can be written down."""
    if not isinstance(call, NewCall):
        return False
    texts: tuple[Any, ...] = (call.name, call.arguments, call.key or "", call.ordered_by or "")
    try:
        "".join(texts).encode()
    except (TypeError, UnicodeEncodeError):
        return False
    return True
