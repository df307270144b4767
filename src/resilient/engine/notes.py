"""What the library says on the errors of others (PEP 678), which are never wrapped."""

from __future__ import annotations

from resilient.engine.isolation import isolated

__all__ = ["annotate"]


def annotate(error: Exception, begin: str, *lines: str) -> None:
    """Put `lines` on `error`, in place of earlier notes that begin with `begin`.

    An error object that is raised over and over must not collect a note each time.
    """
    isolated("note", None, _annotate, error, begin, lines)


def _annotate(error: Exception, begin: str, lines: tuple[str, ...]) -> None:
    earlier = [one for one in getattr(error, "__notes__", ()) if not one.startswith(begin)]
    error.__notes__ = [*earlier, *lines]
