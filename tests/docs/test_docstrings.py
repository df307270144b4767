"""Every example in a docstring of the library says what really happens."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

import resilient

OPTIONS = doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL


def modules() -> Iterator[str]:
    """Yield the name of every module of the library, those that run when imported aside."""
    yield resilient.__name__
    for module in pkgutil.walk_packages(resilient.__path__, f"{resilient.__name__}."):
        if not module.name.endswith(".__main__"):
            yield module.name


def docstrings() -> Iterator[doctest.DocTest]:
    """Yield each docstring that has examples in it."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    for name in modules():
        for found in finder.find(importlib.import_module(name), name):
            if found.examples:
                yield found


@pytest.mark.parametrize("docstring", list(docstrings()), ids=lambda found: found.name)
def test_the_example_of_a_docstring_holds(docstring: doctest.DocTest, virtual_time: Any) -> None:
    """The examples of a docstring print what they say that they print, in virtual time."""
    report: list[str] = []
    # Events go to standard output unless structlog is told otherwise; readers know that.
    with capture_logs():
        doctest.DocTestRunner(verbose=False, optionflags=OPTIONS).run(docstring, out=report.append)
    assert not report, "".join(report)
