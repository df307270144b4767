"""A real Prometheus looks at the storefront, and can say how long its recovery took."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from demo import Demo
from faults import KILLED, Fault
from tests.servers import PATIENCE, PrometheusServer, require_program

OF_RECOMMENDATIONS = '{dependency="recommendations"}'


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
    demo = Demo()
    async with demo.started():
        pages = f"127.0.0.1:{demo.storefront.announced['ops_port']}"
        with PrometheusServer(program, tmp_path, pages) as prometheus:
            await answer_of(prometheus, "up", above=0)
            await demo.carry_out((Fault("recommendations", KILLED),), lasting=2.0)

            recovery = "resilient_recovery_seconds"
            mean = f"{recovery}_sum{OF_RECOMMENDATIONS} / {recovery}_count{OF_RECOMMENDATIONS}"
            took = await answer_of(prometheus, mean, above=0)
            told = [one for one in demo.run.events if one.name == "resilient.recovered"]
            assert took == pytest.approx(
                sum(one.fields["recovery_seconds"] for one in told) / len(told), abs=0.01
            )
            assert 2.0 < took < 8.0

            detection = f"resilient_detection_seconds_sum{OF_RECOMMENDATIONS}"
            assert 0 < await answer_of(prometheus, detection, above=0) < took
            stale = 'resilient_fallbacks_total{dependency="recommendations",tier="cached"}'
            assert await answer_of(prometheus, stale, above=0) >= 1
            was_open = 'max_over_time(resilient_circuit_state{state="open"}[1m])'
            open_ones = await asyncio.to_thread(prometheus.query, f"{was_open} == 1")
            assert [labels["dependency"] for labels, _ in open_ones] == ["recommendations"]
