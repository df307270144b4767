"""The pages about strategies say what the library does: settings, events, metrics and tests."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import resilient
from resilient.telemetry.events import EVENTS
from tests.docs.test_metrics_page import shown

ROOT = Path(__file__).parents[2]
PAGES = {
    page.stem: page.read_text(encoding="utf-8")
    for page in sorted((ROOT / "docs" / "strategies").glob("*.md"))
    if page.stem != "index"
}
#: Tiers, and what is observed: on pages with more to say, which have the same parts among others.
OTHERS = ("caching", "failover", "outbox", "events")
ALL = PAGES | {name: (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in OTHERS}
STRATEGIES = {
    "timeout",
    "deadline",
    "retry",
    "circuit-breaker",
    "bulkhead",
    "rate-limit",
    "fallback",
    "dependency",
}
HEADINGS = [
    "What to be careful of",
    "In use",
    "Defaults",
    "Events and metrics",
    "How it goes",
    "Anti-patterns",
    "Threads, asyncio, cancellation and fork",
]
TABLE = re.compile(
    r"^\| setting of `([\w.]+)` \| default \|.*\n\|[-|]+\n((?:\|.*\n)+)", re.MULTILINE
)
ROW = re.compile(r"^\| `(\w+)` \| ([^|]+) \|", re.MULTILINE)
DEPENDING = re.compile(r"^\| when \|(.*)\|\n\|[-|]+\n((?:\|.*\n)+)", re.MULTILINE)
each_page = pytest.mark.parametrize("page", PAGES)
each_of_all = pytest.mark.parametrize("page", ALL)


def tables() -> list[Any]:
    """Return each table of settings: of what, and the default that it states for each."""
    return [
        pytest.param(name, dict(ROW.findall(rows)), id=f"{page}: {name}")
        for page, text in ALL.items()
        for name, rows in TABLE.findall(text)
    ]


def stated(parameter: inspect.Parameter) -> str:
    """Return how a page states the default of `parameter`."""
    default = parameter.default
    if default is parameter.empty:
        return "needed"
    if type(default) is object:
        return "one of its own"
    return f"`{default.__name__ if isinstance(default, type) else repr(default)}`"


def names_of_tests() -> set[str]:
    """Return the name of every test there is."""
    files = (ROOT / "tests").rglob("test_*.py")
    found = (re.findall(r"def (test_\w+)\(", file.read_text(encoding="utf-8")) for file in files)
    return {name for names in found for name in names}


def section(page: str, heading: str) -> str:
    """Return what stands under `heading`."""
    return ALL[page].split(f"\n## {heading}\n")[1].split("\n## ")[0]


def test_each_strategy_has_a_page() -> None:
    """There is a page for each strategy, and for nothing else."""
    assert set(PAGES) == STRATEGIES


@each_page
def test_every_page_has_the_same_headings_and_dangers_come_first(page: str) -> None:
    """Who knows one page finds things on the next, and reads the dangers before the example."""
    assert re.findall(r"^## (.*)$", PAGES[page], re.MULTILINE) == HEADINGS


@pytest.mark.parametrize("page", OTHERS)
def test_the_pages_of_tiers_and_events_have_the_same_parts(page: str) -> None:
    """They begin with the dangers, and have all parts but the one example, in the same order."""
    found = re.findall(r"^## (.*)$", ALL[page], re.MULTILINE)
    assert found[0] == HEADINGS[0]
    assert [one for one in found if one in HEADINGS] == [one for one in HEADINGS if one != "In use"]


@each_of_all
def test_every_page_shows_its_settings_a_drawing_and_what_not_to_do(page: str) -> None:
    """No heading stands there for nothing."""
    assert TABLE.search(section(page, "Defaults"))
    assert "```text\n" in section(page, "How it goes")
    assert "```python\n" in section(page, "Anti-patterns")
    assert page in OTHERS or "```python\n" in section(page, "In use")


@each_of_all
def test_a_drawing_fits_into_the_page(page: str) -> None:
    """Nobody has to scroll sideways to see how it goes."""
    [drawing] = re.findall(r"^```text\n(.*?)^```", section(page, "How it goes"), re.M | re.DOTALL)
    assert max(map(len, drawing.splitlines())) <= 92


@pytest.mark.parametrize(("name", "defaults"), tables())
def test_the_defaults_on_a_page_are_those_of_the_code(name: str, defaults: dict[str, str]) -> None:
    """A table names every setting, with the default that the signature has."""
    found: Any = resilient
    for part in name.split("."):
        found = getattr(found, part)
    parameters = inspect.signature(found).parameters.values()
    expected = {one.name: stated(one) for one in parameters if one.kind is not one.VAR_KEYWORD}
    assert defaults == expected


def depending_defaults() -> list[Any]:
    """Return each way to make a breaker on its page, and the rules that follow from it."""
    [(names, rows)] = DEPENDING.findall(PAGES["circuit-breaker"])
    columns = re.findall(r"`(\w+)`", names)
    cases = [re.findall(r"`([^`]+)`", row) for row in rows.splitlines()]
    return [
        pytest.param(made, dict(zip(columns, values, strict=True)), id=made)
        for made, *values in cases
    ]


@pytest.mark.parametrize(("made", "rules"), depending_defaults())
def test_the_defaults_of_a_breaker_that_depend_on_others_are_as_the_page_says(
    made: str, rules: dict[str, str]
) -> None:
    """What a breaker does when less is given is what its second table says."""
    breaker = eval(made, {"circuit_breaker": resilient.circuit_breaker})
    found = breaker._circuit.rules
    assert {name: repr(getattr(found, name)) for name in rules} == rules


def test_three_attempts_are_the_default_as_the_page_says() -> None:
    """`attempts` is None in the signature, for `stop` may be given instead, and comes to 3."""
    assert (
        "| `attempts` | `None` | 1 or more | the most attempts, the first included; 3 "
        in PAGES["retry"]
    )
    assert resilient.retry(on=ValueError).attempts == 3


@each_of_all
def test_every_event_on_a_page_exists(page: str) -> None:
    """No page names an event that is never told."""
    named = set(re.findall(r"`(resilient\.[a-z_]+)`", section(page, "Events and metrics")))
    assert named <= set(EVENTS)


def test_every_metric_on_the_pages_is_scraped() -> None:
    """No page names a metric that is not on the page that Prometheus reads."""
    parts = [section(page, "Events and metrics") for page in ALL]
    named = set(re.findall(r"\bresilient_[a-z_]+", "".join([*PAGES.values(), *parts])))
    assert named
    elsewhere = {
        name
        for name in named
        if name.startswith(("resilient_outbox", "resilient_failo", "resilient_audit"))
    }
    assert named - elsewhere <= set(shown())
    metrics = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "src").rglob("*.py"))
    assert all(
        f'"{name.removeprefix("resilient_").removesuffix("_total")}"' in metrics
        for name in elsewhere
    )


@each_of_all
def test_what_happens_under_threads_and_the_like_names_its_tests(page: str) -> None:
    """Each of the four is spoken of, and each statement names tests that there are."""
    items = section(page, HEADINGS[-1]).strip().split("\n- ")
    topics = [item.removeprefix("- ").split(".**")[0].removeprefix("**") for item in items]
    assert list(dict.fromkeys(topics)) == ["Threads", "asyncio", "Cancellation", "Fork"]
    for item in items:
        named = set(re.findall(r"`(test_\w+)`", item))
        assert named, item
        assert named <= names_of_tests()
