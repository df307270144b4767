"""The front door: every public name is there, nothing else is, and nothing is loaded before use."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import resilient

INIT = Path(resilient.__file__)
OPTIONAL = [
    "redis",
    "starlette",
    "flask",
    "django",
    "httpx",
    "fastapi",
    "msgspec",
    "psycopg",
    "opentelemetry",
    "pytest",
]
VOCABULARY = ["prometheus_client", "structlog", "tenacity", "pybreaker"]


def python(program: str) -> str:
    """Run `program` in a new process and return what it prints."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    ).stdout


def shown_to_type_checkers() -> set[str]:
    """Return the names that the front door imports for type checkers."""
    tree = ast.parse(INIT.read_text(encoding="utf-8"))
    guarded = [node for node in tree.body if isinstance(node, ast.If)]
    return {
        name.asname or name.name
        for block in guarded
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }


def test_the_front_door_names_what_is_there() -> None:
    """`__all__` has each name once, and each is found."""
    assert len(resilient.__all__) == len(set(resilient.__all__))
    for name in resilient.__all__:
        assert getattr(resilient, name) is not None
        assert name in dir(resilient)


def test_type_checkers_see_the_same_names() -> None:
    """What is imported for type checkers is what is there at run time."""
    assert shown_to_type_checkers() == set(resilient.__all__)


def test_everything_can_be_imported_at_once() -> None:
    """`from resilient import *` gives all public names."""
    printed = python("from resilient import *; print(sorted(name for name in dir()))")
    assert set(resilient.__all__) - {"__version__"} <= set(ast.literal_eval(printed))


def test_every_error_is_at_the_front_door() -> None:
    """No public error has to be imported from further in."""
    from resilient import errors

    assert set(errors.__all__) <= set(resilient.__all__)
    assert "CircuitOpen" in resilient.__all__


def test_a_name_that_there_is_not_is_told_as_usual() -> None:
    """A misspelt name is an AttributeError that names it."""
    with pytest.raises(AttributeError, match="'resilient' has no attribute 'retyr'"):
        getattr(resilient, "retyr")  # noqa: B009


def test_importing_the_library_loads_none_of_its_dependencies() -> None:
    """`import resilient` alone is cheap: what it stands on comes with the first use."""
    loaded = python("import sys, resilient; print(' '.join(sys.modules))").split()
    assert not set(loaded) & {*VOCABULARY, *OPTIONAL}


def test_no_name_needs_an_optional_library() -> None:
    """Every public name can be had where nothing optional is installed."""
    forbidden = dict.fromkeys(OPTIONAL)
    python(f"import sys; sys.modules.update({forbidden!r}); from resilient import *")


def test_a_retry_needs_no_breaker_and_no_metrics() -> None:
    """What is not used is not loaded."""
    program = (
        "import sys; from resilient import retry\n"
        "@retry(on=OSError)\n"
        "def fetch(): return 1\n"
        "fetch(); print(' '.join(sys.modules))"
    )
    assert not set(python(program).split()) & {*VOCABULARY, *OPTIONAL}


def test_the_first_use_is_the_same_object_as_every_other() -> None:
    """A name is looked up once, and gives the same thing from wherever it is imported."""
    from resilient.strategies.retry import retry

    assert resilient.retry is retry
    assert resilient.retry is resilient.retry
