"""Names that can be given once."""

from __future__ import annotations

from resilient.engine.names import SPARE, Names


class Thing:
    """Something with a name."""


def test_a_name_is_taken_only_from_what_has_it() -> None:
    """What had it once, before its module was loaded anew, takes nothing with it."""
    names: Names[Thing] = Names("thing")
    new, old = Thing(), Thing()
    names.claim("given anew", new)
    names.release("given anew", old)
    assert names.get("given anew") is new
    names.release("given anew", new)
    assert names.get("given anew") is None


def test_names_that_nobody_holds_any_more_are_forgotten() -> None:
    """What is kept of names is bounded by how many are held, not by how many there have been."""
    names: Names[Thing] = Names("thing")
    held = Thing()
    names.claim("held", held)

    for number in range(10 * SPARE):
        names.claim(f"thing-{number}", Thing())

    assert len(names._origins) <= 2 * 2 + SPARE
    assert names.all() == [held]
