"""Dependencies that do as they are told, and what there is to see of the calls to them."""

from __future__ import annotations

import signal
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from resilient import register_metrics


def each(names: str, cases: Mapping[str, Any]) -> pytest.MarkDecorator:
    """Run a test with each of `cases`, which have a name each."""
    return pytest.mark.parametrize(names, list(cases.values()), ids=list(cases))


class Interrupted(BaseException):
    """A signal has come, which ends whatever the main thread waits for."""


@contextmanager
def waiting_for_ever() -> Generator[None]:
    """A block of the main thread that waits until it is interrupted, and does not end before."""

    def interrupt(_number: int, _frame: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        yield
        raise AssertionError("it has ended by itself")
    except Interrupted:
        return
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Scripted:
    """A dependency that comes to one of `answers` after the other, and stays with the last.

    An answer that is an exception is raised, one that is a type of exception as a new one.
    """

    def __init__(self, *answers: Any) -> None:
        self.answers = answers
        self.calls = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        answer = self.answers[min(self.calls, len(self.answers) - 1)]
        self.calls += 1
        if isinstance(answer, BaseException):
            raise answer
        if isinstance(answer, type) and issubclass(answer, BaseException):
            raise answer("as told")
        return answer


def series(dependency: str) -> dict[str, float]:
    """Return what Prometheus would read about `dependency`, by name and further labels."""
    registry = CollectorRegistry()
    register_metrics(registry)
    found: dict[str, float] = {}
    for metric in registry.collect():
        for sample in metric.samples:
            labels = dict(sample.labels)
            if labels.pop("dependency", None) == dependency:
                further = ",".join(labels[key] for key in sorted(labels))
                found[f"{sample.name}{{{further}}}" if further else sample.name] = sample.value
    return found


def calls(dependency: str) -> dict[str, int]:
    """Return how often each outcome of `dependency` has been counted, those of zero left out."""
    begin = "resilient_calls_total{"
    return {
        name.removeprefix(begin).removesuffix("}"): int(count)
        for name, count in series(dependency).items()
        if name.startswith(begin) and count
    }
