"""The picture of the demo is drawn from what was seen, and the one in the README is such a one."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import picture
from load import Answer
from story import CIRCUIT_CLOSED, CIRCUIT_OPENED, Event, Outage, Run

ROOT = Path(__file__).parents[2]
SVG = "{http://www.w3.org/2000/svg}"
FRESH = {"auth": "fresh", "recommendations": "fresh"}
RUN = Run(
    answers=[
        Answer("page", 0.0, 0.1, 200, FRESH),
        Answer("page", 1.0, 0.1, 200, {"auth": "fresh", "recommendations": "cached"}),
        Answer("payment", 1.2, 0.1, 202, {"auth": "fresh", "payments": "queued"}),
        Answer("payment", 1.3, 0.1, 503, {"auth": "fresh", "payments": "rejected"}),
        Answer("page", 3.9, 0.1, 200, FRESH),
    ],
    events=[
        Event(1.0, CIRCUIT_OPENED, "recommendations"),
        Event(3.0, CIRCUIT_CLOSED, "recommendations"),
    ],
    outages=[Outage("recommendations", "killed (SIGKILL)", began=0.5, returned=2.5, ended=4.0)],
)


def rectangles(svg: ET.Element, colour: str) -> list[dict[str, str]]:
    return [one.attrib for one in svg.iter(f"{SVG}rect") if one.get("fill") == colour]


def test_each_answer_is_in_the_picture_as_what_it_was() -> None:
    """The description counts them, and bars stand in their colours, besides the legend."""
    svg = ET.fromstring(picture.drawn(RUN))
    described = svg.findtext(f"{SVG}desc")
    assert described == "5 requests in 4.0 s: 2 fresh, 1 degraded, 1 queued, 1 failed."
    bars = {kind: len(rectangles(svg, colour)) - 1 for kind, (colour, _) in picture.KINDS.items()}
    # Half-open and degraded, open and failed have one colour each; one period was open.
    assert bars == {"fresh": 2, "degraded": 1, "queued": 1, "failed": 1 + 1}


def test_an_open_circuit_is_as_long_as_it_was_open() -> None:
    """Two of four seconds are half of the width."""
    svg = ET.fromstring(picture.drawn(RUN))
    [strip] = [
        one
        for one in rectangles(svg, picture.STATES[CIRCUIT_OPENED])
        if one["height"] == str(picture.STRIP_HEIGHT)
    ]
    plot = picture.WIDTH - picture.LEFT - picture.RIGHT
    assert abs(float(strip["width"]) - plot / 2) < 1


def test_the_picture_of_the_readme_is_of_a_whole_run_in_which_nothing_failed() -> None:
    """It was drawn by the demo: six outages, thousands of requests, and all kinds of answers."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    [path] = re.findall(r"!\[[^\]]+\]\((docs/[\w-]+\.svg)\)", readme)
    svg = ET.parse(ROOT / path).getroot()
    described = svg.findtext(f"{SVG}desc") or ""
    counts = {kind: int(count) for count, kind in re.findall(r"(\d+) ([a-z]+)", described)}
    assert counts["requests"] > 1000
    assert counts["failed"] == 0
    assert min(counts["fresh"], counts["degraded"], counts["queued"]) > 0
    labels = [text.text or "" for text in svg.iter(f"{SVG}text")]
    broken = [label for label in labels if label.partition(": ")[0] in picture.UPSTREAMS]
    assert sum(": " in label for label in broken) == 6
