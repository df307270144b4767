"""The version is written in one place, and everything else agrees with it."""

from __future__ import annotations

import re
from importlib.metadata import version

import resilient
from tests.project.tree import pyproject, text_of


def test_the_installed_distribution_has_the_version_of_the_package() -> None:
    """What pip shows is what `resilient.__version__` says."""
    assert version("resilient-calls") == resilient.__version__


def test_the_version_is_written_in_one_file_only() -> None:
    """pyproject.toml has no version of its own, and takes it from the package."""
    assert "version" in pyproject()["project"]["dynamic"]
    assert "version" not in pyproject()["project"]
    path = pyproject()["tool"]["hatch"]["version"]["path"]
    assert f'__version__ = "{resilient.__version__}"' in text_of(path)


def test_the_changelog_begins_with_this_version() -> None:
    """The newest entry of the changelog is about the version at hand."""
    newest = re.search(r"^## (\S+)", text_of("CHANGELOG.md"), re.MULTILINE)
    assert newest is not None
    assert newest[1] == resilient.__version__
