"""The tests that the documentation shows are found, and pass, as pytest runs them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.examples import examples_in

PAGE = Path(__file__).parents[2] / "docs" / "testing-degradation.md"
pytest_plugins = ["pytester"]


def test_the_three_tests_of_a_dependency_pass(pytester: pytest.Pytester) -> None:
    """A reader who copies them, with a dependency of the same settings, sees them pass."""
    [example] = [one for one in examples_in(PAGE) if "def test_it_hangs" in one.source.text]
    parts = (*example.given, example.source)
    pytester.makepyfile("\n".join(part.text for part in parts))

    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function")
    pytester.runpytest_subprocess("-q").assert_outcomes(passed=3)
