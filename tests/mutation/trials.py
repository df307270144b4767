"""What the tests say of a mutant.

The tests are collected once. For each mutant a child is forked which has the code of the changed
function replaced, in every function object that shares it, and runs the tests that reach it until
one fails: no module is imported again. What runs at import is replaced too where it comes to plain
values: constants, defaults of arguments, attributes of classes. What else runs there (decorators),
and whatever no test has noticed so, is tried in a child that begins anew, with the changed text in
the place of the module.
"""

from __future__ import annotations

import ast
import gc
import importlib.abc
import importlib.util
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import coverage
import pytest

from tests.mutation.mutants import Mutant

ROOT = Path(__file__).parents[2]
OPTIONS = [
    *("-q", "-x", "-s", "--assert=plain", "--tb=line", "--no-header", "--hypothesis-seed=0"),
    *(
        "-p",
        "no:cacheprovider",
        "-p",
        "no:rerunfailures",
        "-o",
        "faulthandler_timeout=900",
        "-m",
        "not proof and not real_time",
    ),
]


#: The exit status of a child tells which test has failed, if it is one of the first.
FAILED, MOST_TOLD = 100, 100


def name_of(module: Path) -> str:
    """Return what a module of the library is imported as."""
    return ".".join(module.relative_to(ROOT / "src").with_suffix("").parts)


@dataclass(frozen=True)
class Reach:
    """Which tests reach which line of which module, and how long each test takes.

    `own` are the tests that take part for a module, whether or not they reach a line of it.
    """

    tests: dict[str, dict[int, list[str]]]
    own: dict[str, set[str]]
    seconds: dict[str, float]

    def of(self, mutant: Mutant) -> list[str]:
        """Return the tests that can notice a mutant, the quickest first."""
        name = name_of(mutant.module)
        lines = self.tests[name]
        span = statement_at(mutant.source, mutant.start[0])
        chosen = lines.keys() if span is None else lines.keys() & set(span)
        reached = {test for line in chosen for test in lines[line]}
        # What is run at import is noticed by whatever uses the module, or reads a signature of it.
        others = self.own[name] - reached if span is None else set[str]()
        return [*self._quickest_first(reached), *self._quickest_first(others)]

    def _quickest_first(self, tests: set[str]) -> list[str]:
        return sorted(tests, key=lambda test: (self.seconds[test], test))

    @classmethod
    def measured(
        cls, session: pytest.Session, files: dict[Path, frozenset[Path]], log: Path
    ) -> Reach:
        """Run all tests without any mutant, in a child, and note what they reach.

        Of each module in `files`, and by the tests of its own files only.
        """
        modules = list(files)
        reading, writing = os.pipe()

        def measure() -> int:
            measuring = coverage.Coverage(
                data_file=None, config_file=False, include=[str(module) for module in modules]
            )
            seconds: dict[str, float] = {}

            def run(item: pytest.Item) -> None:
                measuring.switch_context(item.nodeid)
                began = time.perf_counter()
                _run(session, [item])
                seconds[item.nodeid] = time.perf_counter() - began

            measuring.start()
            for item in session.items:
                run(item)
            measuring.stop()
            data = measuring.get_data()
            tests = {name_of(module): data.contexts_by_lineno(str(module)) for module in modules}
            with os.fdopen(writing, "w") as pipe:
                json.dump([tests, seconds], pipe)
            return 0

        child = _fork(measure, output=log)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            found = pipe.read()
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0:
            raise SystemExit(f"The tests fail without any mutant; see {log}")
        tests, seconds = json.loads(found)
        own = {
            name_of(module): {one.nodeid for one in session.items if one.path in paths}
            for module, paths in files.items()
        }
        lines = {
            name: {
                int(line): [one for one in contexts if one in own[name]]
                for line, contexts in known.items()
            }
            for name, known in tests.items()
        }
        return cls(lines, own, seconds)


@cache
def statement_at(source: str, line: int) -> range | None:
    """Return the lines of the innermost statement in a function; None outside of all functions."""
    found: range | None = None

    def visit(node: ast.AST, *, inside: bool) -> None:
        nonlocal found
        for child in ast.iter_child_nodes(node):
            is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            if isinstance(child, ast.stmt) and child.lineno <= line <= (child.end_lineno or 0):
                body = getattr(child, "body", None)
                end = body[0].lineno - 1 if body else child.end_lineno or child.lineno
                if inside and not is_function:
                    found = range(child.lineno, max(end, child.lineno) + 1)
                elif is_function and line <= end:
                    found = None
            visit(child, inside=inside or is_function)

    visit(ast.parse(source), inside=False)
    return found


class Limits:
    """A plugin that ends this process, which is a child, when a test hangs because of a mutant."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self._seconds = seconds

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> None:
        """Give a test a multiple of the time that it takes without a mutant."""
        signal.setitimer(signal.ITIMER_REAL, 8 + 20 * self._seconds.get(item.nodeid, 0.5))


class Trials:
    """Tries mutants in children of a session whose tests are collected."""

    def __init__(self, session: pytest.Session, reach: Reach) -> None:
        session.config.pluginmanager.register(Limits(reach.seconds))
        self._session = session
        self._reach = reach
        self._items = {item.nodeid: item for item in session.items}
        self._orders: dict[int, list[str]] = {}
        #: Tests that have failed lately: what notices one mutant notices its neighbours.
        self._sharp: list[str] = []
        self._functions: dict[CodeType, list[FunctionType]] = {}
        gc.unfreeze()  # what is frozen is not among the objects
        for one in gc.get_objects():
            if type(one) is FunctionType:
                self._functions.setdefault(one.__code__, []).append(one)
        gc.freeze()  # no child looks through what it shares

    def begin(self, mutant: Mutant) -> int | None:
        """Begin to try a mutant; return the child that does, or None if no test reaches it."""
        tests = self._reach.of(mutant)
        if not tests:
            return None
        sharp = [test for test in self._sharp if test in tests]
        tests = [*sharp, *(test for test in tests if test not in sharp)]

        _compiled(mutant.source, str(mutant.module))  # once, here, for all children

        def run() -> int:
            is_code = self._replaced(mutant)
            if is_code or replaced_values(mutant):
                _run(self._session, [self._items[test] for test in tests])
            if not is_code:
                arguments = [sys.executable, "-m", "tests.mutation.trials", *mutant.key, *tests]
                os.execv(sys.executable, arguments)
            return 0

        child = _fork(run, output=Path(os.devnull))
        self._orders[child] = tests
        return child

    def ended(self, child: int, status: int) -> bool:
        """Return whether a test has failed, and remember which."""
        tests, number = self._orders.pop(child), os.waitstatus_to_exitcode(status) - FAILED
        if 0 <= number < min(len(tests), MOST_TOLD):
            test = tests[number]
            if self._reach.seconds[test] < 0.1:
                self._sharp = [test, *(one for one in self._sharp if one != test)][:8]
        return status != 0

    def _replaced(self, mutant: Mutant) -> bool:
        """Replace the code that a mutant changes; return False if that cannot be done."""
        path = str(mutant.module)
        before = _compiled(mutant.source, path)
        after = compile(mutant.mutated, path, "exec", dont_inherit=True)
        changed = list(_changed(before, after))
        if not changed or any(old not in self._functions for old, _ in changed):
            return False
        for old, new in changed:
            for function in self._functions[old]:
                function.__code__ = new
        return True


@cache
def _compiled(source: str, path: str) -> CodeType:
    return compile(source, path, "exec", dont_inherit=True)


def _changed(old: CodeType, new: CodeType) -> Iterator[tuple[CodeType, CodeType]]:
    """Yield the outermost functions that differ; the module itself if it is not only they."""
    olds, news = (
        [one for one in code.co_consts if isinstance(one, CodeType)] for code in (old, new)
    )
    same = old.replace(co_consts=()) == new.replace(co_consts=()) and len(olds) == len(news)
    rest = [[one for one in code.co_consts if not isinstance(one, CodeType)] for code in (old, new)]
    if same and repr(rest[0]) == repr(rest[1]):
        for inner, changed in zip(olds, news, strict=True):
            if inner != changed:
                yield from _changed(inner, changed)
    else:
        yield old, new


def _run(session: pytest.Session, items: list[pytest.Item]) -> None:
    """Run tests; end this process, which is a child, at the first that fails."""
    following = [*items[1:], None]
    for number, (item, after) in enumerate(zip(items, following, strict=True)):
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
        if session.testsfailed:
            os._exit(FAILED + min(number, MOST_TOLD))


def _fork(run: Callable[[], int], *, output: Path) -> int:
    child = os.fork()
    if child:
        return child
    status = 70
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        written = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        for stream in (1, 2):
            os.dup2(written, stream)
        status = run()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def end(child: int) -> None:
    """End a child, and whatever it has started."""
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)


# What runs at import


def replaced_values(mutant: Mutant) -> bool:
    """Replace the plain values that a module has because of a mutant; say if there are any."""
    name = name_of(mutant.module)
    module = sys.modules[name]
    try:
        before, after = (_run_again(module, text) for text in (mutant.source, mutant.mutated))
        differing = list(_differing(module, name, before, after))
        for owner, attribute, value in differing:
            for one in list(sys.modules.values()) if owner is module else ():
                if one is not module and vars(one).get(attribute) is vars(module)[attribute]:
                    setattr(one, attribute, value)
            setattr(owner, attribute, value)
    except Exception:  # it cannot be imported twice, or not at all
        return False
    return bool(differing)


def _run_again(module: ModuleType, text: str) -> dict[str, Any]:
    namespace: dict[str, Any] = {"__name__": module.__name__, "__file__": module.__file__}
    exec(compile(text, str(module.__file__), "exec", dont_inherit=True), namespace)
    return namespace


def _differing(
    owner: Any, module: str, before: Mapping[str, Any], after: Mapping[str, Any]
) -> Iterator[tuple[Any, str, Any]]:
    """Yield (owner, attribute, value after) of plain values; raise if anything else differs."""
    if before.keys() != after.keys():
        raise TypeError(owner)
    for name, new in after.items():
        old, live = before[name], vars(owner).get(name)
        if type(old) is not type(new):
            raise TypeError(name)
        if isinstance(new, FunctionType):
            for attribute in ("__defaults__", "__kwdefaults__"):
                olds, news = getattr(old, attribute), getattr(new, attribute)
                if news and any(map(_differs, _values(olds), _values(news))):
                    three = zip(*map(_values, (getattr(live, attribute), olds, news)), strict=True)
                    chosen = [now if _differs(was, now) else there for there, was, now in three]
                    named = isinstance(news, dict) and dict(zip(news, chosen, strict=True))
                    yield live, attribute, named or tuple(chosen)
        elif isinstance(new, type):
            if new.__module__ == module and new is not old:
                yield from _differing(live, module, vars(old), vars(new))
        elif not name.startswith("__") and _differs(old, new):
            yield owner, name, new


def _values(defaults: Any) -> Any:
    return defaults.values() if isinstance(defaults, dict) else defaults


def _differs(old: Any, new: Any) -> bool:
    return _is_plain(old) and _is_plain(new) and repr(old) != repr(new)


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


class _Mutated(SourceFileLoader):
    def __init__(self, mutant: Mutant) -> None:
        super().__init__(name_of(mutant.module), str(mutant.module))
        self.mutant = mutant

    def get_code(self, fullname: str) -> CodeType:
        return compile(self.mutant.mutated, self.path, "exec", dont_inherit=True)


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, mutant: Mutant) -> None:
        self.mutant = mutant

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        if fullname != name_of(self.mutant.module):
            return None
        return importlib.util.spec_from_loader(fullname, _Mutated(self.mutant))


if __name__ == "__main__":
    module, operator, occurrence, *tests = sys.argv[1:]
    path = Path(module)
    source = path.read_text(encoding="utf-8")
    sys.meta_path.insert(
        0, _Finder(Mutant(path, source, operator, int(occurrence), (0, 0), ("", 0)))
    )
    os._exit(int(pytest.main([*OPTIONS, *tests], plugins=[Limits({})])))
