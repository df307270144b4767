"""The examples of a Markdown page, as programs that can be run.

Sybil finds them: blocks fenced as `python`, and comments that begin with
`invisible-code-block: python` and hold what the examples below them take for granted.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from sybil import Document
from sybil.parsers.markdown.lexers import DirectiveInHTMLCommentLexer, RawFencedCodeBlockLexer

_VISIBLE = RawFencedCodeBlockLexer(re.compile(r"python(?:[ \t]+(?P<marks>[^\n]+))?[ \t]*\n"))
_GIVEN = DirectiveInHTMLCommentLexer("invisible-code-block", "python")


@dataclass(frozen=True, slots=True)
class Source:
    """A piece of Python and where it stands, so that a traceback points into the page."""

    page: Path
    line: int
    text: str

    def run_in(self, module: ModuleType) -> None:
        """Run it in `module`; `await` is allowed at the top, as in `python -m asyncio`."""
        code = compile(
            "\n" * (self.line - 1) + self.text,
            str(self.page),
            "exec",
            flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
            dont_inherit=True,
        )
        if code.co_flags & inspect.CO_COROUTINE:
            asyncio.run(eval(code, module.__dict__))
        else:
            exec(code, module.__dict__)


@dataclass(frozen=True, slots=True)
class Example:
    """A block that a reader can copy, and what its page takes for granted above it."""

    source: Source
    given: tuple[Source, ...]
    marks: frozenset[str]

    def run(self) -> ModuleType:
        """Run it in a module of its own, and return that module."""
        module = ModuleType(f"example_{self.source.page.stem}_{self.source.line}")
        # Dataclasses, annotations and pickle look a module up by its name.
        sys.modules[module.__name__] = module
        try:
            for source in (*self.given, self.source):
                source.run_in(module)
        finally:
            del sys.modules[module.__name__]
        return module


def examples_in(page: Path) -> Iterator[Example]:
    """Yield the examples of a page, from the top to the bottom."""
    document = Document(page.read_text(encoding="utf-8"), str(page))
    regions = [(region, False) for region in _GIVEN(document)]
    regions += [(region, True) for region in _VISIBLE(document)]
    given: list[Source] = []
    for region, visible in sorted(regions, key=lambda found: found[0].start):
        lexeme = region.lexemes["source"]
        first_line = document.text.count("\n", 0, region.start + lexeme.offset) + 1
        source = Source(page, first_line, lexeme.text)
        if visible:
            marks = frozenset((region.lexemes["marks"] or "").split())
            yield Example(source, tuple(given), marks)
        else:
            given.append(source)
