"""Tells a thread of each operation of the library that may touch what other threads see.

By `sys.monitoring`, which tells of the same operations however often the code has run before, and
on Python 3.11, which does not have it, by `sys.settrace`. On later ones that leaves out some of the
operations of a function's first calls, so that a run could not be repeated.
"""

from __future__ import annotations

import dis
import os
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import resilient

__all__ = ["gone_through", "tell"]

#: What is gone through step by step. The rest (what is told, shown and served) is one step each.
LIBRARY = tuple(
    str(Path(resilient.__file__).parent / folder) + os.sep
    for folder in ("engine", "strategies", "degrade")
)
#: Files whose state belongs to one call, and is seen by one thread at a time.
OF_ONE_CALL = (
    "engine/call.py",
    "engine/callables.py",
    "engine/clock.py",
    "engine/drivers.py",
    "engine/isolation.py",
    "engine/limits.py",
    "engine/outcome.py",
    "engine/settings.py",
    "engine/steps.py",
    "breaker/rejection.py",
)
#: What may read or write something that another thread sees; the rest is a thread's own.
SHARED = (
    "LOAD_ATTR",
    "LOAD_METHOD",
    "STORE_ATTR",
    "DELETE_ATTR",
    "BINARY_SUBSCR",
    "STORE_SUBSCR",
    "DELETE_SUBSCR",
    "BINARY_SLICE",
    "STORE_SLICE",
    "STORE_GLOBAL",
    "CALL",
    "CALL_FUNCTION_EX",
    "CALL_KW",
    "CONTAINS_OP",
    "FOR_ITER",
    "UNPACK_SEQUENCE",
)
#: Files that rely on the global lock, which goes to another thread after a call, and at the end of
#: a loop's round, only. Such places are their steps, and no others.
UNLOCKED = ("degrade/stores/memory.py",)
GIVES_WAY = ("CALL", "CALL_FUNCTION_EX", "CALL_KW", "FOR_ITER")


class _Here(threading.local):
    step: Callable[[CodeType, int], None] | None = None


_here = _Here()
_files: list[str] = [*LIBRARY]
_points: dict[CodeType, frozenset[int]] = {}


def tell(step: Callable[[CodeType, int], None] | None) -> None:
    """Call `step` before each operation of this thread, with its code and offset; None: no more.

    What `step` raises comes out of the operation, and ends this.
    """
    _here.step = step
    if sys.version_info < (3, 12):
        sys.settrace(None if step is None else _trace)


@contextmanager
def gone_through(*more: str) -> Generator[None]:
    """Have the library's operations told of; `more` are further files that are gone through."""
    _files.extend(more)
    _points.clear()
    try:
        with _watched():
            yield
    finally:
        _files[:] = LIBRARY


def _told(code: CodeType, offset: int) -> None:
    step = _here.step
    if step is not None:
        try:
            step(code, offset)
        except BaseException:
            _here.step = None
            raise


def _points_of(code: CodeType) -> frozenset[int]:
    """Return the offsets of what may touch what is shared; none for code that is one step."""
    points = _points.get(code)
    if points is None:
        points = _points[code] = frozenset(_offsets(code))
    return points


def _offsets(code: CodeType) -> Iterator[int]:
    name = code.co_filename
    if not name.startswith(tuple(_files)) or name.endswith(OF_ONE_CALL):
        return
    if code.co_name == "__init__":  # nobody else has it yet
        return
    operations = list(dis.get_instructions(code))
    if name.endswith(UNLOCKED):
        for one, following in pairwise(operations):
            if one.opname in GIVES_WAY:
                yield following.offset
        return
    for one in operations:
        if one.opname in SHARED:
            yield one.offset


if sys.version_info >= (3, 12):
    #: A number that nobody else has: those of debuggers, coverage and profilers are 0 to 2.
    _TOOL = 4

    @contextmanager
    def _watched() -> Generator[None]:
        monitoring = sys.monitoring
        happens = monitoring.events
        monitoring.use_tool_id(_TOOL, "interleavings")

        def begins(code: CodeType, _offset: int) -> Any:
            if _points_of(code):
                monitoring.set_local_events(_TOOL, code, happens.INSTRUCTION)
            return monitoring.DISABLE

        def comes(code: CodeType, offset: int) -> Any:
            if offset not in _points_of(code):
                return monitoring.DISABLE
            return _told(code, offset)

        monitoring.register_callback(_TOOL, happens.PY_START, begins)
        monitoring.register_callback(_TOOL, happens.INSTRUCTION, comes)
        monitoring.set_events(_TOOL, happens.PY_START)
        monitoring.restart_events()
        try:
            yield
        finally:
            monitoring.set_events(_TOOL, happens.NO_EVENTS)
            for code, points in _points.items():
                if points:
                    monitoring.set_local_events(_TOOL, code, happens.NO_EVENTS)
            monitoring.register_callback(_TOOL, happens.PY_START, None)
            monitoring.register_callback(_TOOL, happens.INSTRUCTION, None)
            monitoring.free_tool_id(_TOOL)

else:

    @contextmanager
    def _watched() -> Generator[None]:
        yield  # each thread traces itself

    def _trace(frame: FrameType, _event: str, _argument: Any) -> Any:
        code = frame.f_code
        points = _points_of(code)
        if not points:
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False

        def trace(frame: FrameType, event: str, _argument: Any) -> Any:
            if event == "opcode" and frame.f_lasti in points:
                _told(code, frame.f_lasti)
            return trace

        return trace
