"""Tests that the documentation names as the proof of a claim are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMED = sorted(
    {
        (page.relative_to(ROOT).as_posix(), file, name)
        for page in (ROOT / "docs").rglob("*.md")
        for file, name in re.findall(
            r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page.read_text(encoding="utf-8")
        )
    }
)


@pytest.mark.parametrize(("page", "file", "name"), NAMED, ids=lambda part: part or "whole")
def test_a_test_that_is_named_is_there(page: str, file: str, name: str) -> None:
    """A page names files of tests, and tests in them, that exist."""
    text = (ROOT / file).read_text(encoding="utf-8")
    assert not name or re.search(rf"^(async )?def {name}\(", text, re.MULTILINE)


def test_the_dangers_are_backed_by_tests() -> None:
    """The page about dangers names a test for each of them."""
    assert len([name for page, _, name in NAMED if page == "docs/why.md" and name]) >= 15
