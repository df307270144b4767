"""Each example has a page, a test, and a line in the list of examples."""

from __future__ import annotations

import re
from pathlib import Path

from tests.project.tree import files

ROOT = Path(__file__).parents[2]
LIST = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
EXAMPLES = ROOT / "examples"
INSIDE = (path.relative_to(EXAMPLES) for path in files() if path.is_relative_to(EXAMPLES))
FOLDERS = {path.parts[0] for path in INSIDE} - {"README.md"}


def test_each_example_has_a_page_and_is_listed() -> None:
    """What is in the folder is in the list, and has a page that says how to run it."""
    assert set(re.findall(r"^\| \[\w+\]\((\w+)/README\.md\)", LIST, re.MULTILINE)) == FOLDERS
    for folder in FOLDERS:
        page = (ROOT / "examples" / folder / "README.md").read_text(encoding="utf-8")
        assert re.search(r"^    \S|^\$ |`python ", page, re.MULTILINE), folder


def test_each_example_names_its_test_which_is_there() -> None:
    """No example is without a test that runs it."""
    for row in re.findall(r"^\| \[.*$", LIST, re.MULTILINE):
        tests = re.findall(r"`(tests/[\w/]+\.py)`", row)
        assert tests, row
        assert all((ROOT / test).is_file() for test in tests)
