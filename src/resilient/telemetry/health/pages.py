"""The answers as pages, for whatever serves them: a thread, ASGI or WSGI."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

from resilient.telemetry.health.liveness import live
from resilient.telemetry.health.readiness import ready
from resilient.telemetry.health.report import Report
from resilient.telemetry.health.startup import startup

__all__ = ["PATHS", "page"]

#: The pages that there are; each has a shorter name as well, the one that Kubernetes itself uses.
PATHS = ("/health/startup", "/health/ready", "/health/live")

_QUESTIONS: dict[str, Callable[[], Report]] = {
    "/health/startup": startup,
    "/health/ready": ready,
    "/health/live": live,
    "/startupz": startup,
    "/readyz": ready,
    "/livez": live,
}
_text = json.JSONEncoder(default=lambda unknown: type(unknown).__name__).encode
_NO = ("0", "false", "no")
_NEXT_CHECK = re.compile(r'\}\], "(?![:,}\]])')


def page(path: str, query: str = "") -> tuple[int, str, bytes] | None:
    """Return status, content type and body of one of the pages about health.

    Arguments:
        path: The path that was asked for, without the query.
        query: The query without its "?"; with "verbose", checks that pass are shown in full.

    Returns:
        None if `path` is none of these pages.

    Example:
        >>> from resilient import health
        >>> health.page("/health/live")[:2]
        (200, 'application/health+json')

    Where the rule comes from: the form is that of draft-inadarei-api-health-check; the paths ending
    in "z" and `?verbose` are those of the Kubernetes API server.
    """
    question = _QUESTIONS.get(path)
    if question is None:
        return None
    asked = dict(parse_qsl(query, keep_blank_values=True))
    report = question()
    answer = report.as_dict(verbose=asked.get("verbose", "no").lower() not in _NO)
    return report.http_status, "application/health+json", _written(answer).encode()


def _written(answer: dict[str, Any]) -> str:
    """Return `answer` as JSON with a line for each check, which a person can read and grep."""
    # Only between checks: within a text, the quote would have a backslash before it, and after the
    # one that ends a text comes a sign of JSON's own.
    written = _text(answer).replace('"checks": {', '"checks": {\n', 1)
    return _NEXT_CHECK.sub('}],\n"', written) + "\n"
