"""The process around the storefront: where its events go and where it can be looked at."""

import sys
import time
from collections.abc import MutableMapping
from typing import Any

import structlog

import child
import resilient
from storefront import app


def stamp(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add the monotonic time, which all processes of one machine share."""
    event["at"] = time.monotonic()
    return event


if __name__ == "__main__":
    structlog.configure(
        processors=[
            stamp,
            structlog.processors.add_log_level,
            structlog.processors.JSONRenderer(default=str),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
    )
    ops = resilient.serve(port=0)
    resilient.health.started()
    child.serve(app, port=int(sys.argv[1]), ops_port=ops.port)
