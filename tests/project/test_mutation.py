"""What `make mutation` goes by is still true; the run itself takes too long for every change."""

from __future__ import annotations

import pytest

from tests.mutation.explained import explained
from tests.project.tree import ROOT, pyproject

MODULES: dict[str, list[str]] = pyproject()["tool"]["mutation"]["modules"]


@pytest.mark.parametrize("module", MODULES)
def test_a_module_that_is_mutated_is_there_and_so_are_its_tests(module: str) -> None:
    """A file that was renamed would silently not be tried any more."""
    assert (ROOT / "src" / "resilient" / module).is_file()
    assert [pattern for pattern in MODULES[module] if not list(ROOT.glob(pattern))] == []


def test_a_surviving_mutant_that_is_explained_is_one_of_the_present_code() -> None:
    """Each row of the page names a line that the module still has."""
    source = {
        path.rpartition("/")[2]: {
            line.strip()
            for line in (ROOT / "src" / "resilient" / path).read_text(encoding="utf-8").splitlines()
        }
        for path in MODULES
    }
    rows = [name.split(": ", 1) for name in explained(ROOT / "docs" / "testing.md")]
    assert rows
    assert [row for row in rows if row[1].split(" -> ")[0] not in source[row[0]]] == []
