"""What the demo prints: a line for each thing that happens, then a table for each fault."""

import time

from contract import LIMITS
from faults import Fault
from story import (
    CIRCUIT_CLOSED,
    CIRCUIT_HALF_OPEN,
    CIRCUIT_OPENED,
    Event,
    Outage,
    Run,
    Story,
    story_of,
)
from verdict import Promise

WAYS_TO_SERVE = ("fresh", "cached", "default", "queued", "rejected", "failed")
REASONS = {
    "failure_rate": "{failures} of {calls} calls failed",
    "probe_failed": "the attempt failed, so it is still down",
    "probe_expired": "the attempt did not come back in time",
    "ramp_failed": "too few of the calls let through went well",
    "probe_succeeded": "its health check went well",
    "reset_timeout": "it is time for another attempt",
    "ramp_completed": "all calls pass",
}
STATES = {
    CIRCUIT_OPENED: "circuit open",
    CIRCUIT_HALF_OPEN: "circuit half-open",
    CIRCUIT_CLOSED: "circuit closed",
}


class Narrator:
    """Prints what happens while it happens, each line with the time since the start."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._awaiting_symptom: str | None = None

    def say(self, text: str, at: float | None = None) -> None:
        seconds = (time.monotonic() if at is None else at) - self._began
        print(f"{seconds:6.2f} s  {text}", flush=True)

    def breaks(self, fault: Fault) -> None:
        self.say(f"{fault.upstream}: {fault.kind.began}")
        self._awaiting_symptom = fault.upstream

    def mends(self, fault: Fault) -> None:
        self.say(f"{fault.upstream}: {fault.kind.ended}")
        self._awaiting_symptom = None

    def hears(self, event: Event) -> None:
        """Tell of the first symptom of a fault, and of what the circuits do."""
        if event.dependency == self._awaiting_symptom:
            self._awaiting_symptom = None
            self.say(f"    noticed: {event.cause}", event.at)
        if event.name in STATES:
            reason = str(event.fields.get("reason"))
            why = REASONS.get(reason, reason).format_map(event.fields)
            self.say(f"    {event.dependency}: {STATES[event.name]}, {why}", event.at)

    def concludes(self, outage: Outage, run: Run) -> None:
        after = story_of(outage, run).fresh_after
        if after is None:
            self.say(f"    {outage.upstream}: still not everything is fresh")
        else:
            self.say(f"    {outage.upstream}: everything was fresh {after:.2f} s after its return")


def of(run: Run, promises: list[Promise]) -> str:
    """The whole report on a run that is over."""
    tables = [table(story_of(outage, run)) for outage in run.outages]
    sent = f"{len(run.answers)} requests were sent."
    return "\n" + "\n\n".join([*tables, f"{sent}\n{judgement(promises)}"])


def table(story: Story) -> str:
    """One fault from end to end."""
    outage = story.outage
    rows = {
        "noticed": noticed(story),
        "served meanwhile": served(story),
        "after its return": returned(story),
        "longest response": longest(story),
    }
    head = f"{outage.upstream}: {outage.what}, for {outage.returned - outage.began:.1f} s"
    return "\n".join([head, *(f"  {name:<18}{text}" for name, text in rows.items())])


def noticed(story: Story) -> str:
    if story.symptom is None:
        return "not at all"
    circuit = f"circuit open after {seconds(story.opened_after)}"
    if story.opened_times > 1:
        circuit += f", reopened {story.opened_times - 1}x"
    return f"{story.symptom} after {seconds(story.symptom_after)}; {circuit}"


def served(story: Story) -> str:
    counts = {way: f"{way} {story.served[way]}" for way in WAYS_TO_SERVE}
    if story.refused_in is not None:
        counts["rejected"] += f" (median {story.refused_in * 1000:.0f} ms)"
    return ", ".join(counts.values())


def returned(story: Story) -> str:
    return (
        f"noticed after {seconds(story.noticed_after)}, everything fresh after"
        f" {seconds(story.fresh_after)}, circuit closed after {seconds(story.closed_after)}"
    )


def longest(story: Story) -> str:
    if story.longest is None:
        return "there was none"
    kind = story.longest.kind
    return f"{seconds(story.longest.seconds)}, a {kind}, whose limit is {seconds(LIMITS[kind])}"


def seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"


def judgement(promises: list[Promise]) -> str:
    """Each promise and whether it was kept; of what broke it, the first few."""
    lines: list[str] = []
    for promise in promises:
        lines.append(f"{'kept  ' if promise.kept else 'BROKEN'}  {promise.text}")
        lines += [f"          {each}" for each in promise.broken_by[:5]]
        if len(promise.broken_by) > 5:
            lines.append(f"          and {len(promise.broken_by) - 5} more")
    return "\n".join(lines)
