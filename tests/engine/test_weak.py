"""What is held weakly can be looked through while it comes and goes on other threads."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from typing import Any

from resilient.engine.names import Names
from resilient.engine.weak import WeakGroup, alive
from tests.doubles import each


class Thing:
    """Something that can be held weakly."""


def of_a_group() -> tuple[Callable[[int, Thing], Any], Callable[[], Any]]:
    group: WeakGroup[Thing] = WeakGroup()
    return lambda _, thing: group.add(thing), lambda: list(group)


def of_a_dictionary() -> tuple[Callable[[int, Thing], Any], Callable[[], Any]]:
    things: weakref.WeakValueDictionary[int, Thing] = weakref.WeakValueDictionary()
    return things.__setitem__, lambda: alive(things)


def of_names() -> tuple[Callable[[int, Thing], Any], Callable[[], Any]]:
    names: Names[Thing] = Names("thing")

    def claim(number: int, thing: Thing) -> None:
        names.claim(str(number), thing)
        names.get("nobody's")

    return claim, names.all


@each("make", {"a group": of_a_group, "a dictionary": of_a_dictionary, "names": of_names})
def test_it_can_be_looked_through_while_others_make_and_drop_things(make: Any) -> None:
    """Between any two lines another thread may have its turn; what is held all the time is seen."""
    add, look = make()
    held, dropped = Thing(), [Thing() for _ in range(100)]
    kept: list[Thing] = []
    add(0, held)
    for number in range(len(dropped)):
        add(1 + number, dropped[number])

    def have_a_turn(*_: Any) -> Any:
        if dropped:
            dropped.pop()
            kept.append(Thing())
            add(1000 + len(kept), kept[-1])
        return have_a_turn

    tracing = sys.gettrace()
    sys.settrace(have_a_turn)
    try:
        found = look()
    finally:
        sys.settrace(tracing)
    assert held in found
    assert len(kept) > 2


def test_what_nobody_holds_is_gone() -> None:
    """A group keeps nothing alive, and has each thing once."""
    group: WeakGroup[Thing] = WeakGroup()
    held = Thing()
    for one in (held, Thing(), held):
        group.add(one)
    del one
    assert list(group) == [held]
