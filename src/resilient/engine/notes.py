"""What the library says on the errors of others (PEP 678), which are never wrapped."""

from __future__ import annotations

from resilient.engine.isolation import report_broken

__all__ = ["annotate", "put"]


def annotate(error: Exception, begin: str, *lines: str) -> None:
    """Put `lines` on `error`, in place of earlier notes that begin with `begin`.

    An error object that is raised over and over must not collect a note each time.
    """
    try:
        earlier = getattr(error, "__notes__", ())
        if earlier:
            earlier = [one for one in earlier if not one.startswith(begin)]
        put(error, "__notes__", [*earlier, *lines])
    except Exception as broken:
        report_broken("note", broken)


def put(error: BaseException, attribute: str, value: object) -> None:
    """Give `error` one of the attributes that Python gives to errors, also to a frozen one."""
    BaseException.__setattr__(error, attribute, value)
