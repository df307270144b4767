"""A real Prometheus looks at the storefront, and can say how long its recovery took."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from pathlib import Path
from statistics import fmean

import pytest

from demo import Demo
from faults import KILLED
from load import drive
from tests.servers import PATIENCE, PrometheusServer, require_program

OF_RECOMMENDATIONS = '{dependency="recommendations"}'
SERVED_STALE = '{dependency="recommendations",tier="cached"}'


async def answer_of(prometheus: PrometheusServer, question: str, *, above: float) -> float:
    """Return the one value that answers `question`, as soon as it is above a number."""
    deadline = time.monotonic() + PATIENCE
    while True:
        answers = await asyncio.to_thread(prometheus.query, question)
        if answers and answers[0][1] > above:
            return answers[0][1]
        assert time.monotonic() < deadline, (question, answers)
        await asyncio.sleep(0.1)


@pytest.mark.real_time
async def test_prometheus_knows_how_long_the_recovery_from_a_fault_took(tmp_path: Path) -> None:
    """After an upstream was killed and started again, a query returns the seconds in between."""
    program = require_program("prometheus")
    demo, stopping, began = Demo(), asyncio.Event(), time.monotonic()
    async with demo.started(), asyncio.TaskGroup() as group:
        group.create_task(drive(demo.storefront.url, demo.run.answers.append, stopping))
        pages = f"127.0.0.1:{demo.storefront.announced['ops_port']}"
        with PrometheusServer(program, tmp_path, pages) as prometheus:
            seen = partial(answer_of, prometheus)
            fine = 'resilient_calls_total{dependency="recommendations",outcome="success"}'
            await seen(fine, above=0)

            upstream = demo.upstreams["recommendations"]
            await KILLED.begin(upstream)
            await seen(
                'resilient_circuit_state{dependency="recommendations",state="open"}', above=0
            )
            assert await seen(f"resilient_fallbacks_total{SERVED_STALE}", above=0) >= 1
            await KILLED.end(upstream)

            recovery = "resilient_recovery_seconds"
            await seen(f"{recovery}_count{OF_RECOMMENDATIONS}", above=0)
            stopping.set()
            # On a loaded machine there may be further outages, until nobody asks any more.
            mean = f"{recovery}_sum{OF_RECOMMENDATIONS} / {recovery}_count{OF_RECOMMENDATIONS}"
            deadline = time.monotonic() + PATIENCE
            while await seen(mean, above=0) != pytest.approx(fmean(recoveries(demo)), abs=0.01):
                assert time.monotonic() < deadline
                await asyncio.sleep(0.1)
            assert 0 < max(recoveries(demo)) < time.monotonic() - began

            detection = f"resilient_detection_seconds_sum{OF_RECOMMENDATIONS}"
            assert 0 < await seen(detection, above=0) < sum(recoveries(demo))
            was_open = 'max_over_time(resilient_circuit_state{state="open"}[1m])'
            open_ones = await asyncio.to_thread(prometheus.query, f"{was_open} == 1")
            assert "recommendations" in [labels["dependency"] for labels, _ in open_ones]


def recoveries(demo: Demo) -> list[float]:
    """Return how long the outages took that the storefront itself has told of."""
    return [
        event.fields["recovery_seconds"]
        for event in demo.run.events
        if event.name == "resilient.recovered" and event.dependency == "recommendations"
    ]
