"""What the demo promises, and whether it was kept: the exit status of the demo is this."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from contract import CRITICAL, GUEST_RIGHTS, LIMITS
from load import Answer
from story import Run, Story, story_of

NOTICED_WITHIN_SECONDS = 2.0
TOLERANCE = 1.1


@dataclass(frozen=True, slots=True)
class Promise:
    """One promise and, when it was broken, by what."""

    text: str
    broken_by: tuple[str, ...]

    @property
    def kept(self) -> bool:
        return not self.broken_by


def verdict(run: Run) -> list[Promise]:
    """Judge a run by every promise."""
    stories = [story_of(outage, run) for outage in run.outages]
    promises = {
        "no request failed for an upstream that is not critical": needless_failures(run),
        "no request took longer than its total limit plus 10 %": late_answers(run),
        "every fault was detected while it lasted": undetected(stories),
        "every recovery was noticed within 2 s of the upstream's return": unnoticed(stories),
        "after every fault the circuit closed and everything was fresh": never_whole(stories),
        "every refused payment said when to try again": refusals_without_advice(run),
        "every payment was made exactly once, those with a receipt too": not_once(run),
        "nobody had more than a guest's rights while auth could not be asked": excess_rights(run),
        "the library's metrics count what the clients saw": miscounts(run),
    }
    return [Promise(text, tuple(broken_by)) for text, broken_by in promises.items()]


def exit_status(promises: list[Promise]) -> int:
    """0 when every promise was kept, 1 when one was broken."""
    return 0 if all(promise.kept for promise in promises) else 1


def needless_failures(run: Run) -> Iterator[str]:
    """Failed requests, but for those that needed a critical upstream while it was broken."""
    for answer in run.answers:
        if answer.status not in (200, 202) and not excused(answer, run):
            yield f"a {answer.kind} was answered {answer.status}: {dict(answer.served)}"


def excused(answer: Answer, run: Run) -> bool:
    lost = {part for part, how in answer.served.items() if how in ("rejected", "failed")}
    broken = {
        outage.upstream
        for outage in run.outages
        if outage.began <= answer.ended and answer.started <= outage.ended
    }
    return bool(lost) and lost <= CRITICAL & broken


def late_answers(run: Run) -> Iterator[str]:
    for answer in run.answers:
        limit = LIMITS[answer.kind]
        if answer.seconds > limit * TOLERANCE:
            yield f"a {answer.kind} took {answer.seconds:.2f} s, its limit is {limit} s"


def undetected(stories: list[Story]) -> Iterator[str]:
    for story in stories:
        if story.opened_after is None:
            yield f"{story.outage.upstream} {story.outage.what}: its circuit never opened"


def unnoticed(stories: list[Story]) -> Iterator[str]:
    for story in stories:
        after = story.noticed_after
        if after is None or after > NOTICED_WITHIN_SECONDS:
            when = "never" if after is None else f"after {after:.2f} s"
            yield f"{story.outage.upstream} {story.outage.what}: its return was noticed {when}"


def never_whole(stories: list[Story]) -> Iterator[str]:
    for story in stories:
        if story.closed_after is None:
            yield f"{story.outage.upstream} {story.outage.what}: its circuit did not close"
        if story.fresh_after is None:
            yield f"{story.outage.upstream} {story.outage.what}: still not everything is fresh"


def refusals_without_advice(run: Run) -> Iterator[str]:
    for answer in run.answers:
        if answer.status == 503 and not answer.retry_after:
            yield f"a {answer.kind} was refused without Retry-After"


def not_once(run: Run) -> Iterator[str]:
    for answer in run.answers:
        if answer.order is not None and answer.status in (200, 202):
            times = run.ledger[answer.order]
            if times != 1:
                yield f"order {answer.order}, answered {answer.status}, was charged {times} times"


def excess_rights(run: Run) -> Iterator[str]:
    for answer in run.answers:
        excess = answer.rights - GUEST_RIGHTS
        if excess and answer.served["auth"] != "fresh":
            yield f"a {answer.kind} had the rights {sorted(excess)}"


def miscounts(run: Run) -> Iterator[str]:
    seen = Counter(
        part
        for answer in run.answers
        for part, how in answer.served.items()
        if how in ("cached", "default", "queued")
    )
    for upstream in sorted({*seen, *run.counted_degraded}):
        counted = run.counted_degraded.get(upstream, 0)
        if counted != seen[upstream]:
            yield f"{upstream}: {seen[upstream]} degraded answers seen, {counted} counted"
