"""An application for the tests of several processes: it calls one dependency, and counts."""

import os
from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client import Counter

from resilient import CircuitBreaker, register_metrics, with_fallback
from resilient.telemetry.metrics import exposition

register_metrics(publish_every=float(os.environ["PUBLISH_EVERY"]))

requests = Counter("requests", "Requests, counted by prometheus-client itself")
upstream = CircuitBreaker("upstream", fail_max=1, reset_timeout=600)


@with_fallback("instead")
@upstream
def ask(*, fails: bool) -> str:
    """Answer, or fail."""
    if fails:
        raise ConnectionError
    return "answer"


for _ in range(int(os.environ.get("WARM_UP", "0"))):
    ask(fails=False)  # before the workers are forked, if the application is loaded before


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer with the page of metrics, or call the dependency and answer with the process."""
    if environ["PATH_INFO"] == "/metrics":
        page, content_type = exposition(environ.get("HTTP_ACCEPT", ""))
        start_response("200 OK", [("Content-Type", content_type)])
        return [page]
    requests.inc()
    ask(fails=environ["PATH_INFO"] == "/fail")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
