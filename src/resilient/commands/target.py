"""What a command is about: something in the user's program, named as in an import."""

from __future__ import annotations

import importlib
import traceback
from typing import Any

from resilient.errors import InvalidUse

__all__ = ["imported"]


def imported(target: str) -> Any:
    """Return the module or, after a colon, the attribute that `target` names.

    Raises:
        InvalidUse: If there is none, or importing it fails; with the line at which it does.
    """
    name, _, attribute = target.partition(":")
    try:
        found: Any = importlib.import_module(name)
    except (Exception, SystemExit) as error:  # whatever a module does when it is loaded
        raise InvalidUse(f"{name!r} cannot be imported: {_why(name, error)}") from error
    for part in attribute.split(".") if attribute else ():
        try:
            found = getattr(found, part)
        except AttributeError as error:
            raise InvalidUse(f"{target!r} is not there: {error}") from error
    return found


def _why(name: str, error: BaseException) -> str:
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing is not None and f"{name}.".startswith(f"{missing}."):
        return (
            f"there is no module {missing!r} here; run this in the folder, and the environment, "
            f"in which `import {name}` works"
        )
    what = "".join(traceback.format_exception_only(error)).strip()
    if isinstance(error, SyntaxError):
        return what  # with its place
    # The innermost frame that is in a file: what is frozen into Python is not where to look.
    frames = traceback.extract_tb(error.__traceback__)
    at = next(one for one in reversed(frames) if not one.filename.startswith("<"))
    return f"{what} ({at.filename}, line {at.lineno})"
