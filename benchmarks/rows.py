"""The rows of the table, in order, and the bars that are to be met."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks import ours, peers, proofs
from benchmarks.harness import Subject
from benchmarks.services import Service, answer, answer_async
from benchmarks.subjects import UNIT, UNIT_ASYNC, Comparison, Row, Section
from resilient import CircuitOpen

__all__ = ["BREAKERS", "COMPARISONS", "sections"]

Function = Callable[..., Any]

STACK = "fallback + retry + breaker (100 calls) + metrics"
STACK_ASYNC = f"{STACK}, async"
LIMITED_ASYNC = f"{STACK} + total and attempt timeout, async"


BREAKERS = {
    "resilient: breaker": ours.breaker_alone,
    "circuitbreaker: breaker": peers.circuitbreaker_alone,
    "pybreaker: breaker": peers.pybreaker_alone,
}


COMPARISONS = (
    Comparison(STACK, at_most=4.0),
    Comparison(STACK, "circuitbreaker: breaker alone"),
    Comparison(STACK, "pybreaker: breaker alone"),
    Comparison(STACK, "tenacity around pybreaker"),
    Comparison(LIMITED_ASYNC, "async with asyncio.timeout"),
    Comparison("timeout, sync", "ThreadPoolExecutor.submit().result()"),
    Comparison("open circuit, raising", "circuitbreaker: open, raising"),
    Comparison("open circuit, raising", "pybreaker: open, raising"),
    Comparison("open circuit, default served", "circuitbreaker: open, default served"),
    Comparison("three attempts, default served", "tenacity: three attempts, default served"),
    Comparison("three attempts, default served", "stamina: three attempts, default served"),
)


def sections() -> tuple[Section, ...]:
    """Make everything that is measured."""
    return (
        Section("Success, sync", tuple(_success())),
        Section("Success, async", tuple(_success_async())),
        Section("Time limit on a synchronous call", tuple(_limits())),
        Section("Rejected by an open circuit", tuple(_rejections())),
        Section("Three failing attempts", tuple(_failures())),
    )


def _ours(
    name: str,
    make: Callable[[Function], Function],
    *proofs: Callable[[], None],
    function: Function = answer,
    is_async: bool = False,
) -> Row:
    call = make(_renamed(function, name))
    return Row(Subject(name, call, is_async, counted=partial(ours.counted, call)), proofs)


def _renamed(function: Function, name: str) -> Function:
    """Return `function` anew: without a breaker, calls are counted under a function's name."""
    if function is answer_async:

        async def renamed_async(key: str) -> str:
            return key

        renamed_async.__qualname__ = name
        return renamed_async

    def renamed(key: str) -> str:
        return key

    renamed.__qualname__ = name
    return renamed


def _success() -> list[Row]:
    stack, with_cache = ours.stack, ours.cached_stack
    return [
        Row(UNIT),
        _ours(
            STACK,
            stack,
            partial(proofs.breaks, stack),
            partial(proofs.retries, stack),
            partial(proofs.serves_default, stack),
            partial(proofs.counts_every_call, stack),
        ),
        _ours(
            "fallback alone",
            ours.fallback_alone,
            partial(proofs.serves_default, ours.fallback_alone),
        ),
        _ours("retry alone", ours.retry_alone, partial(proofs.retries, ours.retry_alone)),
        _ours("breaker alone", ours.breaker_alone, partial(proofs.breaks, ours.breaker_alone)),
        _ours(
            "cached (memory) + retry + breaker + metrics",
            with_cache,
            partial(proofs.keeps_answers, with_cache),
            partial(proofs.retries, with_cache),
            partial(proofs.breaks, with_cache),
        ),
        Row(
            Subject("circuitbreaker: breaker alone", peers.circuitbreaker_alone(answer)),
            (partial(proofs.breaks, peers.circuitbreaker_alone),),
        ),
        Row(
            Subject("pybreaker: breaker alone", peers.pybreaker_alone(answer)),
            (partial(proofs.breaks, peers.pybreaker_alone),),
        ),
        Row(
            Subject("tenacity around pybreaker", peers.tenacity_around_pybreaker(answer)),
            (
                partial(proofs.breaks, peers.tenacity_around_pybreaker),
                partial(proofs.retries, peers.tenacity_around_pybreaker),
            ),
        ),
    ]


def _success_async() -> list[Row]:
    stack, limited = ours.stack, ours.limited_stack
    return [
        Row(UNIT_ASYNC),
        _ours(
            STACK_ASYNC,
            stack,
            partial(proofs.breaks, stack, is_async=True),
            partial(proofs.retries, stack, is_async=True),
            partial(proofs.serves_default, stack, is_async=True),
            partial(proofs.counts_every_call, stack, is_async=True),
            function=answer_async,
            is_async=True,
        ),
        _ours(
            LIMITED_ASYNC,
            limited,
            partial(proofs.breaks, limited, is_async=True),
            partial(proofs.retries, limited, is_async=True),
            partial(proofs.limits, ours.timeout_alone, is_async=True),
            partial(proofs.counts_every_call, limited, is_async=True),
            function=answer_async,
            is_async=True,
        ),
        Row(
            Subject(
                "async with asyncio.timeout", peers.asyncio_timeout(answer_async), is_async=True
            ),
            (partial(proofs.limits, peers.asyncio_timeout, is_async=True),),
        ),
    ]


def _limits() -> list[Row]:
    return [
        _ours("timeout, sync", ours.timeout_alone, partial(proofs.limits, ours.timeout_alone)),
        Row(
            Subject("ThreadPoolExecutor.submit().result()", peers.executor_timeout(answer)),
            (partial(proofs.limits, peers.executor_timeout),),
        ),
    ]


def _rejections() -> list[Row]:
    raising = (
        ("open circuit, raising", ours.opened, CircuitOpen),
        ("circuitbreaker: open, raising", peers.circuitbreaker_opened, peers.CIRCUITBREAKER_OPEN),
        ("pybreaker: open, raising", peers.pybreaker_opened, peers.PYBREAKER_OPEN),
    )
    serving = (
        ("open circuit, default served", ours.opened_with_default),
        ("circuitbreaker: open, default served", peers.circuitbreaker_opened_with_default),
    )
    rows = []
    for name, make, error in raising:
        service = Service()
        call = make(service.function())
        rows.append(
            Row(
                Subject(name, call, rejects=error, counted=_counted(make, call)),
                (partial(proofs.rejects, call, service, error.__name__),),
            )
        )
    for name, make in serving:
        service = Service()
        call = make(service.function())
        rows.append(
            Row(
                Subject(name, call, counted=_counted(make, call)),
                (partial(proofs.rejects, call, service, ours.DEFAULT),),
            )
        )
    return rows


def _failures() -> list[Row]:
    made = (
        ("three attempts, default served", ours.three_attempts),
        ("tenacity: three attempts, default served", peers.tenacity_attempts),
        ("stamina: three attempts, default served", peers.stamina_attempts),
    )
    rows = []
    for name, make in made:
        call = make(Service(is_down=True).function())
        rows.append(
            Row(
                Subject(name, call, counted=_counted(make, call)),
                (partial(proofs.retries, make), partial(proofs.serves_default, make)),
            )
        )
    return rows


def _counted(make: Callable[[Function], Function], call: Function) -> Callable[[], int] | None:
    return partial(ours.counted, call) if make.__module__ == ours.__name__ else None
