"""What a row is made of: something to measure, with the proofs that it does its work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.harness import Subject
from benchmarks.services import answer, answer_async, wrapped, wrapped_async

__all__ = ["UNIT", "UNIT_ASYNC", "Comparison", "Row", "Section"]

UNIT = Subject("do-nothing wrapper", wrapped(answer))
UNIT_ASYNC = Subject("do-nothing wrapper, async", wrapped_async(answer_async), is_async=True)


@dataclass(frozen=True, slots=True)
class Row:
    """A subject with the proofs that it does its work."""

    subject: Subject
    proofs: tuple[Callable[[], None], ...] = ()


@dataclass(frozen=True, slots=True)
class Section:
    """Rows that belong together."""

    title: str
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """How many times as long one row takes as another, or as the do-nothing wrapper of its colour.

    `at_most` is the bar, if there is one.
    """

    row: str
    to: str | None = None
    at_most: float | None = None
