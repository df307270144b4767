"""The fast lanes: what a call leaves behind while all is well."""

from __future__ import annotations

import pytest

from resilient import Pipeline, pipeline_of, retry
from resilient.engine.measures import Measures
from resilient.testing.virtual import VirtualTime


def duration_of(pipeline: Pipeline) -> float:
    """Return the seconds that all calls under the pipeline's name have taken."""
    measures = Measures.of(pipeline.name)
    measures.settle()
    return measures.durations.sum


def test_a_function_follows_the_clock_that_is_installed_after_it_was_guarded() -> None:
    """Functions that were guarded when a module was loaded live in a test's virtual time."""
    virtual = VirtualTime()

    @retry(on=ConnectionError)
    def passes(seconds: float) -> None:
        virtual.advance(seconds)

    with virtual:
        passes(30)
    assert duration_of(pipeline_of(passes)) == 30

    passes(30)
    assert 30 < duration_of(pipeline_of(passes)) < 31


async def test_an_asynchronous_function_follows_the_clock_as_well() -> None:
    """It is the same for a function that is awaited."""
    virtual = VirtualTime()

    @retry(on=ConnectionError)
    async def passes(seconds: float) -> None:
        virtual.advance(seconds)

    with virtual:
        await passes(30)
    assert duration_of(pipeline_of(passes)) == 30

    await passes(30)
    assert 30 < duration_of(pipeline_of(passes)) < 31


def test_every_two_hundred_and_fifty_six_calls_are_counted_together() -> None:
    """Until then, or until somebody asks, they are durations in a journal."""
    served = retry(on=ConnectionError)(lambda: None)
    journal = pipeline_of(served).journal
    for _ in range(255):
        served()
    assert len(journal) == 255
    served()
    assert len(journal) == 0


def test_an_error_that_leaves_the_fast_lane_carries_no_context_of_ours() -> None:
    """The error of a first attempt comes out with one frame of the library and nothing chained."""

    @retry(on=ConnectionError)
    def fails() -> None:
        raise KeyError("own")

    with pytest.raises(KeyError) as raised:
        fails()

    frames = [entry.frame.f_globals["__name__"] for entry in raised.traceback]
    assert [name for name in frames if name.startswith("resilient.")] == ["resilient.engine.lanes"]
    assert raised.value.__context__ is None
