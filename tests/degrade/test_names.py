"""The names of answers in stores: no two keys have the same."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import pathlib
import uuid
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from resilient import UnstableKey
from resilient.degrade.stores.naming import encoded, name_of


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Number(enum.IntEnum):
    ONE = 1


class Text(str):
    __slots__ = ()


@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    y: int


@dataclasses.dataclass(frozen=True)
class Size:
    x: int
    y: int


DIFFERENT: list[Any] = [
    1, True, 1.0, "1", b"1", None, "None", "n", 0, False, 0.0, -0.0, "", b"", (), [], {}, set(),
    frozenset(), (1,), [1], (1, 2), ((1,), 2), (1, (2,)), ("1:2", "3"), ("1", "2:3"), ("12", "3"),
    "s1:1", ("a", "b"), ("as1:b",), ("a)(b",), {"a": 1}, {"a": True}, {1: "a"}, {True: "a"},
    frozenset({1}), frozenset({True}), Colour.RED, Colour.BLUE, Number.ONE, Text("1"), int, str,
    complex(1), decimal.Decimal(1), dt.date(2026, 1, 1), dt.datetime(2026, 1, 1),  # noqa: DTZ001
    dt.timedelta(1), uuid.UUID(int=1), pathlib.PurePosixPath("a"), pathlib.PureWindowsPath("a"),
    Point(1, 2), Point(2, 1), Size(1, 2), "\ud800", "\u2028", "a" * 300, "a" * 301,
]  # fmt: skip


def test_values_that_differ_have_different_texts() -> None:
    """No two of many values, alike as they are, have one text or one name."""
    for one, other in combinations(DIFFERENT, 2):
        assert encoded(one) != encoded(other), (one, other)
        assert name_of(one, "1", "f", readable=True) != name_of(other, "1", "f", readable=True)


plain = some.recursive(
    some.none() | some.booleans() | some.integers() | some.text() | some.binary(),
    lambda inner: some.lists(inner).map(tuple) | some.lists(inner),
    max_leaves=6,
)


@given(plain, plain)
def test_texts_are_equal_only_if_types_and_values_are(one: Any, other: Any) -> None:
    """Whatever is nested in whatever: equal texts are equal representations."""
    assert (encoded(one) == encoded(other)) == (repr(one) == repr(other))


def test_what_a_template_names_is_readable_while_it_is_short() -> None:
    """Somebody who looks into Redis finds the user; what is long or odd is a hash."""
    name = name_of(("rec:{user_id}", "u1"), "1", "app.load", readable=True)
    assert "rec:{user_id}" in name
    assert "u1" in name
    for odd in ("x" * 500, "line\nbreak", "\ud800"):
        hashed = name_of(("rec:{user_id}", odd), "1", "app.load", readable=True)
        assert hashed.startswith("app.load#")
        assert len(hashed) == len("app.load#") + 64


def test_arguments_that_no_template_names_are_hidden() -> None:
    """A password among all arguments is in no name."""
    name = name_of(("app.login", ("bob", "hunter2")), "1", "app.login", readable=False)
    assert "hunter2" not in name
    assert "bob" not in name


def test_what_has_no_text_of_its_own_is_refused() -> None:
    """An object of which one cannot tell what makes it equal to others is no key."""

    class Opaque:
        def __eq__(self, other: object) -> bool:
            return isinstance(other, Opaque)

        def __hash__(self) -> int:
            return 1

        def __repr__(self) -> str:
            return "Opaque"

    with pytest.raises(UnstableKey, match="Opaque"):
        encoded((Opaque(),))
