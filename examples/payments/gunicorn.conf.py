"""Four processes, each with circuits of its own; their metrics are added up on one page."""

import os
from typing import Any

import resilient
from resilient.integrations.gunicorn import child_exit

wsgi_app = "service:app"
bind = f"127.0.0.1:{os.environ.get('PORT', '8000')}"
workers = 4
threads = 2
timeout = 30  # longer than any total_timeout: it kills the worker
graceful_timeout = 25  # longer than any request

__all__ = ["child_exit", "post_worker_init"]  # what gunicorn looks for


def post_worker_init(_worker: Any) -> None:
    resilient.drain_on_sigterm()  # needed with --preload only; does no harm
