"""The name by which a request is found again in the logs of all who had a part in it."""

from __future__ import annotations

import re
import secrets

__all__ = ["request_id"]

_ID = re.compile(r"[A-Za-z0-9._~:/+=@-]{1,128}")
# https://www.w3.org/TR/trace-context/#traceparent-header-field-values
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}.*")


def request_id(given: str | None, traceparent: str | None) -> str:
    """Return the id that came with the request, else that of its trace, else a new one.

    What a client sends goes into logs and back into a header, so it has to be short and plain.
    """
    if given is not None and _ID.fullmatch(given):
        return given
    trace = _TRACEPARENT.fullmatch(traceparent) if traceparent and len(traceparent) < 512 else None
    return secrets.token_hex(16) if trace is None else trace[1]
