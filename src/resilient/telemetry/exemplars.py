"""The traces behind counts: for what goes wrong, one recent trace for each series.

Whoever knows of traces tells `seen`; the page for Prometheus asks `of`. Counts of what goes well
have none: a success on the fast lane leaves its duration and no word of whose it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilient.engine.locks import new_lock

if TYPE_CHECKING:
    from collections.abc import Mapping

    from prometheus_client.samples import Exemplar

__all__ = ["forget", "of", "seen"]

#: More series than this have none.
MOST_KEPT = 1000

_Series = tuple[str, frozenset[tuple[str, str]]]
_exemplars: dict[_Series, Exemplar] = {}
_lock = new_lock()


def seen(name: str, labels: Mapping[str, str], trace: Mapping[str, str]) -> None:
    """Take note of a trace in which the counter `name` was raised by one."""
    from prometheus_client.samples import Exemplar

    series = (name, frozenset(labels.items()))
    with _lock:
        if series in _exemplars or len(_exemplars) < MOST_KEPT:
            _exemplars[series] = Exemplar(dict(trace), 1.0)


def of(name: str, labels: Mapping[str, str]) -> Exemplar | None:
    """Return the latest trace of a series, if one is known."""
    return _exemplars.get((name, frozenset(labels.items()))) if _exemplars else None


def forget() -> None:
    """Forget every trace."""
    with _lock:
        _exemplars.clear()
