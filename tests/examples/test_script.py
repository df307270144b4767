"""The script with one decorator, run as its page says, against servers that behave badly."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.examples.upstream import Upstream
from tests.servers import PATIENCE, free_port

PROGRAM = Path(__file__).parents[2] / "examples" / "script" / "fetch.py"


def fetched(url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(PROGRAM), url],
        capture_output=True,
        text=True,
        check=False,
        timeout=3 * PATIENCE,
    )


def test_a_connection_that_breaks_twice_is_not_seen() -> None:
    """The third attempt prints the page, and nothing is said of the first two."""
    answers: list[Any] = [None, (503, "busy"), (200, "the page")]
    with Upstream({"/page": lambda *_: answers.pop(0)}) as upstream:
        done = fetched(f"{upstream.url}/page")
        assert (done.returncode, done.stdout, done.stderr) == (0, '"the page"', "")
        assert upstream.asked["/page"] == 3


def test_a_page_that_is_not_there_is_asked_for_once() -> None:
    """An answer is an answer: the script ends with its error at once."""

    def nothing(_: Any, __: Mapping[str, str]) -> Any:
        return 404, "no such page"

    with Upstream({"/nothing": nothing}) as upstream:
        done = fetched(f"{upstream.url}/nothing")
        assert done.returncode == 1
        assert "HTTP Error 404" in done.stderr
        assert upstream.asked["/nothing"] == 1


def test_where_nobody_listens_the_error_says_how_often_it_was_tried() -> None:
    """The real error comes out, with a note on the attempts that were made."""
    done = fetched(f"http://127.0.0.1:{free_port()}/")
    assert done.returncode == 1
    assert "Connection refused" in done.stderr
    assert re.search(r"4 attempts in \d\.\d+ s, stopped by: attempts", done.stderr), done.stderr
