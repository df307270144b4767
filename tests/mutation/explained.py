"""The surviving mutants that `docs/testing.md` explains."""

from __future__ import annotations

import re
from pathlib import Path

ROW = re.compile(r"^\| `(?P<module>[\w.]+)` \| `(?P<before>.+?)` \| `(?P<after>.+?)` \| .+ \|$")


def explained(page: Path) -> set[str]:
    """Return the names of the mutants that have a row in the table of survivors."""
    if not page.exists():
        return set()
    rows = filter(None, map(ROW.match, page.read_text(encoding="utf-8").splitlines()))
    return {
        f"{row['module']}: {row['before']} -> {row['after']}".replace(r"\|", "|") for row in rows
    }
