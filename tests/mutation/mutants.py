"""What a module could say instead: its mutants, as cosmic-ray makes them."""

from __future__ import annotations

import ast
import difflib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from cosmic_ray import plugins
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Example, Operator
from parso.python.tree import Name


class DeleteStatement(Operator):
    """Leave out a call whose value nobody takes, or an assignment to an attribute or an item.

    cosmic-ray comes without such an operator, and a forgotten line is the commonest mistake.
    """

    def mutation_positions(self, node: Any) -> Any:
        if node.parent is None or node.parent.type != "simple_stmt":
            return
        is_call = node.type in ("atom_expr", "power") and node.children[-1].type == "trailer"
        is_kept = node.type == "expr_stmt" and node.children[0].type in ("atom_expr", "power")
        if is_call or is_kept:
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        leaf = node.get_first_leaf()
        return Name("pass", leaf.start_pos, prefix=leaf.prefix)

    @classmethod
    def examples(cls) -> Any:
        return (Example("a.clear()", "pass"),)


@dataclass(frozen=True)
class Mutant:
    """One change to one module."""

    module: Path
    source: str
    operator: str
    occurrence: int
    start: tuple[int, int]
    #: Where it is changed: the text of the function or statement, and which of its places it is.
    place: tuple[str, int]

    @cached_property
    def mutated(self) -> str:
        """The text of the whole module with the change."""
        mutated = mutate_code(self.source, OPERATORS[self.operator], self.occurrence)
        assert mutated is not None
        return mutated

    @cached_property
    def change(self) -> tuple[str, str]:
        """The lines that differ, before and after, each in one line."""
        lines = difflib.ndiff(self.source.splitlines(), self.mutated.splitlines())
        changed = [(line[0], line[2:].strip()) for line in lines if line[0] in "-+"]
        before, after = (
            " ".join(text for sign, text in changed if sign == which) for which in "-+"
        )
        return before, re.sub(r" +", " ", after)

    @property
    def key(self) -> tuple[str, str, str]:
        """What another process makes the same mutant of."""
        return str(self.module), self.operator, str(self.occurrence)

    @property
    def name(self) -> str:
        """How people speak of it, and how `docs/testing.md` does."""
        before, after = self.change
        return f"{self.module.name}: {before} -> {after}"


# Of any type, as cosmic-ray comes without types.
OPERATORS: dict[str, Any] = {
    **{
        name.removeprefix("core/"): operator()
        for name in plugins.operator_names()
        if not (operator := plugins.get_operator(name)).arguments()
    },
    "DeleteStatement": DeleteStatement(),
}


def mutants_of(module: Path, operators: Iterable[str]) -> Iterator[Mutant]:
    """Yield each mutant of a module once, in the order of its lines."""
    source = module.read_text(encoding="utf-8")
    patterns = [re.compile(pattern) for pattern in operators]
    nodes = list(ast_nodes(get_ast(source)))
    unread = set(_unread(source))
    found: list[Mutant] = []
    for name, operator in OPERATORS.items():
        if any(pattern.fullmatch(name) for pattern in patterns):
            places = (start for node in nodes for start, _ in operator.mutation_positions(node))
            before = Counter[str]()
            for at, start in enumerate(places):
                text = _text_around(source, start[0])
                found.append(Mutant(module, source, name, at, start, (text, before[text])))
                before[text] += 1
    for mutant in sorted(found, key=lambda mutant: (mutant.start, mutant.operator)):
        if mutant.start not in unread:
            yield mutant


@cache
def _text_around(source: str, line: int) -> str:
    """Return the innermost function around a line, or else the statement, without its body."""
    first, last = 1, 0

    def visit(node: ast.AST) -> None:
        nonlocal first, last
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.stmt):
                begin = min([child.lineno, *(one.lineno for one in _decorators(child))])
                if begin <= line <= (child.end_lineno or 0):
                    body = getattr(child, "body", None)
                    is_within = body and line >= body[0].lineno
                    if isinstance(child, function) and is_within:
                        first, last = begin, child.end_lineno or 0
                    elif not any(isinstance(one, function) for one in enclosing):
                        first, last = begin, (body[0].lineno - 1 if body else child.end_lineno or 0)
                    enclosing.append(child)
            visit(child)

    function = ast.FunctionDef | ast.AsyncFunctionDef
    enclosing: list[ast.AST] = []
    visit(ast.parse(source))
    return "\n".join(source.splitlines()[first - 1 : last])


def _decorators(node: ast.AST) -> list[ast.expr]:
    return getattr(node, "decorator_list", [])


def _unread(source: str) -> Iterator[tuple[int, int]]:
    """Yield every position that only type checkers read, and of stars that do not multiply."""
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        told: list[Any] = []
        if isinstance(node, ast.arg | ast.AnnAssign):
            told = [node.annotation]
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            told = [one for one in node.decorator_list if ast.unparse(one) in ("final", "overload")]
            if not isinstance(node, ast.ClassDef):
                told.append(node.returns)
                yield from _stars(node, lines)
                if any(ast.unparse(one) == "overload" for one in node.decorator_list):
                    told.append(node)
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            told = [node]
        elif isinstance(node, ast.Call | ast.Dict):
            yield from _unpacking(node)
        for one in filter(None, told):
            for number in range(one.lineno, one.end_lineno + 1):
                text = lines[number - 1]
                first = one.col_offset - 1 if number == one.lineno else 0
                last = one.end_col_offset if number == one.end_lineno else len(text)
                yield from ((number, column) for column in range(max(first, 0), last + 1))


def _unpacking(node: ast.Call | ast.Dict) -> Iterator[tuple[int, int]]:
    if isinstance(node, ast.Dict):
        named = [value for key, value in zip(node.keys, node.values, strict=True) if key is None]
    else:
        named = [one.value for one in node.keywords if one.arg is None]
    yield from ((one.lineno, one.col_offset - 2) for one in named)


def _stars(
    function: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]
) -> Iterator[tuple[int, int]]:
    for number in range(function.lineno, function.body[0].lineno):
        for column, letter in enumerate(lines[number - 1]):
            if letter in "*/":
                yield number, column
