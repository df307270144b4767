"""What happened: answers, events and outages, and what one outage was like from end to end."""

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from load import Answer

CIRCUIT_OPENED = "resilient.circuit_opened"
CIRCUIT_HALF_OPEN = "resilient.circuit_half_opened"
CIRCUIT_CLOSED = "resilient.circuit_closed"
CIRCUIT_EVENTS = (CIRCUIT_OPENED, CIRCUIT_HALF_OPEN, CIRCUIT_CLOSED)
CALL_TIMED_OUT = "resilient.call_timed_out"


@dataclass(frozen=True, slots=True)
class Event:
    """One event of the library, as the storefront's process wrote it down."""

    at: float
    name: str
    dependency: str
    fields: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def cause(self) -> str:
        """What the event blames, in a word or two."""
        if self.name == CALL_TIMED_OUT:
            return "no answer in time"
        return str(self.fields.get("error") or self.fields.get("reason") or self.name)


@dataclass(frozen=True, slots=True)
class Outage:
    """A fault as it was carried out: broken from `began` to `returned`, watched until `ended`."""

    upstream: str
    what: str
    began: float
    returned: float
    ended: float


@dataclass(slots=True)
class Run:
    """Everything that was seen while the demo ran."""

    answers: list[Answer] = field(default_factory=list[Answer])
    events: list[Event] = field(default_factory=list[Event])
    outages: list[Outage] = field(default_factory=list[Outage])
    counted_degraded: Mapping[str, int] = field(default_factory=dict[str, int])
    """How many degraded calls the library's own metrics have, by dependency."""
    ledger: Counter[str] = field(default_factory=Counter[str])
    """How often each order was charged, as the payment service has it."""

    def circuit(self, upstream: str, at: float) -> str:
        """The event that made the circuit of `upstream` what it was at that time."""
        names = [
            event.name for event in self.about(upstream, until=at) if event.name in CIRCUIT_EVENTS
        ]
        return names[-1] if names else CIRCUIT_CLOSED

    def about(
        self, upstream: str, since: float = 0.0, until: float = float("inf")
    ) -> Iterable[Event]:
        return (
            event
            for event in self.events
            if event.dependency == upstream and since <= event.at <= until
        )

    def is_whole(self, upstream: str, since: float, now: float) -> bool:
        """Whether the circuit is closed and every answer since `since` was fresh."""
        recent = [
            a.served[upstream] for a in self.answers if upstream in a.served and a.ended >= since
        ]
        return (
            self.circuit(upstream, now) == CIRCUIT_CLOSED
            and bool(recent)
            and all(part == "fresh" for part in recent)
        )


@dataclass(frozen=True, slots=True)
class Story:
    """One outage from end to end; times are in seconds, None where it never came to it."""

    outage: Outage
    symptom: str | None
    symptom_after: float | None
    opened_after: float | None
    opened_times: int
    served: Counter[str]
    refused_in: float | None
    noticed_after: float | None
    closed_after: float | None
    fresh_after: float | None
    longest: Answer | None


def story_of(outage: Outage, run: Run) -> Story:
    """Tell what `outage` was like for those who were there."""
    seen = list(run.about(outage.upstream, outage.began, outage.returned))
    opened = [event.at for event in seen if event.name == CIRCUIT_OPENED]
    concerned = [
        answer
        for answer in run.answers
        if outage.upstream in answer.served and outage.began <= answer.ended <= outage.ended
    ]
    meanwhile = [answer for answer in concerned if answer.ended <= outage.returned]
    refused = [a.seconds for a in meanwhile if a.served[outage.upstream] == "rejected"]
    return Story(
        outage=outage,
        symptom=seen[0].cause if seen else None,
        symptom_after=seen[0].at - outage.began if seen else None,
        opened_after=opened[0] - outage.began if opened else None,
        opened_times=len(opened),
        served=Counter(answer.served[outage.upstream] for answer in meanwhile),
        refused_in=statistics.median(refused) if refused else None,
        noticed_after=noticed_after(outage, concerned),
        closed_after=closed_after(outage, run),
        fresh_after=fresh_after(outage, concerned),
        longest=max(concerned, key=lambda answer: answer.seconds, default=None),
    )


def noticed_after(outage: Outage, concerned: list[Answer]) -> float | None:
    """How long after the return a visitor got something fresh again, so that it was tried."""
    noticed = [
        answer.ended
        for answer in concerned
        if answer.started >= outage.returned and answer.served[outage.upstream] == "fresh"
    ]
    return min(noticed) - outage.returned if noticed else None


def closed_after(outage: Outage, run: Run) -> float | None:
    """How long after the return the circuit was closed; 0 where it was closed already.

    A half-working upstream may have closed it before it was well.
    """
    if run.circuit(outage.upstream, outage.ended) != CIRCUIT_CLOSED:
        return None
    changes = [
        event.at
        for event in run.about(outage.upstream, outage.returned, outage.ended)
        if event.name in CIRCUIT_EVENTS
    ]
    return changes[-1] - outage.returned if changes else 0.0


def fresh_after(outage: Outage, concerned: list[Answer]) -> float | None:
    """How long after the return the last answer was given that was not fresh."""
    afterwards = sorted(
        (answer for answer in concerned if answer.ended > outage.returned),
        key=lambda answer: answer.ended,
    )
    if not afterwards or afterwards[-1].served[outage.upstream] != "fresh":
        return None
    stale = [a.ended for a in afterwards if a.served[outage.upstream] != "fresh"]
    return max(stale) - outage.returned if stale else 0.0
