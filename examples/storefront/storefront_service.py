"""The storefront as it runs in a container: pages on one port, probes and metrics on another."""

import os
import sys

import structlog
import uvicorn

import resilient
from contract import DRAIN, LIMITS
from resilient.integrations.starlette import install
from storefront import app, page_about

# What Kubernetes asks must come from outside of the container.
HOST = os.environ.get("HOST", "127.0.0.1")


@resilient.health.check("page", critical=True, every=5, timeout=LIMITS["page"] * 2)
async def a_page_can_be_made() -> None:
    """Red for a version that cannot make its own page, and for no upstream: each has a fallback."""
    await page_about("check", token="")


install(app, prefix=None, max_deadline=10)

if __name__ == "__main__":
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.JSONRenderer(default=str),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
    )
    resilient.serve(port=int(os.environ.get("OPS_PORT", "9090")), host=HOST)
    resilient.drain_on_sigterm()  # before uvicorn's own handling, so that the process ends with 0
    uvicorn.run(
        app,
        host=HOST,
        port=int(os.environ.get("PORT", "8000")),
        access_log=False,
        timeout_graceful_shutdown=int(DRAIN["requests"]),
    )
