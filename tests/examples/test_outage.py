"""The walk through an outage prints what its page says, and tells what has happened."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.servers import PATIENCE

FOLDER = Path(__file__).parents[2] / "examples" / "outage"
PAGE = (FOLDER / "README.md").read_text(encoding="utf-8")


def printed_by(program: str) -> str:
    command = [sys.executable, str(FOLDER / program)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=3 * PATIENCE)
    assert done.stderr == ""
    return done.stdout


def test_the_page_is_what_the_walk_says_and_prints() -> None:
    """The page is made anew from the script, and is the one that is there."""
    assert printed_by("page.py") == PAGE


def test_the_walk_runs_as_a_script() -> None:
    """Run as a whole it prints what stands below its cells, one after the other."""
    below_cells = re.findall(r"^```text\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(below_cells) >= 5
    assert printed_by("outage.py") == "".join(below_cells)


def test_what_the_prose_says_is_what_was_printed() -> None:
    """Ten retries and no more, no error, and an end that was measured."""
    assert 'resilient_retries_total{dependency="recommendations"} 10\n' in PAGE
    assert 'outcome="failure"' not in PAGE
    assert "rtoExceeded: True" in PAGE
    [recovery] = re.findall(r"resilient_recovery_seconds_sum\{.*\} ([\d.]+)", PAGE)
    assert 30 < float(recovery) < 35
