"""Metrics for Prometheus, read from the measures at scrape time: a call does not pay for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import final

from prometheus_client import REGISTRY, CollectorRegistry, Metric
from prometheus_client.exposition import choose_encoder

from resilient.engine import settings
from resilient.engine.locks import new_lock
from resilient.telemetry import processes
from resilient.telemetry.families import Counted, all_families

__all__ = ["Collector", "exposition", "register_metrics"]


@final
class Collector:
    """Gives Prometheus what has been counted; one object for any number of registries."""

    def describe(self) -> Iterable[Metric]:
        """Return the names without the values, by which a registry finds clashes."""
        return [family.metric() for family in Counted().all()]

    def collect(self) -> Iterator[Metric]:
        """Return every metric, with all of its series present from the start at zero."""
        for family in all_families():
            yield family.metric()


_collector = Collector()
_lock = new_lock()
#: The attribute of a registry that tells which collector of ours it has.
_MARK = "_resilient_collector"


def register_metrics(
    registry: CollectorRegistry = REGISTRY, *, publish_every: float | None = None
) -> None:
    """Have `registry` collect the library's metrics; harmless when it does already.

    Under `PROMETHEUS_MULTIPROC_DIR` no registry is needed: this process begins to write its counts
    into that directory, from where the page of any process shows the sums of all.

    Arguments:
        registry: prometheus-client's default registry, or one of your own.
        publish_every: Seconds between two writings under `PROMETHEUS_MULTIPROC_DIR`, above 0; 5
            unless given. So much is lost at the most when a process is killed.

    Raises:
        InvalidSetting: If `registry` is none, or `publish_every` is not above 0.

    Example:
        >>> from prometheus_client import CollectorRegistry, generate_latest
        >>> from resilient import register_metrics
        >>> registry = CollectorRegistry()
        >>> register_metrics(registry)
        >>> b"resilient_calls_total" in generate_latest(registry)
        True
    """
    expected = "a CollectorRegistry of prometheus-client"
    settings.having("registry", registry, ("register", "unregister", "collect"), expected)
    if publish_every is not None:
        settings.seconds("publish_every", publish_every, above_zero=True)
    if processes.are_many():
        processes.publisher.start(publish_every)
        return
    with _lock:
        registered: Collector | None = getattr(registry, _MARK, None)
        if registered is _collector:
            return
        if registered is not None:  # of this module, before it was loaded anew
            registry.unregister(registered)
        registry.register(_collector)
        setattr(registry, _MARK, _collector)


def exposition(accept: str = "", registry: CollectorRegistry = REGISTRY) -> tuple[bytes, str]:
    """Return the page that Prometheus reads, and its content type.

    It takes milliseconds or more, and belongs on a thread where there is an event loop. Under
    `PROMETHEUS_MULTIPROC_DIR` the page is about all processes that share the directory.

    Arguments:
        accept: The `Accept` header of the request, which decides between Prometheus's text format
            and OpenMetrics.
        registry: What is on the page, other than under `PROMETHEUS_MULTIPROC_DIR`.

    Example:
        >>> from resilient.telemetry.metrics import exposition, register_metrics
        >>> register_metrics()
        >>> page, content_type = exposition()
        >>> b"resilient_calls_total" in page, content_type.startswith("text/plain")
        (True, True)
    """
    encode, content_type = choose_encoder(accept)
    return encode(processes.of_all() if processes.are_many() else registry), content_type
