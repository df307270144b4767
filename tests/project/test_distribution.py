"""What is installed is what users and their tools expect."""

from __future__ import annotations

import re
from importlib.metadata import entry_points, requires
from importlib.resources import files

import pytest
from packaging.requirements import Requirement

from tests.project.lowest import lowest_versions
from tests.project.tree import pyproject


def required() -> list[Requirement]:
    """Return what the installed distribution requires, its extras included."""
    return [Requirement(line) for line in requires("resilient-calls") or ()]


def test_the_package_tells_type_checkers_that_it_is_typed() -> None:
    """The marker file of PEP 561 is there, without which its types are ignored."""
    assert files("resilient").joinpath("py.typed").is_file()


def test_pytest_finds_the_plugin() -> None:
    """The fixtures of the library are there without an import, through pytest's entry point."""
    [plugin] = entry_points(group="pytest11", name="resilient")
    assert plugin.load().__name__ == "resilient.testing.plugin"


def test_four_packages_are_all_that_a_plain_install_brings() -> None:
    """Everything else that the library can use is in an extra."""
    assert {one.name for one in required() if one.marker is None} == {
        "tenacity",
        "pybreaker",
        "structlog",
        "prometheus-client",
    }


def test_every_dependency_has_a_lower_bound_that_is_tested() -> None:
    """`make test-lowest` pins every dependency to a version that its requirement allows."""
    bounds = {one.name: one.specifier for one in required()}
    lowest = dict(pin.split("==") for pin in lowest_versions())
    assert lowest.keys() == bounds.keys()
    assert [name for name in bounds if not bounds[name].contains(lowest[name])] == []


@pytest.mark.parametrize("name", ["tenacity", "pybreaker", "prometheus-client", "redis"])
def test_a_dependency_whose_versions_tell_of_breaks_has_an_upper_bound(name: str) -> None:
    """The next version that may break something is not installed before it was tried."""
    [specifier] = [one.specifier for one in required() if one.name == name]
    assert "<" in {bound.operator for bound in specifier}


def test_the_oldest_python_is_the_same_everywhere() -> None:
    """Installers, classifiers and checkers agree on which Python is the oldest."""
    project, tool = pyproject()["project"], pyproject()["tool"]
    oldest = project["requires-python"].removeprefix(">=")
    named = [
        found[1]
        for line in project["classifiers"]
        if (found := re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", line))
    ]
    assert named[0] == oldest
    assert tool["pyright"]["pythonVersion"] == oldest
    assert tool["ruff"]["target-version"] == "py" + oldest.replace(".", "")
