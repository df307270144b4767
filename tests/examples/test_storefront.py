"""The storefront demo keeps its promises, notices when one is broken, and leaves nothing behind."""

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

import report
from load import Answer, served
from story import CIRCUIT_CLOSED, CIRCUIT_OPENED, Event, Outage, Run, story_of
from tests.waiting import PATIENCE, eventually
from verdict import exit_status, verdict

DEMO = Path(__file__).parents[2] / "examples" / "storefront" / "demo.py"

PAGE = Answer("page", 5.0, 0.02, 200, {"auth": "fresh", "recommendations": "fresh"})
PAYMENT = Answer("payment", 5.0, 0.02, 200, {"auth": "fresh", "payments": "fresh"})
STALE_PAGE = replace(PAGE, started=12.0, served={"auth": "fresh", "recommendations": "cached"})
GUEST_PAGE = replace(PAGE, started=12.0, served={"auth": "default", "recommendations": "fresh"})
REFUSAL = replace(
    PAYMENT,
    started=12.0,
    status=503,
    served={"auth": "fresh", "payments": "rejected"},
    retry_after="1",
)
PAYMENTS_OUTAGE = Outage("payments", "killed", began=10.0, returned=16.0, ended=19.0)


def good_run() -> Run:
    """Recommendations are away from 10 to 16, noticed at 11; their return is noticed at 16.5."""
    return Run(
        answers=[PAGE, PAYMENT, STALE_PAGE, replace(PAGE, started=16.6)],
        events=[
            Event(10.1, "resilient.fallback_served", "recommendations", {"reason": "ConnectError"}),
            Event(11.0, CIRCUIT_OPENED, "recommendations"),
            Event(16.5, CIRCUIT_CLOSED, "recommendations"),
        ],
        outages=[Outage("recommendations", "killed", began=10.0, returned=16.0, ended=19.0)],
        counted_degraded={"recommendations": 1},
    )


def broken_promises(run: Run) -> list[str]:
    return [promise.text for promise in verdict(run) if not promise.kept]


# The verdict


def test_a_run_that_keeps_every_promise_exits_with_0() -> None:
    """Stale answers while an upstream is away break nothing."""
    assert broken_promises(good_run()) == []
    assert exit_status(verdict(good_run())) == 0


def failed_page(run: Run) -> None:
    lost = {"auth": "fresh", "recommendations": "failed"}
    run.answers.append(replace(PAGE, started=12.0, status=500, served=lost))


def payment_lost_to_an_auth_outage(run: Run) -> None:
    lost = {"auth": "failed", "payments": "failed"}
    run.outages = [replace(run.outages[0], upstream="auth"), *run.outages]
    run.events += [replace(event, dependency="auth") for event in run.events]
    run.answers += [GUEST_PAGE, replace(PAYMENT, started=12.0, status=502, served=lost)]
    run.answers.append(replace(PAGE, started=17.0))
    run.counted_degraded = {"recommendations": 1, "auth": 1}


def payment_lost_while_payments_were_well(run: Run) -> None:
    run.answers.append(replace(REFUSAL, started=12.0))


def page_over_its_limit(run: Run) -> None:
    run.answers.append(replace(PAGE, seconds=0.89))


def circuit_that_never_opens(run: Run) -> None:
    run.events = [event for event in run.events if event.name != CIRCUIT_OPENED]


def recovery_noticed_late(run: Run) -> None:
    run.answers[-1] = replace(run.answers[-1], started=18.0)


def circuit_that_never_closes(run: Run) -> None:
    del run.events[-1]


def circuit_that_opens_again_at_the_end(run: Run) -> None:
    run.events.append(replace(run.events[1], at=18.0))


def still_stale_at_the_end(run: Run) -> None:
    run.answers.append(replace(STALE_PAGE, started=18.0))
    run.counted_degraded = {"recommendations": 2}


def refusal_without_retry_after(run: Run) -> None:
    run.outages.append(PAYMENTS_OUTAGE)
    run.events += [replace(event, dependency="payments") for event in run.events]
    run.answers += [replace(REFUSAL, retry_after=None), replace(PAYMENT, started=17.0)]


def receipt_that_was_never_charged(run: Run) -> None:
    waiting = {"auth": "fresh", "payments": "queued"}
    run.answers.append(replace(PAYMENT, started=12.0, status=202, served=waiting, order="o1"))
    run.counted_degraded = {"recommendations": 1, "payments": 1}


def order_charged_twice(run: Run) -> None:
    run.answers.append(replace(PAYMENT, started=12.0, order="o1"))
    run.ledger = Counter({"o1": 2})


def guest_with_the_rights_of_a_member(run: Run) -> None:
    run.answers.append(replace(GUEST_PAGE, rights=frozenset({"browse", "member price"})))
    run.counted_degraded = {"recommendations": 1, "auth": 1}


def metrics_that_miss_a_degraded_answer(run: Run) -> None:
    run.counted_degraded = {}


@pytest.mark.parametrize(
    ("go_wrong", "promise"),
    [
        (failed_page, "no request failed"),
        (payment_lost_to_an_auth_outage, "no request failed"),
        (payment_lost_while_payments_were_well, "no request failed"),
        (page_over_its_limit, "no request took longer"),
        (circuit_that_never_opens, "every fault was detected"),
        (recovery_noticed_late, "every recovery was noticed"),
        (circuit_that_never_closes, "after every fault the circuit closed"),
        (circuit_that_opens_again_at_the_end, "after every fault the circuit closed"),
        (still_stale_at_the_end, "after every fault the circuit closed and everything was fresh"),
        (refusal_without_retry_after, "every refused payment said"),
        (receipt_that_was_never_charged, "every payment was made exactly once"),
        (order_charged_twice, "every payment was made exactly once"),
        (guest_with_the_rights_of_a_member, "nobody had more than a guest's rights"),
        (metrics_that_miss_a_degraded_answer, "the library's metrics count"),
    ],
)
def test_a_broken_promise_exits_with_1(go_wrong: Callable[[Run], None], promise: str) -> None:
    """Each promise can be broken, and by nothing but what breaks it."""
    run = good_run()
    go_wrong(run)
    broken = broken_promises(run)
    assert [text[: len(promise)] for text in broken] == [promise]
    assert exit_status(verdict(run)) == 1


def test_payments_may_be_refused_while_payments_are_down() -> None:
    """A critical upstream has nothing in its place; a quick refusal is the promise."""
    run = good_run()
    run.outages.append(PAYMENTS_OUTAGE)
    run.events += [replace(event, dependency="payments") for event in run.events]
    run.answers += [REFUSAL, replace(PAYMENT, started=17.0)]
    assert broken_promises(run) == []


# The story of one outage


def test_a_story_tells_how_an_outage_was_noticed_and_what_was_served() -> None:
    """Times count from the fault until it is noticed, and from the return afterwards."""
    run = good_run()
    run.answers.append(replace(STALE_PAGE, started=16.98))
    run.answers.append(replace(PAGE, started=17.1))
    story = story_of(run.outages[0], run)
    assert story.symptom == "ConnectError"
    assert story.symptom_after == pytest.approx(0.1)
    assert story.opened_after == pytest.approx(1.0)
    assert story.served == {"cached": 1}
    assert story.noticed_after == pytest.approx(0.62)
    assert story.closed_after == pytest.approx(0.5)
    assert story.fresh_after == pytest.approx(1.0)


def test_a_circuit_that_was_closed_before_the_return_counts_as_closed_at_once() -> None:
    """An upstream that fails sometimes may have closed its circuit before it was well."""
    run = good_run()
    run.events[-1] = replace(run.events[-1], at=15.0)
    assert story_of(run.outages[0], run).closed_after == 0.0


def test_the_table_of_a_fault_names_it_and_every_way_of_serving() -> None:
    """What never came to pass shows as a dash or a zero, not as nothing."""
    run = good_run()
    table = report.table(story_of(run.outages[0], run))
    assert table.splitlines()[0] == "recommendations: killed, for 6.0 s"
    assert "fresh 0, cached 1, default 0, queued 0, rejected 0, failed 0" in table
    assert "noticed after 0.62 s" in table


def test_an_answer_without_words_of_the_storefront_failed_in_every_part() -> None:
    """A 500 says nothing of the upstreams, so it excuses none of them."""
    assert served("page", 500, []) == {"auth": "failed", "recommendations": "failed"}
    assert served("payment", 503, []) == {"auth": "fresh", "payments": "rejected"}


# The demo itself


def run_of_the_demo(*arguments: str, **environment: str) -> tuple[int, str]:
    """Exit status and output of a demo."""
    with started(*arguments, **environment) as demo:
        output, _ = demo.communicate(timeout=100)  # reads on, whatever it prints
        return demo.returncode, output


@pytest.mark.real_time
def test_a_short_demo_keeps_its_promises() -> None:
    """One upstream after the other is killed, frozen and failing, under real load."""
    status, output = run_of_the_demo("--faults", "3", "--seconds-per-fault", "2")
    assert status == 0, output
    for upstream in ("recommendations: killed", "auth: frozen", "payments: answers 60 %"):
        assert upstream in output


def test_without_the_library_the_demo_breaks_its_promises() -> None:
    """The same storefront with every guard turned off fails, and the exit status says so."""
    status, output = run_of_the_demo(
        "--faults", "1", "--seconds-per-fault", "1", RESILIENT_DISABLED="1"
    )
    assert status == 1, output
    assert "BROKEN  no request failed for an upstream that is not critical" in output


@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 128 + signal.SIGINT), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_no_process_outlives_the_demo(number: signal.Signals, status: int) -> None:
    """Neither Ctrl-C nor the sudden death of the demo leaves anything, not even what is frozen."""
    with started() as demo:
        assert demo.stdout is not None
        assert "four processes are up" in demo.stdout.readline()
        children = children_of(demo.pid)
        assert len(children) == 4
        os.kill(children[0], signal.SIGSTOP)
        demo.send_signal(number)
        assert demo.wait(PATIENCE) == status
        assert eventually(lambda: not any(map(is_alive, children))), "a process outlived the demo"


@contextmanager
def started(*arguments: str, **environment: str) -> Generator[subprocess.Popen[str]]:
    """The demo, running, and ended at the end if it has not ended by itself."""
    with subprocess.Popen(
        [sys.executable, DEMO, *arguments],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as demo:
        try:
            yield demo
        finally:
            demo.kill()


def children_of(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in found.split()]


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that nobody has waited for yet is dead all the same."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
