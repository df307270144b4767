"""What is in the repository can be read anywhere, by anybody."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import resilient
from tests.project.tree import ROOT, files

SRC = ROOT / "src" / "resilient"
PAGES = sorted(path for path in files() if path.suffix == ".md")
TESTS = sorted(path for path in files() if path.match("tests/**/test_*.py"))

# Written so that this file does not match itself.
PATH_OF_A_MACHINE = re.compile(r"(?<![\w.:/-])/(?:home|root|Users|work|mnt|srv)/\w")
REGISTRY = re.compile(r"\b(?:pypi[.]org|pythonhosted[.]org|npmjs[.](?:org|com)|crates[.]io)\b")


def name_of(path: Path) -> str:
    """Return a file's path from the root."""
    return path.relative_to(ROOT).as_posix()


def texts() -> list[tuple[str, str]]:
    """Return the name and the text of every file that holds text."""
    found = []
    for path in files():
        content = path.read_bytes()
        if b"\0" not in content:
            found.append((name_of(path), content.decode("utf-8")))
    return found


def test_no_file_names_a_path_of_the_machine_that_it_was_written_on() -> None:
    """The repository works wherever it is cloned to."""
    assert [name for name, text in texts() if PATH_OF_A_MACHINE.search(text)] == []


def test_no_file_names_a_package_registry() -> None:
    """Where packages come from is the business of who installs them."""
    assert [name for name, text in texts() if REGISTRY.search(text)] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    """Each link into the repository is to a file that is there."""
    links = re.findall(r"\]\((?!https?://|#|mailto:)([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("path", TESTS, ids=name_of)
def test_every_test_says_in_one_sentence_what_holds(path: Path) -> None:
    """A test has a docstring of one sentence: it is what a reader sees when the test fails."""
    without = [
        node.name
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not re.fullmatch(r"[^\n].*\.", (ast.get_docstring(node) or "").replace("\n", " "))
    ]
    assert without == []


def imports_of(path: Path) -> set[str]:
    """Return the modules of the library that a file imports, wherever in the file it does."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{name.name}" for name in node.names}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return {name for name in found if name.split(".")[0] == "resilient"}


def test_nothing_in_the_engine_imports_from_further_up() -> None:
    """Arrows point down: the engine knows itself and the errors, and nobody that is built on it."""
    below = re.compile(r"resilient\.(engine|errors|_version)\b")
    upward = {
        (name_of(path), name)
        for path in (SRC / "engine").rglob("*.py")
        for name in imports_of(path)
        if not below.match(name)
    }
    assert upward == set()


def test_no_subpackage_is_called_like_something_public() -> None:
    """Importing a subpackage sets its name on the package, and would replace a function there."""
    modules = {path.stem for path in SRC.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert modules.isdisjoint(resilient.__all__)


@pytest.mark.parametrize("taken", ["helpers", "constants", "definitions", "patch"])
def test_no_module_is_called_like_one_of_the_other_distribution(taken: str) -> None:
    """Another distribution installs into the same folder; a shared name would mix the two."""
    assert not (SRC / f"{taken}.py").exists()
    assert not (SRC / taken).exists()
