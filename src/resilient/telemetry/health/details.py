"""How much of an error is told to whoever asks about health."""

from __future__ import annotations

from typing import Any, final

from resilient.engine import settings
from resilient.engine.isolation import isolated

__all__ = ["described", "show_details"]


@final
class _Shown:
    texts = False


def show_details(value: bool = True) -> None:
    """Show the texts of errors in the answers about health, not only their types.

    A text may hold anything, passwords included, and the pages are read without one: show it only
    where nobody but you can ask.

    Arguments:
        value: False to hide them again, which is how it begins.

    Raises:
        InvalidSetting: If it is neither True nor False.

    Example:
        >>> from resilient import health
        >>> health.show_details()
        >>> health.show_details(False)
    """
    _Shown.texts = settings.flag("value", value)


def described(error: Exception | None) -> dict[str, Any]:
    """Return what may be said of `error`."""
    if error is None:
        return {}
    said = {"lastFailure": type(error).__name__}
    if _Shown.texts:
        said["output"] = isolated("text of an error", "cannot be told", str, error)
    return said
