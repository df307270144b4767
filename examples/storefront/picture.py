"""The picture of a run: what visitors got while one upstream after the other was broken."""

from collections import Counter
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path

from load import Answer
from story import CIRCUIT_CLOSED, CIRCUIT_EVENTS, CIRCUIT_OPENED, Outage, Run

SLICE_SECONDS = 0.5
WIDTH, LEFT, RIGHT = 860, 130, 10
PLOT_TOP, PLOT_HEIGHT = 88, 150
STRIPS_TOP, STRIP_HEIGHT, STRIP_STEP = 284, 12, 22
HEIGHT = STRIPS_TOP + 3 * STRIP_STEP + 24

#: From the bottom to the top of each bar.
KINDS = {
    "fresh": ("#3a8f5c", "all of it fresh"),
    "degraded": ("#e0b040", "with another answer in it"),
    "queued": ("#4f7fc0", "a receipt: made later"),
    "failed": ("#c23b3b", "refused or failed"),
}
STATES = {CIRCUIT_CLOSED: "#d7e4dc", CIRCUIT_OPENED: "#c23b3b"}
HALF_OPEN = "#e0b040"
CIRCUITS = "red: open, no calls are made; yellow: some calls are let through"
UPSTREAMS = ("recommendations", "auth", "payments")

#: Where a moment is, from left to right.
Position = Callable[[float], float]


def kind_of(answer: Answer) -> str:
    """What an answer was for the one who asked."""
    if answer.status not in (200, 202):
        return "failed"
    ways = set(answer.served.values())
    if "queued" in ways:
        return "queued"
    return "degraded" if ways & {"cached", "default"} else "fresh"


def write(run: Run, file: Path) -> None:
    """Draw `run` into an SVG file."""
    file.write_text(drawn(run), encoding="utf-8")


def drawn(run: Run) -> str:
    """The picture as SVG; its description has the numbers that it was drawn from."""
    began = min(answer.started for answer in run.answers)
    ended = max(answer.ended for answer in run.answers)
    total = Counter(kind_of(answer) for answer in run.answers)
    numbers = ", ".join(f"{total[kind]} {kind}" for kind in KINDS)
    scale = (WIDTH - LEFT - RIGHT) / (ended - began)

    def x(at: float) -> float:
        return LEFT + (min(max(at, began), ended) - began) * scale

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        "<title>What visitors got while upstreams were broken</title>",
        f"<desc>{len(run.answers)} requests in {ended - began:.1f} s: {numbers}.</desc>",
        '<g font-family="sans-serif" font-size="11" fill="#222">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="6" fill="#fff"/>',
        *legend(),
        *(line for number, one in enumerate(run.outages) for line in band(one, number, x)),
        *bars(run.answers, began, scale),
        f'<text x="{LEFT - 8}" y="{PLOT_TOP + 10}" text-anchor="end">answers</text>',
        f'<text x="{LEFT - 8}" y="{PLOT_TOP + 24}" text-anchor="end">in half a second</text>',
        f'<text x="{LEFT - 8}" y="{STRIPS_TOP - 10}" text-anchor="end">circuits</text>',
        f'<text x="{LEFT}" y="{STRIPS_TOP - 10}" fill="#666">{CIRCUITS}</text>',
        *(line for row, name in enumerate(UPSTREAMS) for line in strip(run, name, row, ended, x)),
        *axis(began, ended, x),
        "</g>",
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def legend() -> Iterator[str]:
    left = LEFT
    for colour, meaning in KINDS.values():
        yield f'<rect x="{left}" y="8" width="10" height="10" fill="{colour}"/>'
        yield f'<text x="{left + 14}" y="17">{meaning}</text>'
        left += 24 + 6 * len(meaning) + 14


def band(outage: Outage, number: int, x: Position) -> Iterator[str]:
    """The time for which an upstream was broken, and how; names take turns in three rows."""
    left, right = x(outage.began), x(outage.returned)
    below = STRIPS_TOP + 3 * STRIP_STEP - 6
    yield (
        f'<rect x="{left:.1f}" y="{PLOT_TOP - 8}" width="{right - left:.1f}" '
        f'height="{below - PLOT_TOP + 8}" fill="#eef0f4"/>'
    )
    row = 36 + 14 * (number % 3)
    text = escape(f"{outage.upstream}: {outage.what.split(' (')[0]}")
    at, anchor = (left, "start") if left < WIDTH - 160 else (right, "end")
    yield f'<text x="{at:.1f}" y="{row}" text-anchor="{anchor}">{text}</text>'
    yield (
        f'<line x1="{left:.1f}" x2="{left:.1f}" y1="{row + 3}" y2="{PLOT_TOP - 8}" stroke="#999"/>'
    )


def bars(answers: list[Answer], began: float, scale: float) -> Iterator[str]:
    """A bar for each half second, of answers by what they were."""
    slices: dict[int, Counter[str]] = {}
    for answer in answers:
        number = int((answer.ended - began) / SLICE_SECONDS)
        slices.setdefault(number, Counter())[kind_of(answer)] += 1
    unit = PLOT_HEIGHT / max(each.total() for each in slices.values())
    width = SLICE_SECONDS * scale
    for number, counted in sorted(slices.items()):
        bottom = float(PLOT_TOP + PLOT_HEIGHT)
        for kind, (colour, _) in KINDS.items():
            if counted[kind]:
                height = counted[kind] * unit
                bottom -= height
                yield (
                    f'<rect x="{LEFT + number * width:.1f}" y="{bottom:.1f}" '
                    f'width="{width - 0.6:.1f}" height="{height:.1f}" fill="{colour}"/>'
                )


def strip(run: Run, upstream: str, row: int, ended: float, x: Position) -> Iterator[str]:
    """The states of one circuit from the beginning to the end."""
    top = STRIPS_TOP + row * STRIP_STEP
    yield f'<text x="{LEFT - 8}" y="{top + 10}" text-anchor="end">{upstream}</text>'
    changes = [one for one in run.about(upstream) if one.name in CIRCUIT_EVENTS]
    states = [(0.0, CIRCUIT_CLOSED), *((one.at, one.name) for one in changes)]
    for (at, state), until in zip(states, [*(at for at, _ in states[1:]), ended], strict=True):
        yield (
            f'<rect x="{x(at):.1f}" y="{top}" width="{x(until) - x(at):.1f}" '
            f'height="{STRIP_HEIGHT}" fill="{STATES.get(state, HALF_OPEN)}"/>'
        )


def axis(began: float, ended: float, x: Position) -> Iterator[str]:
    for second in range(0, int(ended - began) + 1, 10):
        yield (
            f'<text x="{x(began + second):.1f}" y="{HEIGHT - 8}" text-anchor="middle">'
            f"{second} s</text>"
        )
