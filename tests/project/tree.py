"""The files of the project, as tests about the project see them."""

from __future__ import annotations

import subprocess
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def text_of(name: str) -> str:
    """Return the text of a file, by its path from the root."""
    return (ROOT / name).read_text(encoding="utf-8")


@cache
def pyproject() -> dict[str, Any]:
    """Return what pyproject.toml says."""
    return tomllib.loads(text_of("pyproject.toml"))


@cache
def files() -> tuple[Path, ...]:
    """Return every file that is part of the project; what git ignores is not.

    Outside of a repository, which is where packagers unpack an sdist, all files are.
    """
    if not (ROOT / ".git").exists():
        found = (path for path in ROOT.rglob("*") if "__pycache__" not in path.parts)
        return tuple(sorted(path for path in found if path.is_file()))
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    found = (ROOT / name for name in listed.stdout.split("\0") if name)
    return tuple(sorted(path for path in found if path.is_file()))
