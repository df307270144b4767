"""The README is one screen, and begins with the problem."""

from __future__ import annotations

import re

from tests.project.tree import text_of

README = text_of("README.md")
SEEN = re.sub(r"<!--.*?-->\n?|<details>.*?</details>", "", README, flags=re.DOTALL)


def test_it_is_one_screen() -> None:
    """What is folded away and what readers do not see aside, it has few lines."""
    assert len(SEEN.splitlines()) <= 70


def test_it_has_all_that_the_first_minute_needs_in_this_order() -> None:
    """The problem, ten lines, a picture, two commands, the costs, and where to go on."""
    parts = ("**The problem.**", "```python", "![", "$ make demo\n$ make test", "| here |", "- [")
    found = [SEEN.index(part) for part in parts]
    assert found == sorted(found)
    [code] = re.findall(r"```python\n(.*?)```", SEEN, re.DOTALL)
    assert len([line for line in code.splitlines() if line]) <= 10
