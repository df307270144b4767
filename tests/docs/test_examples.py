"""Every example of the README and the documentation runs as it stands."""

from __future__ import annotations

import ast
import gc
from pathlib import Path
from typing import Any

import pytest

from resilient import CircuitBreaker
from resilient.strategies.breaker.registry import breaker_names
from tests.docs.examples import Example, examples_in

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = [example for page in PAGES for example in examples_in(page)]
TO_RUN = [example for example in EXAMPLES if "no-run" not in example.marks]


def name_of(example: Example) -> str:
    """Return where an example stands, such as `docs/index.md:14`."""
    return f"{example.source.page.relative_to(ROOT).as_posix()}:{example.source.line}"


@pytest.fixture
def nothing_is_left_of_others() -> None:
    """Forget the breakers and the like of tests and examples, which health would still see.

    An error that a module of tests raises again and again keeps those that it came through.
    """
    gc.collect()
    for breaker in breaker_names.all():
        if isinstance(breaker, CircuitBreaker):
            breaker.reset()


@pytest.mark.usefixtures("nothing_is_left_of_others")
@pytest.mark.parametrize("example", TO_RUN, ids=name_of)
def test_an_example_runs_as_it_stands(example: Example, virtual_time: Any) -> None:
    """An example runs by itself, given what its page says above it, and raises nothing."""
    example.run()


@pytest.mark.parametrize("example", EXAMPLES, ids=name_of)
def test_an_example_is_marked_with_nothing_but_no_run(example: Example) -> None:
    """A misspelt mark is told, and an example that is not run is Python all the same."""
    assert example.marks <= {"no-run"}
    ast.parse(example.source.text)


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_the_first_pages_show_an_example_that_runs(page: str) -> None:
    """Who opens the README or the documentation sees code, and it is code that runs."""
    assert [example for example in TO_RUN if example.source.page == ROOT / page]


def page_with(folder: Path, text: str) -> list[Example]:
    """Return the examples of a page that reads `text`."""
    page = folder / "page.md"
    page.write_text(text)
    return list(examples_in(page))


def test_an_example_does_not_see_what_another_left(tmp_path: Path) -> None:
    """Each example has a module of its own."""
    first, second = page_with(
        tmp_path, "```python\nanswer = 42\n```\n\n```python\nprint(answer)\n```\n"
    )

    assert first.run().answer == 42
    with pytest.raises(NameError, match="answer"):
        second.run()


def test_an_example_sees_what_its_page_takes_for_granted_above_it(tmp_path: Path) -> None:
    """A comment that readers do not see gives names to the examples below it only."""
    above, below = page_with(
        tmp_path,
        "```python\nprint(answer)\n```\n\n"
        "<!-- invisible-code-block: python\nanswer = 42\n-->\n\n"
        "```python\nanswer += 1\n```\n",
    )

    assert below.run().answer == 43
    with pytest.raises(NameError, match="answer"):
        above.run()


def test_an_example_may_await(tmp_path: Path) -> None:
    """An example may await at the top, as at the prompt of `python -m asyncio`."""
    [example] = page_with(
        tmp_path, "```python\nimport asyncio\n\nanswer = await asyncio.sleep(0, 42)\n```\n"
    )

    assert example.run().answer == 42


def test_an_error_points_at_its_line_in_the_page(tmp_path: Path) -> None:
    """The traceback of an example that fails names the page and the line in it."""
    [example] = page_with(tmp_path, "# Title\n\n```python\nanswer = 42\nanswer / 0\n```\n")

    with pytest.raises(ZeroDivisionError) as caught:
        example.run()
    assert caught.traceback[-1].path == tmp_path / "page.md"
    assert caught.traceback[-1].lineno + 1 == 5


def test_other_languages_are_left_alone(tmp_path: Path) -> None:
    """Only blocks of Python are examples."""
    page = "```console\n$ make demo\n```\n\n```pycon\n>>> 1\n```\n\n```pythonic\nno\n```\n"

    assert page_with(tmp_path, page) == []


def test_a_mark_is_read_from_the_fence(tmp_path: Path) -> None:
    """What stands behind the language marks the block."""
    [example] = page_with(tmp_path, "```python no-run\nwhile True: ...\n```\n")

    assert example.marks == {"no-run"}
