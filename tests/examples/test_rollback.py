"""A rollout, rehearsed: two processes, and a balancer that follows readiness."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.examples.balancer import Balancer
from tests.examples.deployed import ROOT, STOREFRONT, Pod
from tests.examples.upstream import ask
from tests.waiting import eventually


@pytest.fixture
def good(tmp_path: Path) -> Generator[Pod]:
    """The version that is running, ready for traffic."""
    with Pod(tmp_path) as pod:
        pod.wait_until_probed("readiness", 200)
        yield pod


@contextmanager
def visitors(balancer: Balancer) -> Generator[list[int]]:
    """Ask for pages until the block ends; the list has the status of each answer."""
    assert eventually(balancer.has_someone)
    answers: list[int] = []
    ended = threading.Event()

    def visit() -> None:
        while not ended.wait(0.01):
            answers.append(ask(f"{balancer.url}/product/1")[0])

    thread = threading.Thread(target=visit)
    thread.start()
    try:
        yield answers
    finally:
        ended.set()
        thread.join()


def broken_version(folder: Path) -> Path:
    """Return a copy of the storefront with a mistake in what makes its page."""
    copy = folder / "bad"
    shutil.copytree(STOREFRONT, copy, ignore=shutil.ignore_patterns("__pycache__", "deploy"))
    text = (copy / "storefront.py").read_text(encoding="utf-8")
    assert "visitor.price_cents," in text
    (copy / "storefront.py").write_text(text.replace("visitor.price_cents,", "visitor.price,"))
    return copy


def test_traffic_never_reaches_a_version_that_cannot_make_its_page(
    good: Pod, tmp_path: Path
) -> None:
    """Its readiness stays red though it is alive, and all visitors get the good one's pages.

    That the old version is still there, and goes on, is all that a rollout does by itself.
    """
    with (
        Balancer(good) as balancer,
        visitors(balancer) as answers,
        Pod(tmp_path, broken_version(tmp_path)) as bad,
    ):
        balancer.add(bad)
        assert eventually(lambda: "AttributeError" in bad.ask("ops", "/health/ready")[1])
        assert bad.ask("http", "/product/1")[0] == 500  # what visitors would have got
        seen, asked = balancer.probed[bad, 503], len(answers)
        assert eventually(
            lambda: balancer.probed[bad, 503] >= seen + 10 and len(answers) >= asked + 20
        )
        assert balancer.probed[bad, 200] == 0
        assert balancer.given[bad] == 0
        assert bad.probed("liveness") == 200  # a restart would not mend it

        balancer.remove(bad)  # what `kubectl rollout undo` comes to
        assert bad.end() == 0
        asked = len(answers)
        assert eventually(lambda: len(answers) >= asked + 20)
    assert set(answers) == {200}


def test_a_version_that_is_well_takes_over_without_a_failed_request(
    good: Pod, tmp_path: Path
) -> None:
    """The new one gets traffic when it is ready; then the old one ends, and nobody notices."""
    with (
        Pod(tmp_path) as new,
        Balancer(good) as balancer,
        visitors(balancer) as answers,
    ):
        balancer.add(new)
        assert eventually(lambda: balancer.given[new] >= 5)
        balancer.remove(good)
        asked = len(answers)
        # What was on its way: `preStop` waits for it.
        assert eventually(lambda: len(answers) >= asked + 2)
        assert good.end() == 0
        asked = len(answers)
        assert eventually(lambda: len(answers) >= asked + 20)
        assert balancer.is_ready(new)
    assert set(answers) == {200}


def test_the_page_says_what_a_deployment_does_not_do_and_what_does() -> None:
    """A stalled rollout is reported, not undone; the two lines that undo it are on the page."""
    page = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    assert "A rollout that fails is not rolled back." in page
    assert re.search(
        r"kubectl rollout status deployment/storefront [^\n]*\|\|\n"
        r" +kubectl rollout undo deployment/storefront\n",
        page,
    )
