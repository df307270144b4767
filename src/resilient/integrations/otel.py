"""OpenTelemetry: what happens inside as events of the current span, what is counted as metrics.

A span for each strategy would say little at a high price. What there is to say of a call (tried
again, rejected, served by a fallback) is said on the span that its caller has anyway, and only if
that is being recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, Any, final

from resilient._version import __version__
from resilient.engine import clock, signals
from resilient.engine.locks import new_lock
from resilient.engine.measures import Histogram
from resilient.errors import ResilientError
from resilient.telemetry import exemplars
from resilient.telemetry.families import PREFIX, Family, all_families, bucket_labels

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation

__all__ = ["install", "uninstall"]

#: Which counter an event raises, and the labels of it that are keys of the event. What goes well is
#: not among them: the fast lane does not know in whose trace it was.
COUNTED = {
    "resilient.retry_scheduled": ("retries", {"dependency": "dependency"}),
    "resilient.fallback_served": ("fallbacks", {"dependency": "dependency", "tier": "tier"}),
    "resilient.call_rejected": ("rejections", {"dependency": "dependency", "reason": "reason"}),
    "resilient.part_missed": ("parts_missed", {"part": "part"}),
}
#: The unit of a metric, by the end of its name.
UNITS = {"_seconds": "s", "_bytes": "By"}


def install(*, meter_provider: MeterProvider | None = None) -> None:
    """Add the library's events to spans from now on, and its counts to OpenTelemetry's metrics.

    Events are added to the current span if it is recording. Metrics are read when OpenTelemetry
    collects; calls do not pay for them. Where Prometheus asks in the OpenMetrics format, counters
    of what goes wrong bear the trace of a recent case as exemplar.

    Arguments:
        meter_provider: Where metrics go; the global one unless given. Metrics belong to the first
            provider that is given: further calls change nothing.

    Raises:
        ResilientError: If opentelemetry-api is not installed.

    Example:
        >>> from resilient.integrations import otel
        >>> otel.install()
        >>> otel.uninstall()

    Where the rule comes from: OpenTelemetry's asynchronous instruments, and span events.
    """
    global _installed
    with _lock:
        if _installed is not None:
            return
        try:
            from opentelemetry import metrics
        except ImportError as error:
            raise ResilientError(
                'OpenTelemetry is not installed: pip install "resilient-calls[otel]"'
            ) from error
        meter = metrics.get_meter("resilient", __version__, meter_provider)
        _installed = _Installed(meter)
    signals.subscribe(_installed.listener)
    _installed.show_all()


def uninstall() -> None:
    """Add nothing to spans any more, and report no metrics; harmless if nothing was installed."""
    global _installed
    with _lock:
        installed, _installed = _installed, None
    if installed is not None:
        signals.unsubscribe(installed.listener)
        installed.is_over = True
        exemplars.forget()


@final
class _Installed:
    """What listens to signals, and answers when metrics are collected."""

    def __init__(self, meter: Meter) -> None:
        from opentelemetry import trace
        from opentelemetry.metrics import Observation

        self.is_over = False
        self.listener = self.tell  # one object, by which it is found again
        self._meter = meter
        self._current_span = trace.get_current_span
        self._observation = Observation
        self._lock = new_lock()
        self._known: set[str] = set()
        self._families: dict[str, Family] = {}
        self._given: set[str] = set()

    # Spans

    def tell(self, name: str, fields: Mapping[str, Any]) -> None:
        """Add a signal to the current span, if that is being recorded."""
        span = self._current_span()
        if not span.is_recording():
            return
        said = {f"resilient.{key}": _told(one) for key, one in fields.items() if one is not None}
        span.add_event(name, said)
        counted = COUNTED.get(name)
        context = span.get_span_context()
        if counted is not None and context.trace_flags.sampled:
            metric, keys = counted
            labels = {label: str(fields.get(key)) for label, key in keys.items()}
            ids = {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}
            exemplars.seen(PREFIX + metric, labels, ids)

    # Metrics

    def show_all(self) -> None:
        """Make instruments for all metrics that there are and that have none yet."""
        for family in all_families():
            with self._lock:
                if family.name in self._known:
                    continue
                self._known.add(family.name)
            self._show(family)

    def _show(self, family: Family) -> None:
        own = family.name.removeprefix(PREFIX)
        unit = next((UNITS[end] for end in UNITS if own.endswith(end)), "")
        plain = next((own.removesuffix(end) for end in UNITS if own.endswith(end)), own)
        name = f"resilient.{plain}"

        def observed(points: _Points) -> Callable[[CallbackOptions], Iterable[Observation]]:
            return lambda _options: self._observe(family.name, points)

        if family.kind == "gauge":
            self._meter.create_observable_gauge(name, [observed(_value)], unit, family.meaning)
        elif family.kind == "counter":
            self._meter.create_observable_counter(name, [observed(_value)], unit, family.meaning)
        else:
            # The API has no histogram that is read when somebody looks: the three counters of one.
            for suffix, points, of in (
                (".bucket", _buckets, ""),
                (".count", _count, ""),
                (".sum", _sum, unit),
            ):
                self._meter.create_observable_counter(
                    name + suffix, [observed(points)], of, family.meaning
                )

    def _observe(self, name: str, points: _Points) -> Iterable[Observation]:
        if self.is_over:
            return []
        family = self._family(name, points)
        if family is None:
            return []
        return [
            self._observation(value, {**dict(zip(family.labels, labels, strict=True)), **further})
            for labels, of in [*family.series.items()]
            for further, value in points(of)
        ]

    def _family(self, name: str, points: _Points) -> Family | None:
        """Return the metric as it is in this collection, which asks once for each instrument."""
        asked = f"{name} {points.__name__}"
        with self._lock:
            if not self._families or asked in self._given:
                self._given = set()
                self._families = {family.name: family for family in all_families()}
                if not self._families.keys() <= self._known:
                    # New parts have new metrics. Not here: the collection holds its lock.
                    clock.system.background(self.show_all)
            self._given.add(asked)
            return self._families.get(name)


_Point = tuple[dict[str, str], float]
_Points = Callable[[Any], list[_Point]]


def _value(value: float) -> list[_Point]:
    return [({}, value)]


def _buckets(histogram: Histogram) -> list[_Point]:
    bounds = bucket_labels(tuple(histogram.bounds))
    counts = accumulate(histogram.counts[:])
    return [({"le": bound}, count) for bound, count in zip(bounds, counts, strict=True)]


def _count(histogram: Histogram) -> list[_Point]:
    return [({}, sum(histogram.counts))]


def _sum(histogram: Histogram) -> list[_Point]:
    return [({}, histogram.sum)]


def _told(value: object) -> str | bool | int | float:
    return value if isinstance(value, str | bool | int | float) else str(value)


_installed: _Installed | None = None
_lock = new_lock()
