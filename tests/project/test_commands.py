"""Every command that a page names is there and works."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from tests.project.tree import ROOT, text_of

TARGETS = set(re.findall(r"^([a-z][a-z-]*):(?!=)", text_of("Makefile"), re.MULTILINE))
DOCS = sorted(page.relative_to(ROOT).as_posix() for page in (ROOT / "docs").glob("*.md"))
PAGES = ["README.md", "CONTRIBUTING.md", ".ci/run", *DOCS]


def commands_in(page: str) -> set[str]:
    """Return the targets that a page tells its reader to make, in code and not in prose."""
    return set(re.findall(r"(?:`|^\$ |^ +|announce \")make ([a-z-]+)", text_of(page), re.MULTILINE))


@pytest.mark.parametrize("page", PAGES)
def test_a_page_names_only_commands_that_there_are(page: str) -> None:
    """Each `make something` on a page is a target of the Makefile."""
    assert commands_in(page) <= TARGETS


def test_the_readme_shows_the_demo_first_and_then_the_tests() -> None:
    """`make demo` and `make test` are the first two commands that a reader meets."""
    shown = re.findall(r"^\$ (.+)$", text_of("README.md"), re.MULTILINE)
    assert shown[:2] == ["make demo", "make test"]


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_a_target_is_explained_and_never_taken_for_a_file(target: str) -> None:
    """`make help` has a line about each target, and a file of that name does not hide it."""
    makefile = text_of("Makefile")
    assert re.search(rf"^{target}:.* ## [A-Z]", makefile, re.MULTILINE)
    [phony] = re.findall(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    assert target in phony.split()


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_alone_shows_what_can_be_made() -> None:
    """`make` without a target does nothing but list the targets."""
    shown = subprocess.run(
        ["make"], cwd=ROOT, capture_output=True, check=True, text=True, timeout=30
    ).stdout
    assert set(re.findall(r"^  make ([a-z-]+)", shown, re.MULTILINE)) == TARGETS


def test_the_ci_script_is_one_that_bash_can_read() -> None:
    """The script is executable, stops at the first failure, and has no syntax error."""
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert "set -euo pipefail" in text_of(".ci/run")
    subprocess.run(["bash", "-n", str(script)], check=True, timeout=30)
